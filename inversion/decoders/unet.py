"""A small U-Net that predicts a flow's velocity, conditioned on time and features."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pixel_shuffle, pixel_unshuffle, silu

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.decoders.base import check_number, check_numbers
from inversion.decoders.compact import separable_convolution
from inversion.encoders.alexnet import place

GROUP = 8  # channels of a group of the group normalisation


class UNet(nn.Module):
    """Images (B, inputs, n, n) -> (B, outputs, n, n), after Ronneberger et al. 2015 (arXiv 1505.04597), with the residual
    blocks and the conditioning of diffusion models (Dhariwal and Nichol 2021, arXiv 2105.05233). Blocks of `patch` x `patch`
    pixels become channels, so that the largest maps have about 32 pixels a side; each further size is half the one before.

    Args:
        feature_shape: of one image's features. Maps, in a ring of empty cells, and the 4x4 map that vectors make are brought
            to `condition` channels and added where they lie at each size; averaged to 4x4 they also join the time's embedding.
        channels: one width per size, largest size first, multiples of 8.
        depth: residual blocks at each size on the way down, and again on the way up.
        embedding: width of the embedding of time and features.
        dropout: share of the features dropped in training.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        native_size: int,
        feature_shape: Sequence[int],
        channels: Sequence[int],
        depth: Sequence[int],
        condition: int,
        embedding: int,
        dropout: float,
    ) -> None:
        super().__init__()
        check_numbers("decoder.channels", channels)
        check_numbers("decoder.depth", depth)
        if not channels or len(depth) != len(channels) or any(width % GROUP for width in channels):
            raise InputError(f"decoder.channels={channels} must be multiples of {GROUP}, decoder.depth={depth} as many.")
        check_number("decoder.condition", condition)
        check_number("decoder.embedding", embedding)
        self.patch = max(1, round(native_size / 32))
        self.multiple = self.patch * 2 ** (len(channels) - 1)
        side, self.is_of_maps = 4, len(feature_shape) == 3
        if len(feature_shape) == 1:
            self.to_map: nn.Module = nn.Sequential(
                nn.Dropout(dropout), nn.Linear(feature_shape[0], condition * side**2), nn.Unflatten(1, (condition, side, side))
            )
        else:
            self.to_map = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(feature_shape[0], condition, 1), nn.ZeroPad2d(1))
        self.of_map = nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(condition, condition, 3, padding=1), nn.LeakyReLU(0.2))
        self.of_features = nn.Sequential(nn.AdaptiveAvgPool2d(side), nn.Flatten(), nn.Linear(condition * side**2, embedding))
        self.of_time = nn.Sequential(nn.Linear(64, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.enter = nn.Conv2d(inputs * self.patch**2, channels[0], 3, padding=1)
        self.here = nn.ModuleList(nn.Conv2d(condition, width, 1) for width in channels)
        self.change = nn.ModuleList([nn.Identity(), *(nn.Conv2d(a, b, 1) for a, b in pairwise(channels))])
        numbered = list(zip(channels, depth, strict=True))
        self.down = nn.ModuleList(nn.ModuleList(Block(c, c, embedding) for _ in range(n)) for c, n in numbered)
        self.up = nn.ModuleList(nn.ModuleList(Block(2 * c, c, embedding) for _ in range(n)) for c, n in numbered)
        self.rise = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(channels))
        last = nn.Conv2d(channels[0], outputs * self.patch**2, 3, padding=1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.leave = nn.Sequential(nn.GroupNorm(channels[0] // GROUP, channels[0]), nn.SiLU(), last)

    def condition(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, *feature_shape) -> what `forward` is given of them: a map and an embedding."""
        maps = self.of_map(self.to_map(features))
        return maps, self.of_features(maps)

    def forward(self, x: Tensor, time: Tensor, condition: tuple[Tensor, Tensor]) -> Tensor:
        """Images (B, inputs, n, n), times (B,) in [0, 1] -> (B, outputs, n, n)."""
        n = x.shape[-1]
        padding = -n % self.multiple
        x = pixel_unshuffle(nn.functional.pad(x, (0, padding, 0, padding), mode="replicate"), self.patch)
        maps, of_features = condition
        embedding = silu(self.of_time(waves(time)) + of_features)
        extent = pixels.INPUT_SIZE * (n + padding) / n
        x, skips = self.enter(x), []
        for level, (here, change, blocks) in enumerate(zip(self.here, self.change, self.down, strict=True)):
            x = change(avg_pool2d(x, 2) if level else x)
            side, laid = x.shape[-1], here(maps)
            x = x + (place(laid, side, extent) if self.is_of_maps else pixels.resize(laid, side))
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, embedding)
                skips.append(x)
        for level, blocks in reversed(list(enumerate(self.up))):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(torch.cat([x, skips.pop()], 1), embedding)
            if level:
                x = interpolate(self.rise[level - 1](x), scale_factor=2.0, mode="nearest")
        return pixel_shuffle(0.1 * self.leave(x), self.patch)[..., :n, :n]


class Block(nn.Module):
    """x + conv(norm(conv(norm(x)))), the second norm modulated by the embedding: (B, inputs, h, w) -> (B, outputs, h, w)."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        first = nn.Sequential(*separable_convolution(inputs, outputs, 3, bias=True))
        self.first = nn.Sequential(nn.GroupNorm(inputs // GROUP, inputs), nn.SiLU(), first)
        self.norm = nn.GroupNorm(outputs // GROUP, outputs)
        self.modulate = nn.Linear(embedding, 2 * outputs)
        self.second = nn.Sequential(*separable_convolution(outputs, outputs, 3, bias=True))
        nn.init.zeros_(self.second[-1].weight)  # type: ignore[arg-type]
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulate(embedding)[..., None, None].chunk(2, dim=1)
        y = self.norm(self.first(x)) * (1 + scale) + shift
        return self.skip(x) + self.second(silu(y))


def waves(time: Tensor, number: int = 64) -> Tensor:
    """Times (B,) in [0, 1] -> sines and cosines of periods from 1/50 to 10, (B, number)."""
    frequencies = torch.logspace(math.log10(0.1), math.log10(50), number // 2, device=time.device)
    angles = 2 * math.pi * time[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)
