"""Features brought to mean 0 and standard deviation 1 before they reach the decoder."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Standardize(nn.Module):
    """Subtracts the training set's mean and divides by its standard deviation, per channel or per unit.

    Where features vary little beside their mean, as an untrained network's fc8 does, a decoder fed with them raw shows the
    mean image because of scale, not because information was lost. The statistics are buffers, so they are kept in
    the decoder's checkpoint.

    Args:
        feature_shape: (C, H, W), standardised per channel, or (D,), per unit.
    """

    mean: Tensor
    std: Tensor
    fitted: Tensor

    def __init__(self, feature_shape: tuple[int, ...]) -> None:
        super().__init__()
        shape = (feature_shape[0],) + (1,) * (len(feature_shape) - 1)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))
        self.register_buffer("fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Takes the statistics of these features, (B, *feature_shape) each, in one pass (Chan et al. 1979, merged
        batch by batch in float64).

        A unit that never changes keeps its scale. One that hardly does would explode where an image moves it: no unit is
        divided by less than 1 % of the median deviation of those that change.
        """
        count, mean, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for features in batches:
            values = features.transpose(0, 1).flatten(1).cpu().double()  # (C, B * H * W); Apple's GPU has no float64
            n, batch_mean = values.shape[1], values.mean(1)
            squares = squares + (values - batch_mean[:, None]).square().sum(1)
            delta = batch_mean - mean
            squares = squares + delta.square() * (count * n / (count + n))
            mean = mean + delta * (n / (count + n))
            count += n
        if count == 0:
            raise ValueError("no features to standardise by")
        std = (squares / count).sqrt()
        varies = std > 1e-7 * mean.abs()
        std[varies] = std[varies].clamp_min(0.01 * std[varies].median())
        std[~varies] = 1
        self.mean.copy_(mean.view_as(self.mean))
        self.std.copy_(std.view_as(self.std))
        self.fitted.fill_(True)

    def forward(self, features: Tensor) -> Tensor:
        """(B, *feature_shape) -> the same shape."""
        return (features - self.mean) / self.std
