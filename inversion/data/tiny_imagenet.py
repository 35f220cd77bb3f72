"""Tiny ImageNet on disk: downloaded or extracted once, found by its content, and split as in its official layout.

The official layout: `wnids.txt` (one class id a line), `words.txt` (id, tab, names), `train/<id>/images/*.JPEG`, and a flat
`val/images/` with `val/val_annotations.txt` (file, tab, id, tab, box). The test set has no labels and isn't used. In other
layouts images may lie at any depth below `train/<id>/` and `val/`, validation images in class folders, and lists be missing:
a split calls each image by its name in the official layout, and so stays the same.
"""

import logging
import os
import re
import shutil
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path, PurePath

from torchvision.datasets.folder import IMG_EXTENSIONS

from inversion.core.download import download, hash_of
from inversion.core.errors import InputError
from inversion.core.files import atomic_folder, expand, lock, write_atomic
from inversion.data.archive import read_files
from inversion.data.datamodule import ImageDataModule
from inversion.data.split import PRESENT, Split, draw_classes, hold_out

log = logging.getLogger(__name__)

FOLDER = "tiny-imagenet-200"
ARCHIVE_MARK = ".archive.md5"
"""Holds the hash of the archive that a folder was extracted from."""
SYNTHETIC = ".synthetic.json"
"""Marks a set of synthetic images, which is in the same layout."""
VAL = ("val", "valid", "validation")
CLASS_ID = re.compile(r"n\d{8}")
ARCHIVE = re.compile(r"tiny.?imagenet.*\.(zip|tar|tgz|tar\.\w+)", re.IGNORECASE)
MOST_DEPTH = 4
"""How deep below the given folder the data is searched for."""


def find_root(root: Path) -> Path | None:
    """The folder that holds `train/<class id>/`, nearest to `root`, if any. Raises InputError: several are equally near."""
    deeper = (sorted(root.glob("*/" * depth)) for depth in range(1, MOST_DEPTH + 1))
    for level in chain(([root], [root / FOLDER]), deeper):
        found = {folder.resolve(): folder for folder in level if _may_be_searched(root, folder) and _class_folders(folder)}
        if len(found) > 1:
            listed = ", ".join(map(str, found.values()))
            raise InputError(f"data.root={root} holds Tiny ImageNet more than once: give one of {listed} as data.root.")
        if found:
            return found.popitem()[1]
    return None


def _may_be_searched(root: Path, folder: Path) -> bool:
    """A folder below the root may, unless it is hidden, can't be read, or is a set of synthetic images."""
    if folder == root or _is_hidden(folder.relative_to(root)) or not os.access(folder, os.R_OK | os.X_OK):
        return folder == root
    return not (folder / SYNTHETIC).exists()


