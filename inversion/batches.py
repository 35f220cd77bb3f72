"""Batches: what the loaders give out, in which order and views, and shared out how between the processes of DDP."""

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


class View(NamedTuple):
    """One way in which every training image is shown."""

    copy: int
    """0: where it is; n: the n-th of its shifted copies."""
    mirrored: bool

    @property
    def name(self) -> str:
        """Such as `mirrored shifted-1 train`."""
        return "mirrored " * self.mirrored + f"shifted-{self.copy} " * (self.copy > 0) + "train"


class Views:
    """The views of the training images: each where it is and `shifted` times moved, and all of these mirrored with `flip`.

    Every image's every copy is moved by a number of pixels of its own, to the side and up or down, drawn from those up to
    `shift`; what is missing at the border is the image's reflection. The first view is the image itself.

    Args:
        number: of the images.
        flip, shifted, shift: see `ImageDataModule`; `shift` here in pixels.
    """

    def __init__(self, number: int, flip: bool = False, shifted: int = 0, shift: int = 0) -> None:
        self.views = [View(copy, mirrored) for copy in range(1 + shifted) for mirrored in (False, True)[: 1 + flip]]
        draws = [torch.Generator().manual_seed(copy) for copy in range(1 + shifted)]
        moves = [torch.randint(-shift, shift + 1, (number, 2), generator=draw) for draw in draws]
        moves[0] = torch.zeros_like(moves[0])
        self._moves = torch.stack(moves)

    def show(self, images: Tensor, indices: Tensor, views: Tensor) -> Tensor:
        """Some images in one view each.

        Args:
            images: (B, 3, n, n), as the data holds them.
            indices: int64 (B,), which images these are.
            views: int64 (B,), places in `self.views`.
        """
        side = images.shape[-1]
        copies, mirrored = (torch.tensor(kind, device=views.device)[views] for kind in zip(*self.views, strict=True))
        moves = self._moves.to(views.device)[copies, indices]
        steps = torch.arange(side, device=views.device)
        rows, columns = ((side - 1) - ((side - 1) - (steps + move[:, None]).abs()).abs() for move in moves.unbind(1))
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        pixels = (rows[:, :, None] * side + columns[:, None, :]).flatten(1)
        return images.flatten(2).gather(2, pixels[:, None].expand(-1, images.shape[1], -1)).view_as(images)


class ImageSet(Dataset[Batch]):
    """Images (N, 3, n, n), uint8, and their features if cached; gives out whole batches at once.

    Index N * v + i is image i in view v.

    Args:
        images, labels: of each image.
        features: in each view, in `views`' order; none where they are not cached.
        views: None for the images as they are.
    """

    def __init__(
        self, images: Tensor, labels: Sequence[int], features: Sequence[Tensor] = (), views: Views | None = None
    ) -> None:
        self.images = images
        self.labels = torch.tensor(labels, device=images.device)
        self.features = features
        self.views = views or Views(len(images))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        places = torch.tensor(indices, device=self.images.device, dtype=torch.long)
        views, chosen = places // len(self.images), places % len(self.images)
        images = self.images[chosen]
        if views.any():
            images = self.views.show(images, chosen, views)
        if not self.features:
            return Batch(images, None, self.labels[chosen])
        features = self.features[0].new_empty(len(chosen), *self.features[0].shape[1:])
        for view in views.unique().tolist():
            features[views == view] = self.features[view][chosen[views == view]]
        return Batch(images, features, self.labels[chosen])


class Shuffle(DistributedSampler[int]):
    """The training order, which depends on (seed, epoch) alone, so that a resumed run repeats it: what a "distributed"
    sampler gives on one device.

    Args:
        images: to draw from; each comes once an epoch, in a view drawn anew.
        seed: see above.
    """

    def __init__(self, images: ImageSet, seed: int) -> None:
        super().__init__(images, num_replicas=1, rank=0, seed=seed)
        self.number = len(images)
        self.views = len(images.views.views)

    def __iter__(self) -> Iterator[int]:
        dice = random.Random(f"{self.seed} {self.epoch}")
        return (index + self.number * dice.randrange(self.views) for index in super().__iter__())


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
