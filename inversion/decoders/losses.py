"""Losses: functions of (prediction, target), both float images around [-1, 1], to a scalar.

Any callable will do, such as torch's own, and is given both at the input's size, (B, 3, 227, 227). One that says
`resizes = True` takes them as they are, the prediction at the decoder's working size and the target at the native one, and
sees to the resize itself. All of those here do, and add a total-variation term where asked.
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
    difference between pixels that are neighbours, at 227 x 227 (Rudin et al. 1992, here anisotropic).

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
            shown = pixels.resize(prediction, pixels.INPUT_SIZE)
            loss = loss + self.tv * total_variation(shown, reduction="mean") / (2 * shown[0].numel())
        return loss


class MSELoss(ReconstructionLoss):
    """Mean squared error at 227 x 227, as `torch.nn.MSELoss` gives it, without drawing images of that size: see
    `pixels.squared_distance`.
    """

    def distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        return pixels.squared_distance(prediction, target).mean() / (target.shape[1] * pixels.INPUT_SIZE**2)


class L1Loss(ReconstructionLoss):
    """Mean absolute error at 227 x 227."""

    def distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        return l1_loss(pixels.resize(prediction, pixels.INPUT_SIZE), pixels.resize(target, pixels.INPUT_SIZE))


class PerceptualLoss(ReconstructionLoss):
    """Distance between what a network makes of the image and of the reconstruction, beside that of their pixels: Dosovitskiy
    & Brox 2016, "Generating Images with Perceptual Similarity Metrics based on Deep Networks" (arXiv 1602.02644), equation 1
    without its adversarial part.

    feature_weight * sum ||C(x') - C(x)||^2 / sum ||C(x)||^2 + pixel_weight * mean squared error

    The division, which the paper leaves to the weight, makes one weight fit every comparator.

    Args:
        comparator: C, a frozen network.
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
            wanted = self.comparator(pixels.resize(target, pixels.INPUT_SIZE))
        got = self.comparator(pixels.resize(prediction, pixels.INPUT_SIZE))
        loss = self.feature_weight * (got - wanted).square().sum() / wanted.square().sum()
        return loss + self.pixel_weight * self.mse(prediction, target)


def check_weight(name: str, value: float) -> None:
    """Raises InputError unless 0 <= value, and finite."""
    if not 0 <= value < float("inf"):
        raise InputError(f"{name}={value} must be a number, and at least 0.")
