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
from pathlib import Path, PurePosixPath

from filelock import FileLock
from torchvision.datasets.folder import IMG_EXTENSIONS

from inversion.core.download import download, hash_of
from inversion.core.errors import InputError
from inversion.core.files import atomic_folder, expand, write_atomic
from inversion.data.archive import read_files
from inversion.data.datamodule import ImageDataModule
from inversion.data.split import Split, draw_classes, hold_out

log = logging.getLogger(__name__)

FOLDER = "tiny-imagenet-200"
ARCHIVE_MARK = ".archive.md5"
"""Holds the hash of the archive that a folder was extracted from."""
SYNTHETIC = ".synthetic.json"
"""Marks a set of synthetic images, which is in the same layout."""
PRESENT = "present"
VAL = ("val", "valid", "validation")
CLASS_ID = re.compile(r"n\d{8}")
ARCHIVE = re.compile(r"tiny.?imagenet.*\.(zip|tar|tgz|tar\.\w+)", re.IGNORECASE)
MOST_FOLDERS = 5000
"""How many folders are searched for the data."""


def find_root(root: Path) -> Path | None:
    """The folder that holds `train/<class id>/`: `root`, `tiny-imagenet-200` in it, or the nearest below it; None without one.

    Raises:
        InputError: several that are equally near.
    """
    for folder in (root, root / FOLDER):
        if _class_folders(folder):
            return folder
    level, searched = [root], 0
    while level and searched < MOST_FOLDERS:
        searched += len(level)
        level = [subfolder for folder in level for subfolder in _subfolders(folder)]
        found = {folder.resolve(): folder for folder in level if _class_folders(folder)}
        if len(found) > 1:
            listed = ", ".join(map(str, found.values()))
            raise InputError(f"data.root={root} holds Tiny ImageNet more than once: give one of {listed} as data.root.")
        if found:
            return found.popitem()[1]
    return None


def _subfolders(folder: Path) -> list[Path]:
    """Folders where the data may lie: those that can be read, but for class folders and sets of synthetic images."""
    found = [Path(entry.path) for entry in _visible(folder) if entry.is_dir() and not CLASS_ID.fullmatch(entry.name)]
    return [path for path in found if os.access(path, os.R_OK | os.X_OK) and not (path / SYNTHETIC).exists()]


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
    """Class id -> the folder of its training images. Ids that aren't WordNet's count where there is a list of them."""
    folders = {entry.name: entry.path for entry in _visible(_child(root, "train")) if entry.is_dir()}
    if not _child(root, "wnids.txt").is_file():
        return {name: path for name, path in folders.items() if CLASS_ID.fullmatch(name)}
    return folders


def provide(root: Path, archive: Path | None, url: str, md5_sum: str) -> Path:
    """Sees to it that Tiny ImageNet lies extracted at or below `root`, and returns its folder.

    What is there already is used. Otherwise `archive` is extracted to `root/tiny-imagenet-200`; where none is given, one that
    lies in `root`, or else the public one, which is downloaded first. Processes that ask at once take turns.

    Raises:
        InputError: no such archive, a damaged or unsafe one, one that differs from what `root` was extracted from, a
            download that fails, or a `root` that is no folder or holds a part of the data only.
    """
    if archive is not None and not archive.is_file():
        what = "a folder" if archive.is_dir() else "no such file"
        raise InputError(f"data.archive={archive} is {what}: give a zip or tar, or data.root=PATH to the extracted folder.")
    if root.is_file():
        raise InputError(f"data.root={root} is a file: give it as data.archive, and as data.root the folder to extract it to.")
    found = find_root(root)
    if found is None:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".lock"):
            found = find_root(root)  # another process may have extracted it meanwhile
            if found is None:
                return _obtain(root, archive, url, md5_sum)
    mark = found / ARCHIVE_MARK
    if archive is not None and mark.is_file() and mark.read_text() != hash_of(archive, "md5"):
        raise InputError(f"{found} was extracted from another archive than {archive}: give another data.root.")
    log.info(f"Using Tiny ImageNet in {found}.")
    return found


