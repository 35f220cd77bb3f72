"""See what a network keeps: images given back from the layers of a frozen AlexNet.

After A. Dosovitskiy and T. Brox, "Inverting Visual Representations with Convolutional Networks", CVPR 2016,
arXiv:1506.02753.
"""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
"""The folder that holds `train.py`, `conf/`, and by default `data/` and `outputs/`."""
