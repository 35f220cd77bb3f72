"""Decoders: from one layer's features back to the image.

Every decoder is built with `(feature_shape, native_size, output_size)` and its own options. Its `predict` takes features
(B, *feature_shape) and gives images at its working size, linear, meant to lie in [-1, 1]. Called, it clamps and resizes them
to (B, 3, output_size, output_size): that is what is scored and shown. What is trained are its `predictions`: that image alone, or
those that it is the mean of.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.decoders.batch_norm import BatchNorm


class Decoder(nn.Module, ABC):
    """What all decoders share: a body that draws at its own working size, then the resize the images went through.

    Args:
        feature_shape: one image's features, (C, H, W) or (D,).
        native_size: side of the images as the data holds them, in pixels.
        output_size: side of the reconstruction, in pixels.

    Raises:
        InputError: options that don't fit together.
    """

    standardized: bool | str = True
    """What the decoder wants its features to pass through where nothing else is said: True or False (standardised or raw), or
    `whiten`, see `Standardize`.
    """

    def __init__(self, feature_shape: Sequence[int], native_size: int, output_size: int) -> None:
        super().__init__()
        self.feature_shape = tuple(feature_shape)
        self.native_size = native_size
        self.output_size = output_size

    @abstractmethod
    def predict(self, features: Tensor) -> Tensor:
        """Features (B, *feature_shape) -> images (B, 3, s, s) at the decoder's working size s."""

    def predictions(self, features: Tensor) -> list[Tensor]:
        """The images whose mean `predict` gives, each (B, 3, s, s); what is trained on is the mean of their losses."""
        return [self.predict(features)]

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, *feature_shape) -> images (B, 3, output_size, output_size), as they are scored and shown: within
        [-1, 1].
        """
        return pixels.resize(self.predict(features).float().clamp(-1, 1), self.output_size)


class PublishedDecoder(Decoder):
    """The published decoders: 5x5 stride-2 up-convolutions, LeakyReLU, the result resized to the input's size.

    Feature maps first pass through `channels` of 3x3 convolutions; vectors through `hidden` fully connected layers and a
    reshape to `start` channels of 4x4. The published code's activation on the last layer is left out, since targets lie
    in [-1, 1]. The working size follows from the features (13 -> 416, 6 -> 192, 4 -> 128), not from `native_size`.

    Args:
        channels: output channels of the 3x3 convolutions (feature maps only).
        hidden: widths of the fully connected layers (vectors only); the last must be 16 x `start`.
        start: channels of the 4x4 map the last fully connected layer is reshaped to (vectors only).
        up_channels: output channels of the up-convolutions; the last must be 3.
        kernel, up_kernel: sides of the convolutions' and of the up-convolutions' kernels, odd.
        slope: LeakyReLU's negative slope.
    """

    standardized = False

    def __init__(
        self,
        feature_shape: Sequence[int],
        native_size: int,
        output_size: int,
        *,
        up_channels: Sequence[int],
        channels: Sequence[int] = (),
        hidden: Sequence[int] = (),
        start: int = 256,
        kernel: int = 3,
        up_kernel: int = 5,
        slope: float = 0.2,
    ) -> None:
        super().__init__(feature_shape, native_size, output_size)
        check_widths("decoder.up_channels", up_channels)
        check_widths("decoder.channels", channels, may_be_empty=True)
        check_widths("decoder.hidden", hidden, may_be_empty=True)
        check_kernel("decoder.kernel", kernel)
        check_kernel("decoder.up_kernel", up_kernel)
        check_slope(slope)
        if up_channels[-1] != 3:
            raise InputError(f"decoder.up_channels={list(up_channels)} must end with 3, the image's colours.")
        layers: list[nn.Module] = []
        width = self.feature_shape[0]
        if len(self.feature_shape) == 1:
            if not hidden or hidden[-1] != start * 16:
                raise InputError(
                    f"decoder.hidden={list(hidden)} must end with {start * 16}, for it is reshaped to {start} channels "
                    "of 4x4 (decoder.start)."
                )
            for out in hidden:
                layers += [nn.Linear(width, out), nn.LeakyReLU(slope)]
                width = out
            layers.append(nn.Unflatten(1, (start, 4, 4)))
            width = start
        for out in channels:
            layers += [nn.Conv2d(width, out, kernel, padding=kernel // 2), nn.LeakyReLU(slope)]
            width = out
        for out in up_channels:
            up = nn.ConvTranspose2d(width, out, up_kernel, stride=2, padding=up_kernel // 2, output_padding=1)
            layers += [up, nn.LeakyReLU(slope)]
            width = out
        self.body = nn.Sequential(*layers[:-1])

    def predict(self, features: Tensor) -> Tensor:
        return self.body(features)


class CompactDecoder(Decoder):
    """The default: resize-convolutions (Odena et al. 2016, doi 10.23915/distill.00003) from the features' own grid to the
    data's own resolution, so nothing is spent on interpolated pixels, little on large maps, and nothing checkers.

    Feature maps are brought to `channels[0]` by a 1x1 convolution; vectors pass through hidden layers (batch normalisation,
    LeakyReLU, dropout) and a linear one to a 4x4 map. Each size then has `depth` residual convolutions (batch normalisation,
    LeakyReLU); between sizes a 1x1 convolution changes the channels and a bilinear resize the side. The last convolution, at
    `native_size`, is linear.

    Several such networks can be trained side by side, on the mean of their losses, and the mean of their images is drawn: they
    differ where the training images leave a choice, and the squared error of the mean is at most the mean of theirs (Hansen
    and Salamon 1990, doi 10.1109/34.58871).

    Args:
        channels: one width per size, smallest size first. The last size is `native_size`; those before it lie evenly, on a
            logarithmic scale, between that of the features and half of `native_size`: five widths, a vector and 64 pixels
            make 4, 8, 16, 32, 64.
        bottleneck: width of the hidden layers that vectors pass through; unused (null) for feature maps.
        hidden: number of these layers.
        dropout: share of their units that is left out in training.
        standardized: what features best pass through: True or False (standardised or raw), or `whiten`, see `Standardize`.
        depth: residual convolutions at each size; 0 for none.
        kernel: side of all kernels but the 1x1 ones', odd.
        slope: LeakyReLU's negative slope.
        members: number of networks.
    """

    def __init__(
        self,
        feature_shape: Sequence[int],
        native_size: int,
        output_size: int,
        *,
        channels: Sequence[int],
        bottleneck: int | None = None,
        hidden: int = 1,
        dropout: float = 0.0,
        standardized: bool | str = True,
        depth: Sequence[int],
        kernel: int = 3,
        slope: float = 0.2,
        members: int = 1,
    ) -> None:
        super().__init__(feature_shape, native_size, output_size)
        check_widths("decoder.channels", channels)
        check_list("decoder.depth", depth)
        check_kernel("decoder.kernel", kernel)
        check_slope(slope)
        if standardized not in (True, False, "whiten"):
            raise InputError(f"decoder.standardized={standardized} must be true, false or whiten.")
        self.standardized = standardized
        if not isinstance(hidden, int) or hidden < 1:
            raise InputError(f"decoder.hidden={hidden} must be a whole number, at least 1.")
        if not isinstance(members, int) or members < 1:
            raise InputError(f"decoder.members={members} must be a whole number, at least 1.")
        if not 0 <= dropout < 1:
            raise InputError(f"decoder.dropout={dropout} must lie in [0, 1).")
        if len(depth) != len(channels) or not all(isinstance(number, int) and number >= 0 for number in depth):
            raise InputError(
                f"decoder.depth={list(depth)} must have a whole number for each width of decoder.channels={list(channels)}."
            )
        width, first = self.feature_shape[0], channels[0]
        side = self.feature_shape[1] if len(self.feature_shape) == 3 else 4
        self.sizes = [*sizes_between(side, math.ceil(native_size / 2), len(channels) - 1), native_size]
        if len(self.feature_shape) == 1:
            if bottleneck is None:
                raise InputError("decoder.bottleneck must be a width: this layer's features are a vector.")
            check_widths("decoder.bottleneck", [bottleneck])
            layers: list[nn.Module] = []
            for _ in range(hidden):
                layers += [nn.Linear(width, bottleneck, bias=False), BatchNorm(bottleneck), nn.LeakyReLU(slope)]
                layers += [nn.Dropout(dropout)] if dropout else []
                width = bottleneck
            layers += [nn.Linear(width, first * side * side), nn.Unflatten(1, (first, side, side))]
            self.enter: nn.Module = nn.Sequential(*layers)
        elif bottleneck is not None:
            raise InputError(f"decoder.bottleneck={bottleneck} has no place here: this layer's features are a map; use null.")
        else:
            self.enter = nn.Conv2d(width, first, 1)
        self.change = nn.ModuleList(
            [nn.Identity()] + [nn.Conv2d(a, b, 1) for a, b in zip(channels, channels[1:], strict=False)]
        )
        self.refine = nn.ModuleList(
            nn.Sequential(*(Residual(width, kernel, slope) for _ in range(n)))
            for width, n in zip(channels, depth, strict=True)
        )
        self.leave = nn.Sequential(nn.LeakyReLU(slope), nn.Conv2d(channels[-1], 3, kernel, padding=kernel // 2))
        self.others = nn.ModuleList(
            CompactDecoder(
                feature_shape,
                native_size,
                output_size,
                channels=channels,
                bottleneck=bottleneck,
                hidden=hidden,
                dropout=dropout,
                depth=depth,
                kernel=kernel,
                slope=slope,
            )
            for _ in range(members - 1)
        )

    def predict(self, features: Tensor) -> Tensor:
        return torch.stack(self.predictions(features)).mean(0, dtype=torch.float32)

    def predictions(self, features: Tensor) -> list[Tensor]:
        """One of each network."""
        networks = cast(list[CompactDecoder], [self, *self.others])
        return [network._predict(features) for network in networks]

    def _predict(self, features: Tensor) -> Tensor:
        x = self.enter(features)
        for size, change, refine in zip(self.sizes, self.change, self.refine, strict=True):
            x = refine(pixels.resize(change(x), size))
        return self.leave(x)


def sizes_between(first: int, last: int, number: int) -> list[int]:
    """`number` sizes from `first` to `last`, evenly spaced on a logarithmic scale and rounded; only `last` if it is one."""
    ratio = (last / first) ** (1 / max(1, number - 1))
    return [round(first * ratio**i) for i in range(number - 1)] + [last] * (number > 0)


class Residual(nn.Module):
    """x + LeakyReLU(norm(conv(x))); (B, C, H, W) -> the same shape."""

    def __init__(self, width: int, kernel: int, slope: float) -> None:
        super().__init__()
        convolution = nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False)
        self.branch = nn.Sequential(convolution, BatchNorm(width), nn.LeakyReLU(slope))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def check_widths(name: str, widths: Sequence[int], may_be_empty: bool = False) -> None:
    """Raises InputError unless these are positive whole numbers, at least one."""
    check_list(name, widths)
    if not (widths or may_be_empty) or not all(isinstance(width, int) and width > 0 for width in widths):
        raise InputError(f"{name}={list(widths)} must hold positive whole numbers.")


def check_list(name: str, values: object) -> None:
    """Raises InputError unless it is a list."""
    if not isinstance(values, list | tuple):
        raise InputError(f"{name}={values} must be a list, as in {name}=[64,32].")


def check_kernel(name: str, side: int) -> None:
    """Raises InputError unless it is a positive odd whole number, so that a convolution can keep the size."""
    if not isinstance(side, int) or side < 1 or side % 2 == 0:
        raise InputError(f"{name}={side} must be an odd whole number, such as 3.")


def check_slope(slope: float) -> None:
    """Raises InputError unless 0 <= slope < 1."""
    if not 0 <= slope < 1:
        raise InputError(f"decoder.slope={slope} must lie in [0, 1).")
