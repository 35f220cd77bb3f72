"""See what a network keeps: images given back from the layers of a frozen AlexNet.

After A. Dosovitskiy, T. Brox, "Inverting Visual Representations with Convolutional Networks", CVPR 2016, arXiv 1506.02753.
"""

from typing import Any

from omegaconf import OmegaConf

from inversion.core.files import REPOSITORY

# Here, so that what notebooks compose from conf/ resolves.
OmegaConf.register_new_resolver("repository", lambda: str(REPOSITORY), replace=True)


def __getattr__(name: str) -> Any:
    """`load` and `read_images`, imported on first use: they need torch, which takes seconds, and `--help` doesn't."""
    if name in ("load", "read_images"):
        from inversion.results import trained

        return getattr(trained, name)
    raise AttributeError(f"module 'inversion' has no attribute {name!r}")
