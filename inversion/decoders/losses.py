"""Losses: (prediction, target), both float images around [-1, 1], to a scalar.

Any callable works, such as torch's own, and gets both at the input's size, (B, 3, 227, 227). One with `resizes = True` gets
the prediction at the decoder's working size and the target at the native one, and resizes them itself, as all of these do.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss
from torchmetrics.functional.image import total_variation

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.encoders.alexnet import Encoder


class ReconstructionLoss(nn.Module, ABC):
    """A distance between image and reconstruction, plus `tv` times the reconstruction's total variation: the mean absolute
    difference between neighbouring pixels, at 227 x 227 (Rudin et al. 1992, here anisotropic).

    Raises:
        InputError: a negative weight.
    """

    resizes = True

    def __init__(self, tv: float = 0.0) -> None:
        super().__init__()
        check_weight("loss.tv", tv)
        self.tv = tv

    @abstractmethod
    def distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(B, 3, s, s) and (B, 3, n, n) -> scalar."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(B, 3, s, s) and (B, 3, n, n) -> scalar."""
        loss = self.distance(prediction, target)
        if self.tv:
            resized = pixels.resize(prediction, pixels.INPUT_SIZE)
            loss = loss + self.tv * total_variation(resized, reduction="mean") / (2 * resized[0].numel())
        return loss


class MSELoss(ReconstructionLoss):
    """Mean squared error at 227 x 227, equal to `torch.nn.MSELoss`, without images of that size: `pixels.squared_distance`."""

    def distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        return pixels.squared_distance(prediction, target).mean() / (target.shape[1] * pixels.INPUT_SIZE**2)


class L1Loss(ReconstructionLoss):
    """Mean absolute error at 227 x 227."""

    def distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        return l1_loss(pixels.resize(prediction, pixels.INPUT_SIZE), pixels.resize(target, pixels.INPUT_SIZE))


class PerceptualLoss(ReconstructionLoss):
    """Distance between features of image x and reconstruction x', plus that of their pixels: Dosovitskiy & Brox 2016,
    "Generating Images with Perceptual Similarity Metrics based on Deep Networks" (arXiv 1602.02644), equation 1 without its
    adversarial part.

    feature_weight * sum ||C(x') - C(x)||^2 / sum ||C(x)||^2 + pixel_weight * mean squared error

    The division isn't in the paper; with it one weight fits every comparator.

    Args:
        comparator: C, frozen.
        feature_weight, pixel_weight: of the two terms.
        tv: see `ReconstructionLoss`.
    """

    def __init__(self, comparator: Encoder, feature_weight: float, pixel_weight: float, tv: float = 0.0) -> None:
        super().__init__(tv)
        check_weight("loss.feature_weight", feature_weight)
        check_weight("loss.pixel_weight", pixel_weight)
        self.comparator = comparator
        self.feature_weight, self.pixel_weight = feature_weight, pixel_weight
        self.mse = MSELoss()

    def distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.comparator(pixels.resize(target, pixels.INPUT_SIZE))
        difference = self.comparator(pixels.resize(prediction, pixels.INPUT_SIZE)) - features
        loss = self.feature_weight * difference.square().sum() / features.square().sum()
        return loss + self.pixel_weight * self.mse(prediction, target)


def check_weight(name: str, value: float) -> None:
    """Raises InputError unless this is finite and at least 0."""
    if not 0 <= value < float("inf"):
        raise InputError(f"{name}={value} must be a finite number, at least 0.")
