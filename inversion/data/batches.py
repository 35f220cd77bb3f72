"""Batches: what the loaders give out, in which order, and shared out how between the processes of DDP."""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset
from torch.utils.data.distributed import DistributedSampler


class Batch(NamedTuple):
    """What the loaders give out."""

    images: Tensor
    """uint8 (B, 3, n, n) from the loader; float (B, 3, n, n) in [-1, 1] once on the device: native, not yet resized."""
    features: Tensor | None
    """The encoder's features of these images, float (B, *feature_shape), where they are cached; else None."""
    labels: Tensor
    """int64 (B,): each image's class, as its place in the split's classes."""


class ImageSet(Dataset[Batch]):
    """Images (N, 3, n, n), uint8, and their features if cached; gives out whole batches at once.

    Index N + i is image i mirrored, left for right.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Sequence[int],
        features: Tensor | None = None,
        mirrored_features: Tensor | None = None,
    ) -> None:
        self.images = images
        self.labels = torch.tensor(labels, device=images.device)
        self.features = features
        self.mirrored_features = mirrored_features

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        number = len(self.images)
        chosen = torch.tensor(indices, device=self.images.device, dtype=torch.long)
        mirrored = torch.tensor(
            [i for i, index in enumerate(indices) if index >= number], device=chosen.device, dtype=torch.long
        )
        chosen %= number
        images = self.images[chosen]
        images[mirrored] = images[mirrored].flip(-1)
        features = None if self.features is None else self.features[chosen]
        if features is not None and self.mirrored_features is not None:
            features[mirrored] = self.mirrored_features[chosen[mirrored]]
        return Batch(images, features, self.labels[chosen])


class Shuffle(DistributedSampler[int]):
    """The training order, which depends on (seed, epoch) alone, so that a resumed run repeats it: what a "distributed"
    sampler gives on one device.

    Args:
        images: to draw from.
        seed: see above.
        flip: whether half of the images, drawn anew each epoch, are mirrored.
    """

    def __init__(self, images: ImageSet, seed: int, flip: bool) -> None:
        super().__init__(images, num_replicas=1, rank=0, seed=seed)
        self.number = len(images)
        self.flip = flip

    def __iter__(self) -> Iterator[int]:
        coin = random.Random(f"{self.seed} {self.epoch}")
        return (index + self.number * (self.flip and coin.getrandbits(1)) for index in super().__iter__())


class Shares(BatchSampler):
    """One process's images of every batch. All processes' shares make up the batches, no image left out or repeated, so those
    of a last batch may differ in size, and be empty.

    Args:
        batches: whole, the same in every process.
        rank: this process's, from 0.
        world_size: how many processes.
    """

    def __init__(self, batches: BatchSampler, rank: int, world_size: int) -> None:
        self.batches = batches
        self.sampler = batches.sampler  # where Lightning sets the epoch
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[list[int]]:
        return (batch[self.rank :: self.world_size] for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def whole(batch: Batch) -> Batch:
    """A loader's `collate_fn`: an `ImageSet` gives out batches that need no putting together."""
    return batch
