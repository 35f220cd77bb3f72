"""Losses: (prediction, target), both float images around [-1, 1], to a scalar.

Any callable works, such as torch's own, and gets both at the input's size, (B, 3, 227, 227). One with `resizes = True` gets
the prediction as `Decoder.predict` gives it and the target at the native size, and resizes them itself, as these do.
"""

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import total_variation

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.encoders.alexnet import Encoder


class MSELoss(nn.Module):
    """Mean squared error at 227 x 227, equal to `torch.nn.MSELoss`, without images of that size: `pixels.squared_distance`.
    Plus `tv` times the reconstruction's total variation: its `detail` at 227 x 227 (Rudin et al. 1992, here anisotropic).
    Raises InputError for a weight that is negative or not finite.
    """

    resizes = True

    def __init__(self, tv: float = 0.0) -> None:
        super().__init__()
        check_weights(tv=tv)
        self.tv = tv

    def distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(B, 3, s, s) and (B, 3, n, n) -> scalar, without the total variation."""
        return pixels.squared_distance(prediction, target).mean() / (target.shape[1] * pixels.INPUT_SIZE**2)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        loss = self.distance(prediction, target)
        if self.tv:
            loss = loss + self.tv * detail(pixels.resize(prediction, pixels.INPUT_SIZE))
        return loss


class PerceptualLoss(MSELoss):
    """feature_weight * sum ||C(x') - C(x)||^2 / sum ||C(x)||^2 + pixel_weight * mean squared error, with C the features of the
    frozen comparator, x the image and x' its reconstruction: equation 1 of Dosovitskiy & Brox 2016, "Generating Images with
    Perceptual Similarity Metrics based on Deep Networks" (arXiv 1602.02644), without its adversarial part. The division isn't
    in the paper; with it one weight fits every comparator.
    """

    def __init__(self, comparator: Encoder, feature_weight: float, pixel_weight: float, tv: float = 0.0) -> None:
        super().__init__(tv)
        check_weights(feature_weight=feature_weight, pixel_weight=pixel_weight)
        self.comparator = comparator
        self.feature_weight, self.pixel_weight = feature_weight, pixel_weight

    def distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.comparator(pixels.resize(target, pixels.INPUT_SIZE))
        difference = self.comparator(pixels.resize(prediction, pixels.INPUT_SIZE)) - features
        loss = self.feature_weight * difference.square().sum() / features.square().sum()
        return loss + self.pixel_weight * super().distance(prediction, target)


def detail(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, (B, 3, H, W) -> scalar."""
    return total_variation(images, reduction="mean") / (2 * images[0].numel())


def check_weights(**weights: float) -> None:
    """Raises InputError unless all are finite and at least 0."""
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise InputError(f"loss.{name}={weight} must be a finite number, at least 0.")
