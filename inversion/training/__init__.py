"""One run, from its config to its scores."""

SWEPT_LAYERS = "INVERSION_SWEPT_LAYERS"
"""Environment variable: the layers that the sweep around a run goes over, with blanks between them."""
