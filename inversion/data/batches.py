"""Batches: what the loaders give out, and in which order."""

import random
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler


class Batch(NamedTuple):
    """What the loaders give out."""

    images: Tensor
    """uint8 (B, 3, n, n) from the loader; float (B, 3, n, n) in [-1, 1] on the device: native size, not yet resized."""
    features: Tensor | None
    """The encoder's features of these images, float (B, *feature_shape), if they are cached."""
    labels: Tensor
    """int64 (B,): each image's class, as an index into the split's classes."""


class ImageSet(Dataset[Batch]):
    """Images (N, 3, n, n), uint8, with their cached features if there are any; gives out a batch at once.

    Index N + i is image i mirrored, left for right.
    """

    def __init__(
        self, images: Tensor, labels: Sequence[int], features: Tensor | None = None, mirrored_features: Tensor | None = None
    ) -> None:
        self.images = images
        self.labels = torch.tensor(labels, device=images.device)
        self.features = features
        self.mirrored_features = mirrored_features

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Batch:
        number = len(self.images)
        chosen = torch.tensor(indices, device=self.images.device, dtype=torch.long)
        mirrored = (chosen >= number).nonzero().flatten()
        chosen %= number
        images = self.images[chosen]
        images[mirrored] = images[mirrored].flip(-1)
        features = None if self.features is None else self.features[chosen]
        if features is not None and self.mirrored_features is not None:
            features[mirrored] = self.mirrored_features[chosen[mirrored]]
        return Batch(images, features, self.labels[chosen])


class Shuffle(Sampler[int]):
    """The training order, a function of (seed, epoch) alone, so that a resumed run repeats it.

    With `flip`, half of the images, drawn anew each epoch, come mirrored: as index + `number`.
    """

    def __init__(self, number: int, seed: int, flip: bool) -> None:
        self.number, self.seed, self.flip = number, seed, flip
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls it before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.number, generator=torch.Generator().manual_seed(hashed_seed(self.seed, self.epoch)))
        coin = random.Random(f"{self.seed} {self.epoch}")
        return (index + self.number * (self.flip and coin.getrandbits(1)) for index in order.tolist())


def hashed_seed(*parts: int) -> int:
    """A seed in [0, 2^32) from several numbers, unrelated for neighbouring ones."""
    return int.from_bytes(sha256(" ".join(map(str, parts)).encode()).digest()[:4], "big")