def _is_hidden(path: PurePath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _visible(folder: Path | str) -> list[os.DirEntry[str]]:
    """What a folder holds, by name, without hidden files and macOS's; nothing where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            chosen = [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(chosen, key=lambda entry: entry.name)


def _child(folder: Path, *names: str) -> Path:
    """The file or folder of one of these names, in upper or lower case; it needn't exist."""
    found = (entry.path for entry in _visible(folder) if entry.name.lower() in names)
    return Path(next(found, folder / names[0]))


def _class_folders(root: Path) -> dict[str, str]:
    """Class id -> the folder of its training images."""
    return {entry.name: entry.path for entry in _visible(_child(root, "train")) if CLASS_ID.fullmatch(entry.name)}


def provide(root: Path, archive: Path | None, url: str, md5_sum: str) -> Path:
    """Sees to it that Tiny ImageNet lies extracted at or below `root`, and returns its folder.

    What is there already is used. Otherwise `archive` is extracted to `root/tiny-imagenet-200`; where none is given, one that
    lies in `root`, or else the public one, which is downloaded first. Processes that ask at once take turns.
    Raises InputError: no such archive, one that can't be used, a failed download, or a `root` with a part of the data only.
    """
    if archive is not None and not archive.is_file():
        what = "a folder" if archive.is_dir() else "no such file"
        raise InputError(f"data.archive={archive} is {what}: give a zip or tar, or data.root=PATH to the extracted folder.")
    if root.is_file():
        raise InputError(f"data.root={root} is a file: give it as data.archive, and as data.root the folder to extract it to.")
    found = find_root(root)
    if found is None:
        root.mkdir(parents=True, exist_ok=True)
        with lock(root / ".lock"):
            found = find_root(root) or _obtain(root, archive, url, md5_sum)  # another process may have extracted it meanwhile
    mark = found / ARCHIVE_MARK
    if archive is not None and mark.is_file() and mark.read_text() != hash_of(archive, "md5"):
        raise InputError(f"{found} was extracted from another archive than {archive}: give another data.root.")
    log.info(f"Using Tiny ImageNet in {found}.")
    return found


def _obtain(root: Path, archive: Path | None, url: str, md5_sum: str) -> Path:
    target = root / FOLDER
    parts = [e for e in _visible(root) if e.name.lower() in ("train", *VAL, "wnids.txt") or CLASS_ID.fullmatch(e.name)]
    if parts or _visible(target):
        raise _no_data(root if parts else target)
    lying_there = [Path(entry.path) for entry in _visible(root) if ARCHIVE.fullmatch(entry.name) and entry.is_file()]
    if archive or lying_there:
        extract(archive or lying_there[0], target)
    elif any(e.name.lower().endswith(IMG_EXTENSIONS) for e in chain(*map(_visible, [root, *root.glob("*")]))):
        raise _no_data(root)  # these are other images
    else:
        downloaded = root / f".{FOLDER}.zip"
        advice = "give data.archive=PATH to a copy of the archive, or data.root=PATH to the extracted folder"
        download(url, downloaded, "Tiny ImageNet", "md5", md5_sum, advice)
        extract(downloaded, target)
        downloaded.unlink()
    return target


def _no_data(place: Path) -> InputError:
    return InputError(
        f"{place} holds no train/ with class folders (n01443537, ...), so no Tiny ImageNet: give the folder that holds train/"
        " as data.root, its archive as data.archive, or use data=folder data.root=PATH for images in other folders."
    )


def extract(archive: Path, target: Path) -> None:
    """Extracts the images and lists that the archive holds, at any depth, but for the unlabelled test images, as `target`,
    which appears only when complete. Raises InputError: see `read_files`; no Tiny ImageNet inside, or no room for it.
    """
    digest = hash_of(archive, "md5")
    try:
        with atomic_folder(target) as temporary:
            everything = temporary / ".archive"  # hidden files aren't extracted, so nothing can clash with it
            for path, content in read_files(archive, _is_wanted):
                (everything / path).parent.mkdir(parents=True, exist_ok=True)
                (everything / path).write_bytes(content)
            found = find_root(everything)
            if found is None:
                raise _no_data(archive)
            for entry in list(found.iterdir()):
                entry.rename(temporary / entry.name)
            shutil.rmtree(everything)
            write_atomic(temporary / ARCHIVE_MARK, digest.encode())
    except OSError as error:
        raise InputError(
            f"{archive} can't be extracted to {target} ({error.strerror}): make room there, or give another data.root."
        ) from error


def _is_wanted(path: PurePath) -> bool:
    folders = {part.lower() for part in path.parts[:-1]}
    is_test = "test" in folders and not folders & {"train", *VAL}
    return not _is_hidden(path) and path.suffix.lower() in (".txt", *(() if is_test else IMG_EXTENSIONS))


def read_split(root: Path, classes: int | str | None, val_per_class: int, seed: int) -> Split:
    """Draws the classes and splits their images: train and val from the train set, test is the official validation set.

    Args:
        classes: how many to draw of those in `wnids.txt`, or without it of the class folders; None takes all, `PRESENT` those
            whose train images are there.
        val_per_class: train images of each class that are set aside for validation.

    Raises InputError: a class's train images are missing or too few. Missing test images are the split's `no_test`.
    """
    folders = _class_folders(root)
    ids = list({wnid for wnid, *_ in _rows(_child(root, "wnids.txt"))})
    if not ids:
        ids = list(folders)
        log.info(f"{root} has no list of classes (wnids.txt): they are its {len(ids)} class folders.")
    if classes == PRESENT:
        ids = [wnid for wnid in ids if _images(folders.get(wnid, ""))]
    drawn = draw_classes(ids, None if classes == PRESENT else classes, seed)  # type: ignore[arg-type]
    words = {wnid: " ".join(words).split(",")[0] for wnid, *words in _rows(_child(root, "words.txt"))}
    named = {wnid: words.get(wnid) or wnid for wnid in drawn}
    images = {wnid: _images(folders.get(wnid, "")) for wnid in drawn}
    _check_train_images(root, named, images, seed)
    train: list[str] = []
    val: list[str] = []
    found: dict[str, tuple[str, str]] = {}
    for wnid in drawn:
        of_class = {f"train/{wnid}/images/{Path(path).stem}.JPEG": (wnid, path) for path in images[wnid]}
        others, held = hold_out(list(of_class), val_per_class, seed, wnid)
        train += others
        val += held
        found |= of_class
    test, no_test = _test_images(root, named)
    found |= test
    class_of = {name: wnid for name, (wnid, _) in found.items()}
    paths = {name: path for name, (_, path) in found.items() if path != f"{root}/{name}"}
    drawn_by: dict[str, object] = {"seed": seed, "classes": classes, "val_per_class": val_per_class}
    return Split(root, named, train, val, list(test), drawn_by, class_of, paths, no_test)


def _check_train_images(root: Path, named: dict[str, str], images: dict[str, list[str]], seed: int) -> None:
    missing = [f"{wnid} ({named[wnid]})" for wnid in named if not images[wnid]]
    if missing:
        listed = ", ".join(missing[:3] + ["..."] * (len(missing) > 3))
        raise InputError(
            f"{root / 'train'} lacks the images of {len(missing)} of the {len(named)} classes drawn by data.seed={seed}: "
            f"{listed}; choose another data.seed or data.classes (present takes what is there), or data that holds them."
        )
    fewest, most = (choose(named, key=lambda wnid: len(images[wnid])) for choose in (min, max))
    if 2 * len(images[fewest]) < len(images[most]):
        log.warning(
            f"Class {fewest} ({named[fewest]}) has {len(images[fewest])} train images where others have {len(images[most])}: "
            f"is {root} complete?"
        )


def _test_images(root: Path, classes: Collection[str]) -> tuple[dict[str, tuple[str, str]], str]:
    """The official validation images of these classes, official name -> (class, path), sorted; or none, and why."""
    folder = _child(root, *VAL)
    lists = [_rows(_child(place, "val_annotations.txt")) for place in (root, folder / "images", folder)]
    listed = {Path(fields[0]).stem: fields[1] for rows in lists for fields in rows if len(fields) > 1}
    found: dict[tuple[str, str], str] = {}
    for path in _images(folder):
        stem, wnid = Path(path).stem, Path(path).relative_to(folder).parts[0]
        wnid = wnid if wnid in classes else listed.get(stem, "")  # the folder that it lies in, or else what the list says
        if wnid in classes:
            found[stem, wnid] = path
    stems = {stem for stem, _ in found}
    lacking = {wnid for stem, wnid in listed.items() if wnid in classes and stem not in stems}
    lacking |= set(classes) - {wnid for _, wnid in found}
    if lacking:
        return {}, (
            f"{folder}, the test set, lacks images of {len(lacking)} of the {len(classes)} classes drawn, or "
            "val_annotations.txt, which says what they show: get the whole set, or have train.py do without by test=false."
        )
    unique = len(stems) == len(found)  # as in the official layout
    names = {f"val/{'images' if unique else wnid}/{stem}.JPEG": (wnid, path) for (stem, wnid), path in found.items()}
    return dict(sorted(names.items())), ""


def _images(folder: Path | str) -> list[str]:
    found = []
    for entry in _visible(folder):
        if entry.is_dir():
            found += _images(entry.path)
        elif entry.name.lower().endswith(IMG_EXTENSIONS):
            found.append(entry.path)
    return found


def _rows(path: Path) -> Iterator[list[str]]:
    """The fields of a list's lines, whatever blanks separate them; none without such a file."""
    content = path.read_bytes() if path.is_file() else b""
    encoding = "utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
    return (fields for line in content.decode(encoding, "replace").splitlines() if (fields := line.split()))


class TinyImageNet(ImageDataModule):
    """A seeded draw of Tiny ImageNet's classes; the official validation images are the test split. For the options see
    `provide`, `read_split` and `ImageDataModule`.
    """

    def __init__(
        self,
        root: str,
        archive: str | None = None,
        url: str = "https://cs231n.stanford.edu/tiny-imagenet-200.zip",
        md5: str = "90528d7ca1a48142e341f4ef8d21d0de",
        classes: int | str | None = 20,
        val_per_class: int = 50,
        seed: int = 0,
        **loading: float | None,
    ) -> None:
        super().__init__(**loading)  # type: ignore[arg-type]
        self.root = expand(root)
        self.archive = None if archive is None else expand(archive)
        self.url, self.md5 = url, md5
        self.classes, self.val_per_class, self.seed = classes, val_per_class, seed

    def prepare_data(self) -> None:
        if "split" not in vars(self):
            provide(self.root, self.archive, self.url, self.md5)

    def find_split(self) -> Split:
        root = find_root(self.root)
        if root is None:
            raise _no_data(self.root)
        return read_split(root.resolve(), self.classes, self.val_per_class, self.seed)
