"""Features brought to mean 0 and standard deviation 1, and optionally whitened, before they reach the decoder."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

FLOOR = 0.01
"""Added to variances before whitening divides by their root; a standardised unit's is 1."""


class Standardize(nn.Module):
    """Subtracts the training set's mean and divides by its standard deviation, per channel of maps or per unit of vectors:
    where features vary little around their mean, as an untrained network's fc8 does, a decoder of the raw ones shows the mean
    image because of scale, not because information was lost. The statistics are part of checkpoints.

    With `whiten`, units are then decorrelated, each staying as close to itself as possible (ZCA, Bell and Sejnowski 1997).
    fc8's units mostly share one signal; images differ in small deviations from it, which a decoder learns late unless they are
    brought to the same scale. Directions with a variance below `FLOOR` are amplified less: they may hold only noise.
    """

    mean: Tensor
    std: Tensor
    fitted: Tensor
    whitening: Tensor

    def __init__(self, feature_shape: tuple[int, ...], whiten: bool = False) -> None:
        super().__init__()
        self.whiten = whiten
        if whiten:
            self.register_buffer("whitening", torch.eye(feature_shape[0]))
        shape = (feature_shape[0], *[1] * (len(feature_shape) - 1))
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))
        self.register_buffer("fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Takes the statistics of these features, (B, *feature_shape) each, at least one, in one pass that merges batches in
        float64 (Chan et al. 1979). A constant unit keeps its scale; so that a nearly constant one doesn't explode on an image
        that does move it, none is divided by less than 1 % of the median deviation of those that vary.
        """
        count, mean, products = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for features in batches:
            values = features.transpose(0, 1).flatten(1).cpu().double()  # (C, B * H * W); Apple's GPU has no float64
            n, batch_mean = values.shape[1], values.mean(1)
            delta = batch_mean - mean
            products = products + self._products(values - batch_mean[:, None])
            products = products + self._products(delta[:, None]) * (count * n / (count + n))
            mean = mean + delta * (n / (count + n))
            count += n
        squares = products.diagonal() if self.whiten else products
        std = (squares / count).sqrt()
        varies = std > 1e-7 * mean.abs()
        std[varies] = std[varies].clamp_min(0.01 * std[varies].median())
        std[~varies] = 1
        self.mean.copy_(mean.view_as(self.mean))
        self.std.copy_(std.view_as(self.std))
        if self.whiten:
            variances, directions = torch.linalg.eigh(products / count / std / std[:, None])
            self.whitening.copy_(directions / (variances.clamp_min(0) + FLOOR).sqrt() @ directions.T)
        self.fitted.fill_(True)

    def _products(self, values: Tensor) -> Tensor:
        """Values (C, n) -> the sums of products of all pairs of channels (C, C), or of their squares alone (C,)."""
        return values @ values.T if self.whiten else values.square().sum(1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, *feature_shape) -> the same shape."""
        standardized = (features - self.mean) / self.std
        if not self.whiten:
            return standardized
        with torch.autocast(features.device.type, enabled=False):  # small differences of large numbers
            return torch.einsum("ij,bj...->bi...", self.whitening, standardized.float())
