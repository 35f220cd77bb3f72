"""A folder of one's own images: one sub-folder a class, or none."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from torchvision.datasets.folder import IMG_EXTENSIONS

from inversion.core.errors import InputError
from inversion.core.files import expand
from inversion.data.datamodule import ImageDataModule
from inversion.data.split import Split, check_disjoint, draw_classes, hold_out


def read_split(root: Path, classes: int | None, val_fraction: float, test_fraction: float, seed: int) -> Split:
    """Splits each class's images by these fractions, at least one image to each part.

    Args:
        root: the folder. With sub-folders each is a class, whatever lies deeper in it; without, all images are one class.
        classes: how many sub-folders to draw; None takes all.
        val_fraction, test_fraction: shares of each class, in (0, 1).
        seed: of the draws.

    Raises:
        InputError: no such folder, one that can't be read, no images, or too few in a class.
    """
    for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not isinstance(fraction, float | int) or not 0 < fraction < 1:
            raise InputError(f"data.{name}={fraction} must be a number between 0 and 1.")
    if val_fraction + test_fraction >= 1:
        raise InputError(f"data.val_fraction + data.test_fraction = {val_fraction + test_fraction} leave nothing to train on.")
    by_class: dict[str, list[str]] = {}
    for image in _images(root):
        by_class.setdefault(image.parts[0] if len(image.parts) > 1 else ".", []).append(image.as_posix())
    if not by_class:
        raise InputError(
            f"data.root={root} holds no images ({', '.join(IMG_EXTENSIONS)}): give the folder of your images, or convert them."
        )
    drawn = draw_classes(list(by_class), classes, seed)
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    class_of = {file: key for key in drawn for file in by_class[key]}
    for key in drawn:
        files = by_class[key]
        if len(files) < 3:
            raise InputError(f"Class {key} of data.root={root} has {len(files)} images, and each class needs at least 3.")
        rest, test = hold_out(files, max(1, round(len(files) * test_fraction)), seed, f"{key} test")
        train, val = hold_out(rest, min(len(rest) - 1, max(1, round(len(files) * val_fraction))), seed, f"{key} val")
        for part, chosen in zip(parts, (train, val, test), strict=True):
            parts[part] += chosen
    check_disjoint(parts)
    names_of_classes = {key: "all images" if key == "." else key for key in drawn}
    drawn_by: dict[str, object] = {
        "seed": seed,
        "classes": classes,
        "val_fraction": val_fraction,
        "test_fraction": test_fraction,
    }
    return Split(root.resolve(), names_of_classes, parts["train"], parts["val"], parts["test"], drawn_by, class_of)


def _images(root: Path) -> Iterator[Path]:
    """Image files below `root`, relative to it, without hidden ones and those in hidden folders.

    Links to folders are followed; a folder that several paths lead to counts once, as the first of them in order.
    """
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, onerror=_refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            if name.lower().endswith(IMG_EXTENSIONS) and not name.startswith("."):
                yield (Path(folder) / name).relative_to(root)


def _refuse(error: OSError) -> NoReturn:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        raise InputError(f"data.root={error.filename}: no such folder; give the folder of your images.") from error
    raise InputError(
        f"data.root: {error.filename} can't be read ({error.strerror}): make it readable, or move it elsewhere."
    ) from error


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
        self.root = expand(root)

    def find_split(self) -> Split:
        return read_split(self.root, **self.options)  # type: ignore[arg-type]
