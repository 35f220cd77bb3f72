"""Image files: found in folders, and whatever one holds read as RGB bytes of one size, or refused in one sentence."""

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from inversion.core.errors import InputError
from inversion.core.file_kinds import kind_of, printable

log = logging.getLogger(__name__)

UNDECODABLE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow recognises but doesn't decode by itself."""
SYSTEM_FOLDERS = {"@eadir", "@__thumb", "#recycle", "#snapshot", "$recycle.bin", "__macosx", "lost+found"}
"""Thumbnails and deleted files of network drives and operating systems; in lower case."""
EIGHT_BITS = (".jpg", ".jpeg")
"""How the most common files end, whose images never have more."""
WHITES = (1, 255, 1023, 4095, 16383, 65535)
"""What white may be in images of more than 8 bits: 1 as in floats, or the largest number of 8, 10, 12, 14 or 16 bits."""


class BrokenImagesError(InputError):
    """Images that can't be read."""

    files: dict[Path, str]
    """What is wrong with each of them."""


def find_images(folder: Path) -> list[Path]:
    """The image files in a folder and below it, relative to it and sorted: those whose names end as Pillow's formats do.

    Hidden files, and system folders with all that is in them, are left out like files of other kinds; the log counts them.
    Links to folders are followed; a folder that several paths lead to counts once, as the first of them in order. Raises
    OSError: a folder that isn't there or can't be read.
    """

    def fail(error: OSError) -> NoReturn:
        raise error

    endings = {ending for ending, name in Image.registered_extensions().items() if name in Image.OPEN.keys() - UNDECODABLE}
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        hidden = {name for name in folders if name.startswith(".") or name.lower() in SYSTEM_FOLDERS}
        left_out.update(f"{name} folders" for name in hidden)
        folders[:] = sorted(set(folders) - hidden)
        for name in names:
            ending = Path(name).suffix.lower()
            if name.startswith(".") or ending not in endings:
                left_out["hidden files" if name.startswith(".") else ending or "files without an ending"] += 1
            else:
                found.append(Path(parent, name).relative_to(folder))
    if left_out:
        kinds = ", ".join(f"{number} {printable(kind)}" for kind, number in left_out.most_common())
        log.info(f"Left out of {printable(folder)}: {kinds}")
    return sorted(found)


def decode(paths: Sequence[Path], array: np.ndarray, description: str, among: Sequence[Path] = ()) -> None:
    """Reads image files into a uint8 array, (N, 3, size, size), RGB. Warns if most are nearly of one colour.

    The largest value `among` all images of a data set decides what is white in them, see `WHITES`; by default that of `paths`.
    Raises BrokenImagesError, which names every file that can't be read.
    """
    broken: dict[Path, str] = {}

    def read(index: int) -> None:
        try:
            array[index] = read_image(paths[index], array.shape[-1], white)
        except BrokenImagesError as error:
            broken.update(error.files)

    with ThreadPoolExecutor() as pool:
        white = _white(max(pool.map(_largest_value, among or paths), default=0))
        done = pool.map(read, range(len(paths)))
        list(tqdm(done, total=len(paths), desc=description, unit="image", leave=False, disable=None))
    if broken:
        refuse(broken)
    if white:
        log.info(f"Images of more than 8 bits: {white} is white.")
    flat = sum(image.std() < 1 for image in array)
    if flat > len(paths) / 2:
        log.warning(f"{flat} of {len(paths)} images, such as {printable(paths[0])}, are nearly of one colour: is that right?")


def read_image(path: Path, size: int, white: int = 0) -> Tensor:
    """One file as uint8 (3, size, size), RGB whatever its mode; another size is fitted (resized, middle cropped).

    It is turned as its EXIF data says, and what is transparent lies on white. Integers of more than 8 bits and floats are
    scaled from [0, white] to [0, 255]; a white of 0 stands for the smallest of `WHITES` that no value of the image exceeds.
    Raises BrokenImagesError: no image, a broken one, or values below 0, above 65535 or not finite.
    """
    with opened(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode[0] in "IF":
            values = np.asarray(image, dtype=np.float32)
            if not (values.min() >= 0 and values.max() <= WHITES[-1]):  # nor NaN
                raise ValueError(f"values from {values.min():g} to {values.max():g}, but they must lie in [0, 65535]")
            scale = 255 / (white or _white(values.max()) or 1)
            image = Image.fromarray((values * scale).round().clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB")
        if image.size != (size, size):
            image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _largest_value(path: Path) -> float:
    """Of an image of more than 8 bits; 0 for any other, and for a broken one, which decoding will name."""
    if path.suffix.lower() not in EIGHT_BITS:
        with suppress(BrokenImagesError), opened(path) as image:
            return float(image.getextrema()[1]) if image.mode[0] in "IF" else 0  # type: ignore[arg-type]
    return 0


def _white(largest: float) -> int:
    return next((white for white in WHITES if 0 < largest <= white), 0)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The image in a file, not yet decoded. Raises BrokenImagesError for whatever goes wrong with it, in the block too."""
    try:
        with Image.open(path) as image:
            yield image
    except Exception as error:  # Pillow throws many kinds at broken files
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Image.DecompressionBombError):
            reason = f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
        elif isinstance(error, UnidentifiedImageError):
            reason = kind_of(path) or "no image"
            if reason.split()[-1].upper() in Image.OPEN:
                reason += ", cut off or damaged"
        refuse({path: reason})


def refuse(broken: Mapping[Path, str]) -> NoReturn:
    """Raises BrokenImagesError, which names the first ten, and a file that lists all of them where there are more."""
    named = [f"{printable(path)} can't be read ({reason})" for path, reason in sorted(broken.items())]
    text = ", ".join(named[:10])
    if len(named) > 1:
        text = f"{len(named)} images are broken: {text}"
    if len(named) > 10:
        with tempfile.NamedTemporaryFile("w", prefix="broken_images_", suffix=".txt", delete=False) as file:
            file.write("\n".join(named))
        text += f" and {len(named) - 10} more, all listed in {file.name}"
    error = BrokenImagesError(f"{text}: convert, replace or remove {'it' if len(named) == 1 else 'them'}.")
    error.files = dict(broken)
    raise error