def _obtain(root: Path, archive: Path | None, url: str, md5_sum: str) -> Path:
    target = root / FOLDER
    parts = [e for e in _visible(root) if e.name.lower() in ("train", *VAL, "wnids.txt") or CLASS_ID.fullmatch(e.name)]
    if parts or target.is_symlink() or target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise _no_data(root if parts else target)
    lying_there = [Path(entry.path) for entry in _visible(root) if ARCHIVE.fullmatch(entry.name) and entry.is_file()]
    if archive or lying_there:
        extract(archive or lying_there[0], target)
        return target
    downloaded = root / f".{FOLDER}.zip"
    if not (downloaded.is_file() and hash_of(downloaded, "md5") == md5_sum):
        advice = "give data.archive=PATH to a copy of the archive, or data.root=PATH to the extracted folder"
        download(url, downloaded, "Tiny ImageNet", "md5", md5_sum, advice)
    extract(downloaded, target)
    downloaded.unlink()
    return target


def _no_data(folder: Path) -> InputError:
    return InputError(
        f"{folder} holds no train/ with class folders (n01443537, ...), so no Tiny ImageNet: give the folder that holds train/"
        f" as data.root, or use data=folder data.root={folder} for images in other folders."
    )


def extract(archive: Path, target: Path) -> None:
    """Extracts the data that the archive holds, at any depth, as `target`, which appears only when whole.

    Images and lists are extracted, the unlabelled test images left out.

    Raises:
        InputError: no archive, a damaged or unsafe one (see `read_files`), no Tiny ImageNet inside, or no room for it.
    """
    try:
        with atomic_folder(target) as temporary:
            everything = temporary / ".archive"  # hidden files aren't extracted, so nothing can clash with it
            for path, content in read_files(archive, _is_wanted):
                (everything / path).parent.mkdir(parents=True, exist_ok=True)
                (everything / path).write_bytes(content)
            found = find_root(everything)
            if found is None:
                raise InputError(
                    f"{archive} holds no train/ with class folders (n01443537, ...), so not Tiny ImageNet: give another "
                    "data.archive."
                )
            for entry in list(found.iterdir()):
                entry.rename(temporary / entry.name)
            shutil.rmtree(everything)
            write_atomic(temporary / ARCHIVE_MARK, hash_of(archive, "md5").encode())
    except OSError as error:
        if error.filename == str(archive):
            raise
        raise InputError(
            f"{archive} can't be extracted to {target} ({error.strerror}): make room there, or give another data.root."
        ) from error


def _is_wanted(path: PurePosixPath) -> bool:
    folders = [part.lower() for part in path.parts[:-1]]
    is_test = "test" in folders and not {"train", *VAL} & set(folders)
    is_hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not is_hidden and path.suffix.lower() in (".txt", *(() if is_test else IMG_EXTENSIONS))


def read_split(root: Path, classes: int | str | None, val_per_class: int, seed: int) -> Split:
    """Draws the classes and splits their images: train and val from the train set, test is the official validation set.

    Args:
        root: Tiny ImageNet's folder.
        classes: how many to draw of those in `wnids.txt`, or without it of the class folders; None takes all, `PRESENT` those
            whose train images are there.
        val_per_class: train images of each class that are set aside for validation.
        seed: of both draws.

    Raises:
        InputError: a class's train images are missing or too few. Missing test images are the split's `no_test`.
    """
    folders = _class_folders(root)
    ids = list({wnid for wnid, *_ in _rows(_child(root, "wnids.txt"))})
    if not ids:
        ids = list(folders)
        log.info(f"{root} has no list of classes (wnids.txt): they are its {len(ids)} class folders.")
    if classes == PRESENT:
        ids = [wnid for wnid in ids if wnid in folders and _images(folders[wnid])]
    drawn = draw_classes(ids, None if classes == PRESENT else classes, seed)
    chosen = set(drawn)
    words = {wnid: " ".join(words) for wnid, *words in _rows(_child(root, "words.txt")) if wnid in chosen}
    named = {wnid: words.get(wnid, "").split(",")[0] or wnid for wnid in drawn}
    images = {wnid: _images(folders[wnid]) if wnid in folders else [] for wnid in drawn}
    _check_train_images(root, named, images, seed)
    train: list[str] = []
    val: list[str] = []
    class_of: dict[str, str] = {}
    paths: dict[str, str] = {}
    for wnid in drawn:
        found = {f"train/{wnid}/images/{_stem(path)}.JPEG": path for path in images[wnid]}
        others, held = hold_out(list(found), val_per_class, seed, wnid)
        train += others
        val += held
        paths |= found
        class_of |= dict.fromkeys(found, wnid)
    test, no_test = _test_images(root, named)
    class_of |= {name: wnid for name, (wnid, _) in test.items()}
    paths |= {name: path for name, (_, path) in test.items()}
    paths = {name: path for name, path in paths.items() if path != f"{root}/{name}"}
    drawn_by: dict[str, object] = {"seed": seed, "classes": classes, "val_per_class": val_per_class}
    return Split(root, named, train, val, list(test), drawn_by, class_of, paths, no_test)


