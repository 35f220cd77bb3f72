"""The command line and the sweep: options checked, jobs run, failures reported."""
