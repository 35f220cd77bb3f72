"""Which images train, validate and test: drawn by a seed, and saved with each run."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from inversion.core.errors import InputError
from inversion.core.files import write_atomic

PRESENT = "present"
"""As the number of classes: all whose images are there."""


@dataclass(frozen=True)
class Split:
    """The files of the three parts by name, in a fixed order, and the classes they come from."""

    root: Path
    classes: dict[str, str]
    """Class id -> name. For Tiny ImageNet WordNet ids, for a folder its sub-folders."""
    train: list[str]
    val: list[str]
    test: list[str]
    drawn_by: dict[str, object] = field(default_factory=dict)
    """The options that drew it."""
    class_of: dict[str, str] = field(default_factory=dict)
    """File -> class id."""
    paths: dict[str, str] = field(default_factory=dict)
    """File -> where it lies, for files that don't lie at `root / file`."""
    no_test: str = ""
    """Why there are no test images, and what to do; empty where there are some."""

    def files(self, part: str) -> list[str]:
        """The files of `train`, `val` or `test`. Raises InputError: the test images are missing."""
        if part == "test" and not self.test:
            raise InputError(self.no_test or f"{self.root} has no test images: give some, or train with test=false.")
        return {"train": self.train, "val": self.val, "test": self.test}[part]

    @property
    def everything(self) -> list[str]:
        """The files of all parts."""
        return [*self.train, *self.val, *self.test]

    def path(self, file: str) -> Path:
        return self.root / self.paths.get(file, file)

    def labels(self, part: str) -> list[int]:
        """Each file's class, as its index in `classes`."""
        indices = {key: i for i, key in enumerate(self.classes)}
        return [indices[self.class_of[file]] for file in self.files(part)]

    @property
    def digest(self) -> str:
        """A hash of the files' names, the same wherever they lie."""
        return sha256(json.dumps([self.train, self.val, self.test]).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Writes `split.json`: root, options, class ids with names, and the files of each part."""
        content = {
            "root": str(self.root),
            "drawn_by": self.drawn_by,
            "classes": [{"id": key, "name": name} for key, name in self.classes.items()],
            **{part: getattr(self, part) for part in ("train", "val", "test")},
        }
        write_atomic(path, json.dumps(content, indent=1).encode())


def draw_classes(ids: Sequence[str], number: int | None, seed: int) -> list[str]:
    """`number` of the ids (None: all), drawn by `seed`, sorted; the draw doesn't depend on the ids' order.

    Raises InputError: fewer ids than asked for, or a `number` or `seed` that is no whole number.
    """
    _check_whole("data.seed", seed)
    ids = sorted(ids)
    if number is None:
        return ids
    _check_whole("data.classes", number, ", or null for all classes, or, of Tiny ImageNet, present for those that are there")
    if not 1 <= number <= len(ids):
        raise InputError(f"data.classes={number} must lie between 1 and {len(ids)}, the number of classes in the data.")
    return sorted(random.Random(seed).sample(ids, number))


def hold_out(files: Sequence[str], number: int, seed: int, name: str) -> tuple[list[str], list[str]]:
    """(the others, held out): `number` files drawn by the seed and the class's name alone, both sorted.

    Raises InputError: none or all of the files would be held out, or `number` is no whole number.
    """
    _check_whole("data.val_per_class", number)
    files = sorted(files)
    if not 1 <= number < len(files):
        raise InputError(
            f"Class {name} has {len(files)} images, of which {number} can't be held out (data.val_per_class): at least one "
            "must be held out and one left to train on."
        )
    held = set(random.Random(f"{seed} {name}").sample(files, number))
    return [file for file in files if file not in held], sorted(held)


def _check_whole(option: str, number: object, others: str = "") -> None:
    if not isinstance(number, int) or isinstance(number, bool):
        raise InputError(f"{option}={number} must be a whole number{others}.")