def _check_train_images(root: Path, named: dict[str, str], images: dict[str, list[str]], seed: int) -> None:
    """Refuses classes without images, and warns of one that has far fewer than others."""
    missing = [wnid for wnid in named if not images[wnid]]
    if missing:
        listed = ", ".join(f"{wnid} ({named[wnid]})" for wnid in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise InputError(
            f"{root / 'train'} lacks the images of {len(missing)} of the {len(named)} classes drawn by data.seed={seed}: "
            f"{listed}; choose another data.seed or data.classes (present takes what is there), or data that holds them."
        )
    sizes = {wnid: len(images[wnid]) for wnid in named}
    fewest, most = min(named, key=sizes.__getitem__), max(sizes.values())
    if 2 * sizes[fewest] < most:
        log.warning(
            f"Class {fewest} ({named[fewest]}) has {sizes[fewest]} train images where others have {most}: is {root} whole?"
        )


def _test_images(root: Path, classes: Collection[str]) -> tuple[dict[str, tuple[str, str]], str]:
    """The official validation images of these classes, official name -> (class, path), sorted; or none, and why.

    The class is the folder that an image lies in, or else what `val_annotations.txt` says.
    """
    folder = _child(root, *VAL)
    lists = [_rows(_child(place, "val_annotations.txt")) for place in (root, folder / "images", folder)]
    listed = {_stem(fields[0]): fields[1] for rows in lists for fields in rows if len(fields) > 1}
    found: dict[tuple[str, str], str] = {}
    for path in _images(folder):
        wnid = path[len(str(folder)) + 1 :].partition(os.sep)[0]
        wnid = wnid if wnid in classes else listed.get(_stem(path), "")
        if wnid in classes:
            found[_stem(path), wnid] = path
    stems = {stem for stem, _ in found}
    missing = [stem for stem, wnid in listed.items() if wnid in classes and stem not in stems]
    without = set(classes) - {wnid for _, wnid in found}
    if missing or without:
        what = f"lacks images of {len(without)} of the classes drawn, or val_annotations.txt, which says what they show"
        if missing:
            what = f"lacks {len(missing)} images of the classes drawn that val_annotations.txt lists ({missing[0]} first)"
        elif not folder.exists():
            what = "is missing"
        return {}, f"{folder}, the test set, {what}: get the whole set, or train without a test by test=false."
    unique = len(stems) == len(found)  # as in the official layout
    names = {key: f"val/{'images' if unique else key[1]}/{key[0]}.JPEG" for key in found}
    return {names[key]: (key[1], found[key]) for key in sorted(found, key=names.__getitem__)}, ""


def _images(folder: Path | str) -> list[str]:
    """Paths of the images below a folder."""
    found = []
    for entry in _visible(folder):
        if entry.is_dir():
            found += _images(entry.path)
        elif entry.name.lower().endswith(IMG_EXTENSIONS):
            found.append(entry.path)
    return found


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]  # noqa: PTH119, PTH122 - quicker, for 100,000 of them


def _rows(path: Path) -> Iterator[list[str]]:
    """The fields of a list's lines, whatever blanks separate them; none without such a file."""
    content = path.read_bytes() if path.is_file() else b""
    encoding = "utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
    return (fields for line in content.decode(encoding, "replace").splitlines() if (fields := line.split()))


class TinyImageNet(ImageDataModule):
    """A seeded draw of Tiny ImageNet's classes; the official validation images are the test split.

    Args:
        root: folder that holds Tiny ImageNet at any depth, or will hold it.
        archive: a zip or tar to extract into `root` if nothing is there.
        url, md5: where the archive is downloaded from if `root` holds nothing and no archive is given, and its checksum.
        classes: how many classes to draw; None takes all, `present` those whose train images are there.
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
        """Downloads or extracts what isn't there yet."""
        if self._split is None:
            provide(self.root, self.archive, self.url, self.md5)

    def find_split(self) -> Split:
        root = find_root(self.root)
        if root is None:
            raise _no_data(self.root)
        return read_split(root.resolve(), self.classes, self.val_per_class, self.seed)
