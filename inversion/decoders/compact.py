"""The default decoder, which works at the data's own resolution or below."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.decoders.base import Decoder, check_number, check_numbers
from inversion.encoders.alexnet import place


class CompactDecoder(Decoder):
    """Resize-convolutions (Odena et al. 2016, doi 10.23915/distill.00003) from the features' own grid to the data's
    resolution, or a share of it: no weight or time goes into interpolated pixels, little into large maps, and no checkerboards
    appear. Feature maps are brought to `channels[0]` by a 1x1 convolution, in a ring of empty cells for what lies outside;
    vectors pass through hidden layers (batch normalisation, LeakyReLU, dropout) and a linear one to a 4x4 map. Each size then
    has `depth` residual convolutions. Between sizes a 1x1 convolution changes the channels and a bilinear resize the
    side; the first lays maps where the encoder saw them (`place`). The last convolution is linear, and what it draws is
    enlarged to the images' size without a trace of its grid (`pixels.enlarge`).

    Args:
        channels: one width per size, smallest size first. Those before the last are evenly spaced, on a logarithmic scale,
            from that of the features (with their ring) to half of the last, if larger: 4, 8, 16 for a vector and 16.
        resolution: the last size, at which the image is drawn, as a share of `native_size`.
        depth: number of residual convolutions at each size, 0 or more.
        separable: whether each of these is a depthwise and a 1x1 convolution (Chollet 2017, arXiv 1610.02357).
        bottleneck, hidden, dropout: width and number of the hidden layers, and the share of their units dropped in training;
            None for feature maps.
        kernel, slope: side of all kernels but the 1x1 ones, odd; LeakyReLU's negative slope.
    """

    def __init__(
        self,
        feature_shape: Sequence[int],
        native_size: int,
        *,
        channels: Sequence[int],
        depth: Sequence[int],
        resolution: float = 1.0,
        separable: bool = True,
        bottleneck: int | None = None,
        hidden: int | None = None,
        dropout: float | None = None,
        kernel: int = 3,
        slope: float = 0.2,
    ) -> None:
        super().__init__(feature_shape, native_size)
        check_numbers("decoder.channels", channels)
        check_numbers("decoder.depth", depth, least=0)
        if not channels or len(depth) != len(channels):
            raise InputError(f"decoder.depth={depth} and decoder.channels={channels} must be of the same length, at least 1.")
        check_number("decoder.kernel", kernel, odd=True)
        if not 0 < resolution <= 1:
            raise InputError(f"decoder.resolution={resolution} must be a share of the images' own, in (0, 1].")
        width, first = self.feature_shape[0], channels[0]
        if len(self.feature_shape) == 3:
            for name, value in {"bottleneck": bottleneck, "hidden": hidden, "dropout": dropout}.items():
                if value is not None:
                    raise InputError(f"decoder.{name}={value} is for features that are a vector, not for maps: leave it null.")
            side = self.feature_shape[1] + 2
            self.enter: nn.Module = nn.Sequential(nn.Conv2d(width, first, 1), nn.ZeroPad2d(1))
        else:
            bottleneck = check_number("decoder.bottleneck", bottleneck)
            hidden = check_number("decoder.hidden", hidden)
            if not isinstance(dropout, float | int) or not 0 <= dropout < 1:
                raise InputError(f"decoder.dropout={dropout} must be a number in [0, 1).")
            side = 4
            layers: list[nn.Module] = []
            for _ in range(hidden):
                layers += [nn.Linear(width, bottleneck, bias=False), nn.BatchNorm1d(bottleneck)]
                layers += [nn.LeakyReLU(slope, inplace=True), nn.Dropout(dropout)]
                width = bottleneck
            self.enter = nn.Sequential(*layers, nn.Linear(width, first * side**2), nn.Unflatten(1, (first, side, side)))
        last = max(1, round(native_size * resolution))
        self.sizes = [*sizes_between(side, max(min(side, last), math.ceil(last / 2)), len(channels) - 1), last]
        self.change = nn.ModuleList([nn.Identity(), *(nn.Conv2d(a, b, 1) for a, b in pairwise(channels))])
        residuals = ([Residual(c, kernel, slope, separable) for _ in range(n)] for c, n in zip(channels, depth, strict=True))
        self.refine = nn.ModuleList(nn.Sequential(*layers) for layers in residuals)
        self.leave = nn.Sequential(nn.LeakyReLU(slope, inplace=True), nn.Conv2d(channels[-1], 3, kernel, padding=kernel // 2))

    def predict(self, features: Tensor) -> Tensor:
        x, is_placed = self.enter(features), len(self.feature_shape) == 1
        for size, change, refine in zip(self.sizes, self.change, self.refine, strict=True):
            x = change(x)
            if x.shape[-1] != size:
                x, is_placed = (pixels.resize if is_placed else place)(x, size), True  # maps are placed once
            x = refine(x)
        return (pixels.enlarge if is_placed else place)(self.leave(x), self.native_size)


class Residual(nn.Module):
    """x + LeakyReLU(norm(conv(x))); (B, C, H, W) -> the same shape."""

    def __init__(self, width: int, kernel: int, slope: float, separable: bool) -> None:
        super().__init__()
        if separable:
            convolution = separable_convolution(width, width, kernel, bias=False)
        else:
            convolution = [nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False)]
        self.branch = nn.Sequential(*convolution, nn.BatchNorm2d(width), nn.LeakyReLU(slope, inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def separable_convolution(inputs: int, outputs: int, kernel: int, bias: bool) -> list[nn.Conv2d]:
    """A depthwise and a 1x1 convolution (Chollet 2017, arXiv 1610.02357), only the latter with a bias, if any."""
    depthwise = nn.Conv2d(inputs, inputs, kernel, padding=kernel // 2, groups=inputs, bias=False)
    return [depthwise, nn.Conv2d(inputs, outputs, 1, bias=bias)]


def sizes_between(first: int, last: int, number: int) -> list[int]:
    """`number` sizes from `first` to `last`, evenly spaced on a logarithmic scale and rounded; only `last` if it is one."""
    ratio = (last / first) ** (1 / max(1, number - 1))
    return [round(first * ratio**i) for i in range(number - 1)] + [last] * (number > 0)
