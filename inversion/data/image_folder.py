"""A folder of one's own images: one sub-folder a class, or none; split by fractions, or into folders train, val and test."""

import logging
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from inversion.core.errors import InputError
from inversion.core.file_kinds import printable
from inversion.core.files import expand
from inversion.core.images import find_images
from inversion.data.datamodule import ImageDataModule
from inversion.data.split import PRESENT, Split, draw_classes, hold_out

log = logging.getLogger(__name__)

PART_OF_FOLDER = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation", "dev"), "val"
)
"""What folders of one's own split are called, in lower case -> the part."""


def read_split(root: Path, classes: int | None, val_fraction: float, test_fraction: float, seed: int) -> Split:
    """The split that the folders make, or one by these fractions of each class, at least one image to each part.

    Args:
        root: the folder. With sub-folders each is a class, whatever lies deeper in it; without, all images are one class.
            If all sub-folders have names of `PART_OF_FOLDER`, train and another one among them, they are the split, and the
            classes lie within; a part without a folder is taken from train.
        classes: how many of train's sub-folders to draw; None takes all.
        val_fraction, test_fraction: shares of each class, in (0, 1).

    Raises InputError: no such folder, no images, or too few in a class.
    """
    fractions = {"val": val_fraction, "test": test_fraction}
    if not all(isinstance(share, float | int) and share > 0 for share in fractions.values()) or sum(fractions.values()) >= 1:
        raise InputError(
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} must be numbers above 0, together below "
            "1, or they leave nothing to train on."
        )
    by_part, missing = _files(root)
    drawn = draw_classes(list(by_part["train"]), classes, seed)
    if classes is None:
        drawn = sorted(set(drawn).union(by_part["val"], by_part["test"]))
    parts = {part: [file for key in drawn for file in by_part[part].get(key, [])] for part in ("val", "test")} | {"train": []}
    for key in drawn:
        rest = by_part["train"].get(key, [])
        number = len(rest)
        if 0 < number <= len(missing):
            raise InputError(
                f"Class {printable(key)} of data.root={printable(root)} has {number} images, and each class needs at least "
                f"{len(missing) + 1}."
            )
        for i, part in enumerate(missing if rest else []):
            share = min(len(rest) - len(missing) + i, max(1, round(number * fractions[part])))
            rest, held = hold_out(rest, share, seed, f"{printable(key)} {part}")
            parts[part] += held
        parts["train"] += rest
    if empty := next((part for part, files in parts.items() if not files), None):
        raise InputError(f"data.root={printable(root)} has no images for its {empty} split: add some, or draw all classes.")
    return Split(
        root.resolve(),
        {key: "all images" if key == "." else printable(key) for key in drawn},
        parts["train"],
        parts["val"],
        parts["test"],
        drawn_by={"seed": seed, "classes": classes, "val_fraction": val_fraction, "test_fraction": test_fraction},
        class_of={file: key for part in by_part.values() for key in drawn for file in part.get(key, [])},
    )


def _files(root: Path) -> tuple[dict[str, dict[str, list[str]]], list[str]]:
    """(part -> class -> files, the parts that have no folder of their own)."""
    if not root.is_dir():
        raise InputError(f"data.root={root}: no such folder; give the folder of your images.")
    images = find_images(root)
    if not images:
        raise InputError(f"data.root={root} holds no images that Pillow reads: give the folder of yours, or convert them.")
    folders = {image.parts[0]: PART_OF_FOLDER.get(image.parts[0].lower(), "") for image in images if len(image.parts) > 1}
    own = set(folders.values())
    if "" in own or "train" not in own or len(own) < 2:
        own = set()
    missing = [part for part in ("test", "val") if part not in own]
    if own:
        loose = [image for image in images if len(image.parts) == 1]
        images = [image for image in images if len(image.parts) > 1]
        log.info(
            f"{printable(root)} has a split of its own, which is used: {', '.join(folders)}"
            + "".join(f"; data.{part}_fraction of train is its {part} part" for part in missing)
            + (f"; {len(loose)} images beside these folders are left out" if loose else "")
        )
    by_part: dict[str, dict[str, list[str]]] = {"train": {}, "val": {}, "test": {}}
    for image in images:
        part, within = (folders[image.parts[0]], image.parts[1:]) if own else ("train", image.parts)
        by_part[part].setdefault(within[0] if len(within) > 1 else ".", []).append(image.as_posix())
    return by_part, missing


class ImageFolder(ImageDataModule):
    """A folder of one's own images; see `read_split` for its options, and `ImageDataModule` for others."""

    def __init__(
        self,
        root: str,
        classes: int | str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        seed: int = 0,
        **loading: float | None,
    ) -> None:
        super().__init__(**loading)  # type: ignore[arg-type]
        self.root = expand(root)
        number: Any = None if classes == PRESENT else classes
        self.options = (number, val_fraction, test_fraction, seed)

    def find_split(self) -> Split:
        return read_split(self.root, *self.options)

    def images(self, part: str) -> Tensor:
        """See `ImageDataModule`. Warns, once all parts are decoded, of images that stand in several of them."""
        is_last = part not in self._images and len(self._images) == 2
        images = super().images(part)
        if is_last:
            a, b, c = ({sha256(image.numpy().data).digest() for image in held.cpu()} for held in self._images.values())
            if number := len(a & b | a & c | b & c):
                log.warning(
                    f"{number} images of data.root={printable(self.root)} stand in more than one of train, val and test, "
                    "pixel for pixel: the scores are too good. Leave each in one only."
                )
        return images
