"""Finished runs: found, loaded, drawn and tabulated."""
