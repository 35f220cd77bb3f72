"""Image files: whatever a file holds, read as RGB bytes of one size, or refused in one sentence."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from inversion.core.errors import InputError


def decode(paths: Sequence[Path], array: np.ndarray, description: str) -> None:
    """Reads image files into a uint8 array, (N, 3, size, size), RGB. Shows progress.

    Raises:
        InputError: names the first file that can't be read.
    """

    def read(index: int) -> None:
        array[index] = read_image(paths[index], array.shape[-1])

    with ThreadPoolExecutor() as pool:
        for _ in tqdm(
            pool.map(read, range(len(paths))), total=len(paths), desc=description, unit="image", leave=False, disable=None
        ):
            pass


def read_image(path: Path, size: int) -> Tensor:
    """One file as uint8 (3, size, size), RGB whatever its mode; another size is fitted (resized, middle cropped).

    It is turned as its EXIF data says, what is transparent lies on white, and 16-bit grey is scaled to 8 bits.

    Raises:
        InputError: no image, or a broken one.
    """
    with opened(path) as image:
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


def state_of(path: Path) -> list[int] | None:
    """A file's size and time of change; None if there is no such file, which decoding will tell."""
    try:
        state = path.stat()
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]


def opened(path: Path) -> Image.Image:
    """The file, opened and not yet decoded. Raises InputError: no image, one that can't be read, or a huge one."""
    try:
        return Image.open(path)
    except Exception as error:  # Pillow throws many kinds at broken files
        reason = getattr(error, "strerror", None) or "no image, or a broken one"
        if isinstance(error, Image.DecompressionBombError):
            reason = f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
        raise InputError(f"{path} can't be read ({reason}): mend, replace or remove it.") from error
