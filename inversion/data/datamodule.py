"""The LightningDataModules: a split's images decoded once, held as bytes, and handed out in batches."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from statistics import median

import numpy as np
import PIL
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.core.files import expand
from inversion.core.images import BrokenImagesError, decode, opened, refuse, state_of
from inversion.data.batches import Batch, ImageSet, Shares, Shuffle, whole
from inversion.data.cache import Cache, Entry
from inversion.data.split import Split
from inversion.encoders.alexnet import Encoder

log = logging.getLogger(__name__)

SMALLEST = 16
"""Smallest native size in pixels; SSIM's window is 11 wide."""

MIRRORED = "mirrored train"


class ImageDataModule(LightningDataModule, ABC):
    """What every source of images shares.

    Each file is decoded once into one uint8 array at the data's native size; batches are normalised, and resized where a
    resized image is needed, whole and on the device that trains.

    Args:
        batch_size: images per batch, of every loader; under DDP those of all devices together.
        shuffle_seed: of the training order and the flips, which depend on it and the epoch alone.
        flip: whether each training image is shown mirrored, left for right, in half of the epochs; its mirrored features are
            cached as well.
        native_size: side in pixels at which images are held; None takes the median shorter side of (a thousand of) the
            training images, within 16 to 227. An image of another size is resized (shorter side) and cropped to its middle.
        cache: folder for decoded images and features, see `Cache`. None holds images in memory, and no features.
        feature_type: how features are stored: float16, or float32, as the encoder gave them.
        feature_gib: features that would take more are computed with every batch instead.
        resident: share of a GPU's free memory that images and features may take; what fits trains without being copied.
    """

    def __init__(
        self,
        batch_size: int = 64,
        shuffle_seed: int = 0,
        flip: bool = False,
        native_size: int | None = None,
        cache: str | None = None,
        feature_type: str = "float16",
        feature_gib: float = 20,
        resident: float = 0.5,
    ) -> None:
        super().__init__()
        if batch_size < 2:
            raise InputError(f"data.batch_size={batch_size} must be at least 2, for batch normalisation.")
        sizes = range(SMALLEST, pixels.INPUT_SIZE + 1)
        if native_size is not None and (not isinstance(native_size, int) or native_size not in sizes):
            raise InputError(
                f"data.native_size={native_size} must be a whole number between {SMALLEST} and {pixels.INPUT_SIZE}, AlexNet's "
                "input size, or null to follow the data."
            )
        if feature_type not in ("float16", "float32"):
            raise InputError(f"data.feature_type={feature_type} must be float16 or float32.")
        if not 0 <= resident < 1:
            raise InputError(f"data.resident={resident} must lie in [0, 1).")
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.flip = flip
        self._native_size = native_size
        self.cache = None if cache is None else Cache(expand(cache))
        self.feature_type = feature_type
        self.feature_gib = feature_gib
        self.resident = resident
        self._split: Split | None = None
        self._images: dict[str, Tensor] = {}
        self._features: dict[str, Tensor] = {}
        self._entries: dict[str, Entry] = {}

    @abstractmethod
    def find_split(self) -> Split:
        """Reads from disk which files there are and draws the split. Raises InputError."""

    @property
    def split(self) -> Split:
        """The split; found on first use."""
        if self._split is None:
            self._split = self.find_split()
        return self._split

    @property
    def native_size(self) -> int:
        """Side in pixels of the images as they are held."""
        if self._native_size is None:
            sides = []
            for name in self.split.train[:: -(-len(self.split.train) // 1000)]:
                with suppress(BrokenImagesError), opened(self.split.root / name) as image:  # decoding names the broken ones
                    sides.append(min(image.size))
            self._native_size = min(pixels.INPUT_SIZE, max(SMALLEST, int(median(sides or [0]))))
        return self._native_size

    def images(self, part: str) -> Tensor:
        """The images of `train`, `val` or `test`: uint8, (N, 3, native_size, native_size). Decoded on first use.

        Raises:
            InputError: a file that is no image, or a broken one.
        """
        if part not in self._images:
            paths = [self.split.root / name for name in self.split.files(part)]
            among = [self.split.root / name for name in (*self.split.train, *self.split.val, *self.split.test)]
            description = f"Decoding {len(paths)} {part} images"
            if self.cache is None:
                held = torch.empty(len(paths), 3, self.native_size, self.native_size, dtype=torch.uint8)
                decode(paths, held.numpy(), description, among)
            else:
                entry = self._entry(part)
                (held,) = self.cache.get([entry], lambda arrays: decode(paths, arrays[entry.name], description, among))
            self._images[part] = held
        return self._images[part]

    def digest_of_images(self, part: str) -> str:
        """SHA-256 of the decoded images, in the split's order."""
        return sha256(self.images(part).cpu().numpy().data).hexdigest()

    def _entry(self, part: str) -> Entry:
        """The decoded images in the cache: they depend on the files, their sizes and times of change, and on Pillow."""
        if part not in self._entries:
            files = self.split.files(part)
            states = [state_of(self.split.root / name) for name in files]
            key = {"root": str(self.split.root), "files": files, "states": states, "pillow": PIL.__version__}
            shape = (len(files), 3, self.native_size, self.native_size)
            self._entries[part] = Entry(f"{part} images", key, shape, "uint8")
        return self._entries[part]

    @property
    def _encoded(self) -> tuple[str, ...]:
        """The parts whose features are cached."""
        return ("train", "val", MIRRORED) if self.flip else ("train", "val")

    def _feature_entry(self, part: str, encoder: Encoder, layer: str) -> Entry:
        source = "train" if part == MIRRORED else part
        key = {"images": self._entry(source).digest, "encoder": encoder.digest_of(layer)}
        if part == MIRRORED:
            key["mirrored"] = "left for right"
        shape = (len(self.split.files(source)), *encoder.shape_of(layer))
        return Entry(f"{layer} {part} features", key, shape, self.feature_type)

    def can_cache(self, encoder: Encoder) -> bool:
        """Whether there is a cache, and the encoder's features are within `feature_gib`."""
        entry = self._feature_entry("train", encoder, encoder.layer)
        return self.cache is not None and entry.nbytes <= self.feature_gib * 2**30

    def has_features(self, encoder: Encoder) -> bool:
        """Whether the encoder's features of training and validation images lie in the cache."""
        entries = [self._feature_entry(part, encoder, encoder.layer) for part in self._encoded]
        return self.cache is not None and self.cache.holds(entries)

    def cache_features(self, encoder: Encoder, layers: Sequence[str], device: torch.device) -> None:
        """Has the loaders give out `layers[0]`'s features of the training (with `flip` also mirrored) and validation images,
        computed once.

        Those of the other layers are computed in the same pass and left in the cache for the runs that will want them.
        Does nothing without a cache, and says so where the features would take too much room.

        Args:
            encoder: on `device`; none of the layers is deeper than its own.
            layers: the run's own layer, then others.

        Raises:
            InputError: features too large for float16.
        """
        if self.cache is None:
            return
        parts = self._encoded
        self.setup("fit")  # the cache is locked while it is filled
        entries = {(part, layer): self._feature_entry(part, encoder, layer) for layer in layers for part in parts}
        own = [entries[part, layers[0]] for part in parts]
        if own[0].nbytes > self.feature_gib * 2**30 or not self.cache.has_room(own):
            size = sum(entry.nbytes for entry in own) / 2**30
            log.info(
                f"The features of {layers[0]} would take {size:.1f} GiB, more than data.feature_gib or the disk allow: they "
                "are computed with every batch instead."
            )
            return
        others = [e for e in entries.values() if e not in own and e.nbytes <= self.feature_gib * 2**30]
        if not self.cache.has_room([*own, *others]):
            others = []

        def fill(arrays: dict[str, np.ndarray]) -> None:
            for part in parts:
                wanted = {layer: arrays[entries[part, layer].name] for layer in layers if entries[part, layer].name in arrays}
                if wanted:
                    self._encode(part, encoder, wanted, device)

        held = self.cache.get([*own, *others], fill)
        self._features = dict(zip(parts, held, strict=False))

    @torch.no_grad()
    def _encode(self, part: str, encoder: Encoder, arrays: Mapping[str, np.ndarray], device: torch.device) -> None:
        images = self.images("train" if part == MIRRORED else part)
        with tqdm(total=len(images), desc=f"Encoding {part} images", unit="image", leave=False, disable=None) as bar:
            for i in range(0, len(images), self.batch_size):
                chunk = slice(i, i + self.batch_size)
                native = images[chunk].to(device)
                native = native.flip(-1) if part == MIRRORED else native
                for layer, features in encoder.features(to_input(native), list(arrays)).items():
                    stored = features.to(getattr(torch, self.feature_type)).cpu()
                    if not stored.isfinite().all():
                        raise InputError(
                            f"Features of {layer} are too large for data.feature_type={self.feature_type}: use float32."
                        )
                    arrays[layer][chunk] = stored.numpy()
                bar.update(len(images[chunk]))

    def feature_batches(self, encoder: Encoder, device: torch.device) -> Iterator[Tensor]:
        """The training images' features on the device, in the split's order: what is cached, or computed now."""
        chunks = self._features.get("train", self.images("train")).split(
            1024 if "train" in self._features else self.batch_size
        )
        for chunk in tqdm(chunks, desc="Taking the features' statistics", leave=False, disable=None):
            yield chunk.to(device) if "train" in self._features else encoder(to_input(chunk.to(device)))

    def move_to(self, device: torch.device) -> None:
        """Moves training and validation data to a GPU where they fit, so that batches need no copying."""
        if device.type != "cuda":
            return
        held = [store[part] for store in (self._images, self._features) for part in self._encoded if part in store]
        free, _ = torch.cuda.mem_get_info(device)
        if sum(tensor.nbytes for tensor in held) <= self.resident * free:
            for store in (self._images, self._features):
                store.update({part: store[part].to(device) for part in self._encoded if part in store})

    def mean_image(self) -> Tensor:
        """The training set's mean image, native: float (3, native_size, native_size) in [-1, 1]."""
        total = torch.zeros(3, self.native_size, self.native_size, dtype=torch.float64)
        for chunk in self.images("train").split(1024):
            total += pixels.normalize(chunk).double().sum(0).cpu()
        return (total / len(self.images("train"))).float()

    def samples(self, part: str, number: int) -> tuple[list[str], Tensor]:
        """The same few images every time, spread evenly over the part's classes: their files, and (number, 3, 227, 227)
        in [-1, 1].
        """
        files = self.split.files(part)
        number = min(number, len(files))
        indices = [(2 * i + 1) * len(files) // (2 * number) for i in range(number)]
        return [files[i] for i in indices], to_input(self.images(part)[indices].cpu())

    def setup(self, stage: str) -> None:
        """Decodes the training and validation images. The test images wait until they are asked for.

        Raises:
            BrokenImagesError: names all that can't be read, those of the test part among them.
        """
        broken: dict[Path, str] = {}
        for part in ("train", "val", "test"):
            if part == "test" and not broken:
                break
            try:
                self.images(part)
            except BrokenImagesError as error:
                broken |= error.files
        if broken:
            refuse(broken)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled, and with `flip` mirrored, anew each epoch. A last batch of one image is dropped, since batch normalisation
        needs two.
        """
        images = ImageSet(
            self.images("train"), self.split.labels("train"), self._features.get("train"), self._features.get(MIRRORED)
        )
        if len(images) < 2:
            raise InputError("Training needs at least 2 images: give more data, or lower the held-out part.")
        sampler = Shuffle(images, self.shuffle_seed, self.flip)
        return self._loader(images, sampler=sampler, drop_last=len(images) % self.batch_size == 1)

    def files_of_batch(self, epoch: int, batch: int) -> list[str]:
        """The files of a training batch; epochs and batches count from 0."""
        sampler = self.train_dataloader().batch_sampler.sampler  # type: ignore[union-attr]
        sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        order = list(sampler)[batch * self.batch_size : (batch + 1) * self.batch_size]
        return [self.split.train[index % len(self.split.train)] for index in order]

    def weight_of_share(self, images: int, batch: int) -> float:
        """What the mean over this process's images of a training batch counts for in the mean over all processes that DDP
        takes: 1 where every process has as many; batches count from 0.
        """
        whole = min(self.batch_size, len(self.split.train) - batch * self.batch_size)
        return images * self._world_size / whole

    @property
    def _world_size(self) -> int:
        """How many processes train together."""
        return 1 if self.trainer is None else self.trainer.world_size

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation images in the split's order."""
        return self._loader(ImageSet(self.images("val"), self.split.labels("val"), self._features.get("val")))

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test images in the split's order."""
        return self.loader("test")

    def loader(self, part: str) -> DataLoader[Batch]:
        """The images of `train`, `val` or `test` in the split's order, without features. All of them, under DDP too."""
        return self._whole_batches(ImageSet(self.images(part), self.split.labels(part)))

    def _loader(self, images: ImageSet, **options: object) -> DataLoader[Batch]:
        """Whole batches, or this process's shares of them under DDP."""
        whole = self._whole_batches(images, **options)
        if self._world_size == 1:
            return whole
        shares = Shares(whole.batch_sampler, self.trainer.global_rank, self._world_size)  # type: ignore[arg-type, union-attr]
        return DataLoader(images, batch_sampler=shares, collate_fn=whole.collate_fn, generator=whole.generator)

    def _whole_batches(self, images: ImageSet, **options: object) -> DataLoader[Batch]:
        # No workers: taking a batch out of a tensor is quicker than handing it between processes. A loader without a generator
        # of its own draws from torch's at each start, at another time in a run that goes on.
        own = torch.Generator()
        return DataLoader(images, batch_size=self.batch_size, collate_fn=whole, generator=own, **options)  # type: ignore[arg-type]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalises the images, now on the device."""
        return batch._replace(images=pixels.normalize(batch.images))


def to_input(images: Tensor) -> Tensor:
    """Native uint8 images (B, 3, n, n) -> the encoder's input, float (B, 3, 227, 227) in [-1, 1]."""
    return pixels.resize(pixels.normalize(images), pixels.INPUT_SIZE)
