"""The LightningDataModules: a split's images decoded once, held as bytes, and handed out in whole batches."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from lightning import LightningDataModule
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler
from tqdm import tqdm

from inversion import image_folder, made_images, pixels, tiny_imagenet
from inversion.alexnet import Encoder
from inversion.errors import InputError
from inversion.split import Split

SMALLEST = 16
"""Smallest native size in pixels; SSIM's window is 11 wide."""


class Batch(NamedTuple):
    """What the loaders give out."""

    images: Tensor
    """uint8 (B, 3, n, n) from the loader; float (B, 3, 227, 227) in [-1, 1] once on the device."""
    features: Tensor | None
    """The encoder's features of these images, float (B, *feature_shape), where they are held; else None."""

    def as_input(self) -> "Batch":
        """The loader's batch, now on its device, with its images normalised and resized."""
        return self._replace(images=to_input(self.images))


class ImageDataModule(LightningDataModule):
    """What every source of images shares.

    Each file is decoded once into one uint8 tensor at the data's native size; batches are normalised and resized whole, on
    the device that trains.

    Args:
        batch_size: images per batch, of every loader.
        shuffle_seed: of the training order, which depends on it and the epoch alone.
        native_size: side in pixels at which images are held; None takes the median shorter side of the training
            images, within 16 to 227. An image of another size is resized (shorter side) and cropped to its middle.
        feature_memory_gib: `hold_features` holds at most so much.
    """

    def __init__(
        self, batch_size: int = 64, shuffle_seed: int = 0, native_size: int | None = None, feature_memory_gib: float = 4
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
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self._native_size = native_size
        self._split: Split | None = None
        self.feature_memory_gib = feature_memory_gib
        self._images: dict[str, Tensor] = {}
        self._features: dict[str, Tensor] = {}

    def find_split(self) -> Split:
        """Reads from disk which files there are and draws the split. Raises InputError."""
        raise NotImplementedError

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
            for name in self.split.train:
                with _opened(self.split.root / name) as image:
                    sides.append(min(image.size))
            self._native_size = min(pixels.INPUT_SIZE, max(SMALLEST, int(median(sides))))
        return self._native_size

    def images(self, part: str) -> Tensor:
        """The images of `train`, `val` or `test`: uint8, (N, 3, native_size, native_size). Decoded on first use.

        Raises:
            InputError: a file that is no image, or a broken one.
        """
        if part not in self._images:
            paths = [self.split.root / name for name in self.split.files(part)]
            self._images[part] = decode(paths, self.native_size, f"Decoding {len(paths)} {part} images")
        return self._images[part]

    @torch.no_grad()
    def hold_features(self, encoder: Encoder, device: torch.device) -> bool:
        """Computes the features of the training and validation images once, for the loaders to give out with the images.

        Args:
            encoder: on `device`.

        Returns:
            False, with nothing computed, if they would take more than `feature_memory_gib`.
        """
        parts = ("train", "val")
        numbers = sum(len(self.images(part)) for part in parts) * prod(encoder.feature_shape)
        if numbers * 4 > self.feature_memory_gib * 2**30:
            return False
        for part in parts:
            images = self.images(part)
            held = torch.empty(len(images), *encoder.feature_shape)
            chunks = range(0, len(images), self.batch_size)
            for i in tqdm(chunks, desc=f"Encoding {len(images)} {part} images", leave=False, disable=None):
                held[i : i + self.batch_size] = encoder(to_input(images[i : i + self.batch_size].to(device))).cpu()
            self._features[part] = held
        return True

    def mean_image(self) -> Tensor:
        """The training set's mean image at the input's size: float (3, 227, 227) in [-1, 1]."""
        total = torch.zeros(3, self.native_size, self.native_size, dtype=torch.float64)
        for chunk in self.images("train").split(1024):
            total += pixels.normalize(chunk).double().sum(0)
        mean = (total / len(self.images("train"))).float()
        return pixels.resize(mean[None], pixels.INPUT_SIZE)[0]

    def samples(self, part: str, number: int) -> tuple[list[str], Tensor]:
        """The same few images every time, spread evenly over the part's classes: their files, and (number, 3, 227, 227)
        in [-1, 1].
        """
        files = self.split.files(part)
        number = min(number, len(files))
        indices = [(2 * i + 1) * len(files) // (2 * number) for i in range(number)]
        return [files[i] for i in indices], to_input(self.images(part)[indices])

    def setup(self, stage: str) -> None:
        """Decodes the training and validation images. The test images wait until they are asked for."""
        self.images("train")
        self.images("val")

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled anew each epoch. A last batch of one image is dropped, since batch normalisation needs two."""
        images = ImageSet(self.images("train"), self._features.get("train"))
        if len(images) < 2:
            raise InputError("Training needs at least 2 images: give more data, or lower the held-out part.")
        # On one device a "distributed" sampler is a shuffle by (seed, epoch) alone, so a resumed run repeats it.
        sampler = DistributedSampler[Batch](images, num_replicas=1, rank=0, seed=self.shuffle_seed)
        return self._loader(images, sampler=sampler, drop_last=len(images) % self.batch_size == 1)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation images in the split's order."""
        return self._loader(ImageSet(self.images("val"), self._features.get("val")))

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test images in the split's order."""
        return self._loader(ImageSet(self.images("test")))

    def _loader(self, images: "ImageSet", **options: object) -> DataLoader[Batch]:
        # No workers: taking a batch out of a tensor is quicker than handing it between processes.
        return DataLoader(images, batch_size=self.batch_size, collate_fn=_whole, **options)  # type: ignore[arg-type]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalises and resizes the images, now on the device."""
        return batch.as_input()


def to_input(images: Tensor) -> Tensor:
    """Native uint8 images (B, 3, n, n) -> the encoder's input, float (B, 3, 227, 227) in [-1, 1]."""
    return pixels.resize(pixels.normalize(images), pixels.INPUT_SIZE)


class ImageSet(Dataset[Batch]):
    """Images (N, 3, n, n), uint8, and their features if held; gives out whole batches at once."""

    def __init__(self, images: Tensor, features: Tensor | None = None) -> None:
        self.images = images
        self.features = features

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        return Batch(self.images[indices], None if self.features is None else self.features[indices])


def _whole(batch: Batch) -> Batch:
    return batch


def decode(paths: Sequence[Path], size: int, description: str) -> Tensor:
    """Reads image files into one uint8 tensor, (N, 3, size, size), RGB. Shows progress.

    Raises:
        InputError: names the first file that can't be read.
    """
    images = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)

    def read(index: int) -> None:
        images[index] = read_image(paths[index], size)

    with ThreadPoolExecutor() as pool:
        for _ in tqdm(
            pool.map(read, range(len(paths))), total=len(paths), desc=description, unit="image", leave=False, disable=None
        ):
            pass
    return images


def read_image(path: Path, size: int) -> Tensor:
    """One file as uint8 (3, size, size), RGB whatever its mode; another size is fitted (resized, middle cropped).

    It is turned as its EXIF data says, what is transparent lies on white, and 16-bit grey is scaled to 8 bits.

    Raises:
        InputError: no image, or a broken one.
    """
    with _opened(path) as image:
        try:
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith("I"):
                image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB")
        except Exception as error:  # Pillow throws many kinds at broken files
            raise InputError(f"{path} is a broken image ({error}): replace or remove it.") from error
        if image.size != (size, size):
            image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except Exception as error:  # Pillow throws many kinds at broken files
        reason = getattr(error, "strerror", None) or "no image, or a broken one"
        raise InputError(f"{path} can't be read ({reason}): mend, replace or remove it.") from error


class TinyImageNet(ImageDataModule):
    """A seeded draw of Tiny ImageNet's classes; the official validation images are the test split.

    Args:
        root: folder that holds Tiny ImageNet, or will hold it.
        archive: a zip to extract into `root` if nothing is there.
        url, md5: where the archive is downloaded from if `root` is empty and no archive is given, and its checksum.
        classes: how many classes to draw; None takes all.
        val_per_class: train images of each class set aside for validation.
        seed: of both draws.
        **loading: see `ImageDataModule`.
    """

    def __init__(
        self,
        root: str,
        archive: str | None = None,
        url: str = "https://cs231n.stanford.edu/tiny-imagenet-200.zip",
        md5: str = "90528d7ca1a48142e341f4ef8d21d0de",
        classes: int | None = 20,
        val_per_class: int = 50,
        seed: int = 0,
        **loading: float | None,
    ) -> None:
        super().__init__(**loading)  # type: ignore[arg-type]
        self.root = Path(root).expanduser()
        self.archive = None if archive is None else Path(archive).expanduser()
        self.url, self.md5 = url, md5
        self.classes, self.val_per_class, self.seed = classes, val_per_class, seed

    def prepare_data(self) -> None:
        """Downloads or extracts what isn't there yet."""
        if self._split is None:
            tiny_imagenet.provide(self.root, self.archive, self.url, self.md5)

    def find_split(self) -> Split:
        root = tiny_imagenet.find_root(self.root)
        if root is None:
            raise InputError(f"data.root={self.root} holds no Tiny ImageNet (wnids.txt is missing): call prepare_data first.")
        return tiny_imagenet.read_split(root.resolve(), self.classes, self.val_per_class, self.seed)


class MadeImages(TinyImageNet):
    """Pictures drawn by a seeded generator, in Tiny ImageNet's layout: data for trying things out, not for findings.

    Args:
        root: folder to draw into.
        train_per_class, test_per_class: how many images to draw of each class; validation is taken from the first.
        **options: see `TinyImageNet`; `seed` also seeds the drawing.
    """

    def __init__(self, root: str, train_per_class: int, test_per_class: int, **options: float | None) -> None:
        super().__init__(root, **options)  # type: ignore[arg-type]
        self.per_class = {"train_per_class": train_per_class, "test_per_class": test_per_class}

    def prepare_data(self) -> None:
        """Draws the images, if this very set isn't there yet."""
        made_images.provide(self.root, seed=self.seed, **self.per_class)


class ImageFolder(ImageDataModule):
    """A folder of one's own images.

    Args:
        root: the folder; one sub-folder a class, or none.
        classes: how many sub-folders to draw; None takes all.
        val_fraction, test_fraction: shares of each class.
        seed: of the draws.
        **loading: see `ImageDataModule`.
    """

    def __init__(
        self,
        root: str,
        classes: int | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        seed: int = 0,
        **loading: float | None,
    ) -> None:
        super().__init__(**loading)  # type: ignore[arg-type]
        self.options = {
            "classes": classes,
            "val_fraction": val_fraction,
            "test_fraction": test_fraction,
            "seed": seed,
        }
        self.root = Path(root).expanduser()

    def find_split(self) -> Split:
        return image_folder.read_split(self.root, **self.options)  # type: ignore[arg-type]
