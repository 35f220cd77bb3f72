"""The LightningDataModule: a split's images decoded once, held as bytes, and handed out in batches."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from statistics import median
from typing import Any

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
from inversion.core.images import EIGHT_BITS, BrokenImagesError, decode, opened
from inversion.data.batches import Batch, ImageSet, Shuffle
from inversion.data.cache import Cache, Entry
from inversion.data.features import MIRRORED, FeatureCache, Part
from inversion.data.split import Split
from inversion.encoders.alexnet import Encoder

SMALLEST = 16
"""Smallest native size in pixels; SSIM's window is 11 wide."""


class ImageDataModule(LightningDataModule, ABC):
    """What every source of images shares: each file is decoded once into one uint8 array at the data's native size. Batches
    are normalised, and resized where a resized image is needed, on the device that trains.

    Args:
        batch_size: of every loader; at least 2.
        shuffle_seed: of the training order and the flips, which depend on it and the epoch alone.
        flip: whether each training image comes mirrored, left for right, in half of the epochs.
        native_size: side in pixels at which images are held; None takes the median shorter side of (a thousand of) the
            training images, within 16 to 227. An image of another size is resized (shorter side) and cropped to its middle.
        cache: folder for decoded images and features, see `Cache`. None holds images in memory, and no features.
        feature_type, feature_gib: see `FeatureCache`.
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
        if native_size not in (None, *range(SMALLEST, pixels.INPUT_SIZE + 1)):
            raise InputError(
                f"data.native_size={native_size} must be a whole number between {SMALLEST} and {pixels.INPUT_SIZE}, AlexNet's "
                "input size, or null to follow the data."
            )
        if not 0 <= resident < 1:
            raise InputError(f"data.resident={resident} must lie in [0, 1).")
        self.batch_size, self.fixed_size, self.resident = batch_size, native_size, resident
        self.shuffle_seed, self.flip = shuffle_seed, flip
        self.cache = Cache(expand(cache)) if cache else None
        self.feature_cache = None if self.cache is None else FeatureCache(self.cache, feature_type, feature_gib)
        self._images: dict[str, Tensor] = {}
        self._entries: dict[str, Entry] = {}
        self._features: dict[str, Tensor] = {}
        """Those of the encoder that `use_features` was last called for."""

    @abstractmethod
    def find_split(self) -> Split:
        """Finds the files on disk and draws the split. Raises InputError."""

    @cached_property
    def split(self) -> Split:
        found = self.find_split()
        for part in ("train", "val"):
            if not found.files(part):
                raise InputError(f"{found.root} has no {part} images: look at data.root, and at what is taken from there.")
        return found

    @cached_property
    def native_size(self) -> int:
        """Side in pixels of the images as they are held."""
        if self.fixed_size is not None:
            return int(self.fixed_size)
        sides = []
        for name in self.split.train[:: -(-len(self.split.train) // 1000)]:
            with suppress(BrokenImagesError), opened(self.split.path(name)) as image:  # decoding names the broken ones
                sides.append(min(image.size))
        return min(pixels.INPUT_SIZE, max(SMALLEST, int(median(sides or [0]))))

    def images(self, part: str) -> Tensor:
        """The images of `train`, `val` or `test`: uint8, (N, 3, native_size, native_size). Decoded on first use.

        Raises BrokenImagesError, which names the files of all parts that can't be read.
        """
        if part not in self._images:
            paths = [self.split.path(name) for name in self.split.files(part)]
            everything = [self.split.path(name) for name in self.split.everything]

            def fill(arrays: Mapping[str, np.ndarray]) -> None:
                try:
                    decode(paths, arrays[entry.name], f"Decoding {len(paths)} {part} images", everything)
                except BrokenImagesError:
                    small = np.empty((len(everything), 3, SMALLEST, SMALLEST), np.uint8)
                    decode(everything, small, "Looking for broken images among all")
                    raise

            entry = self._entry(part)
            if self.cache is None:
                held = np.empty(entry.shape, np.uint8)
                fill({entry.name: held})
                self._images[part] = torch.from_numpy(held)
            else:
                (self._images[part],) = self.cache.get([entry], fill)
        return self._images[part]

    def _entry(self, part: str) -> Entry:
        """The decoded images in the cache, by what they depend on."""
        if part not in self._entries:
            files = self.split.files(part)
            states = []
            # The brightest image of all parts says what is white, if of more than 8 bits.
            deep = [name for name in self.split.everything if self.split.path(name).suffix.lower() not in EIGHT_BITS]
            for name in (*files, *deep):
                with suppress(OSError):  # decoding names what can't be read
                    state = self.split.path(name).stat()
                    states.append([state.st_size, state.st_mtime_ns])
            key = {"root": str(self.split.root), "files": files, "states": states, "pillow": PIL.__version__}
            shape = (len(files), 3, self.native_size, self.native_size)
            self._entries[part] = Entry(f"{part} images", key, shape, "uint8")
        return self._entries[part]

    def _parts(self, *names: str) -> dict[str, Part]:
        return {name: Part(self.images(name), self._entry(name).digest) for name in names}

    def _trained_parts(self) -> dict[str, Part]:
        parts = self._parts("train", "val")
        return parts | ({MIRRORED: parts["train"]} if self.flip else {})

    def lacks_features(self, encoder: Encoder) -> bool:
        """Whether the encoder's features could be cached, and aren't yet."""
        return self.feature_cache is not None and not self.feature_cache.holds(self._trained_parts(), encoder)

    def use_features(
        self, encoder: Encoder, layers: Sequence[str] = (), device: torch.device | str = "cpu", test: bool = False
    ) -> None:
        """Has the loaders give out an encoder's features of the training and validation images beside them, computed once:
        those of `layers[0]`, by default the encoder's own; see `FeatureCache.load`. With `test`, those of the test images are
        cached too.

        Without a cache or room in it they give out none, and the training has to encode every batch.
        """
        self._features = {}
        if self.feature_cache is not None:
            layers, device = layers or [encoder.layer], torch.device(device)
            parts = self._trained_parts() | self._parts(*["test"] * test)
            loaded = self.feature_cache.load(parts, encoder, layers, device, self.batch_size)
            self._features = {part: features for (part, layer), features in loaded.items() if layer == layers[0]}

    def encoded(
        self, part: str, encoder: Encoder, layers: Sequence[str], device: torch.device, progress: str
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """A part's native images, in batches and in the split's order, and their features of several layers of the encoder,
        float32: layer -> (B, *feature_shape). These are computed in one pass for all layers, and cached where they can be.
        """
        cached: dict[tuple[str, str], Tensor] = {}
        with suppress(InputError):  # such as that of a full disk: these need not be cached
            if self.feature_cache is not None and (part != "train" or self._features):  # which are many: only if trained on
                cached = self.feature_cache.load(self._parts(part), encoder, layers, device, self.batch_size)
        stored = {layer: features.split(self.batch_size) for (_, layer), features in cached.items()}
        natives = self.images(part).split(self.batch_size)
        for i, native in enumerate(tqdm(natives, desc=progress, unit="batch", leave=False, disable=None)):
            images = native.to(device)
            found = {layer: features[i].to(device).float() for layer, features in stored.items()}
            yield images, found if len(found) == len(layers) else encoder.features(pixels.to_input(images), layers)

    def move_to(self, device: torch.device) -> None:
        """Moves training and validation data to a GPU where they fit, so that batches need no copying."""
        stores = (self._images, self._features)
        held = [(store, part) for store in stores for part in ("train", "val", MIRRORED) if part in store]
        needed = sum(store[part].nbytes for store, part in held)
        if device.type == "cuda" and needed <= self.resident * torch.cuda.mem_get_info(device)[0]:
            for store, part in held:
                store[part] = store[part].to(device)

    def mean_image(self) -> Tensor:
        """The training set's mean image at the native size: float (3, native_size, native_size) in [-1, 1]."""
        images = self.images("train")
        return pixels.normalize(images.sum(0, dtype=torch.int64).cpu() / (255 * len(images)))

    def examples(self, part: str, number: int) -> tuple[list[str], Tensor]:
        """Always the same few images, evenly spread over the split: files, and float (number, 3, 227, 227) in [-1, 1]."""
        files = self.split.files(part)
        number = min(number, len(files))
        indices = [(2 * i + 1) * len(files) // (2 * number) for i in range(number)]
        return [files[i] for i in indices], pixels.to_input(self.images(part)[indices].cpu())

    def setup(self, stage: str) -> None:
        """Decodes the training and validation images. The test images wait until they are asked for."""
        for part in ("train", "val"):
            self.images(part)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled, and with `flip` mirrored, anew each epoch. A last batch of one image is dropped."""
        number = len(self.split.train)
        if number < 2:  # batch normalisation needs two
            raise InputError("Training needs at least 2 images: give more data, or set fewer aside for validation.")
        sampler = Shuffle(number, self.shuffle_seed, self.flip)
        return self._loader("train", self._features, sampler=sampler, drop_last=number % self.batch_size == 1)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader("val", self._features)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader("test", {})

    def _loader(self, part: str, features: Mapping[str, Tensor], **options: Any) -> DataLoader[Batch]:
        images = ImageSet(self.images(part), self.split.labels(part), features.get(part), features.get(f"mirrored {part}"))
        # No workers: taking a batch out of a tensor is quicker than handing it between processes. And a generator of its own:
        # without one a loader would advance torch's at each start, and at another time in a resumed run.
        return DataLoader(images, self.batch_size, collate_fn=lambda batch: batch, generator=torch.Generator(), **options)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalises the images, now on the device."""
        return batch._replace(images=pixels.normalize(batch.images))
