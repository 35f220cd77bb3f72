"""Tiny ImageNet on disk: downloaded or extracted once, safely, and read in its official layout.

The layout: `wnids.txt` (one class id a line), `words.txt` (id, tab, names), `train/<id>/images/*.JPEG`, and a flat
`val/images/` with `val/val_annotations.txt` (file, tab, id, tab, box). The test set has no labels and is left alone.
"""

import logging
import os
import stat
import zipfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from hashlib import md5
from pathlib import Path, PurePosixPath, PureWindowsPath

from filelock import FileLock
from tqdm import tqdm

from inversion.core.download import download
from inversion.core.errors import InputError
from inversion.core.files import atomic_folder, expand, write_atomic
from inversion.data.datamodule import ImageDataModule
from inversion.data.split import Split, check_disjoint, draw_classes, hold_out

log = logging.getLogger(__name__)

FOLDER = "tiny-imagenet-200"
PRESENT = "present"
WANTED = ("wnids.txt", "words.txt", "train", "val")
MOST_BYTES = 4 << 30
MOST_BYTES_OF_ONE = 64 << 20
MOST_MEMBERS = 1_000_000
"""What an archive may unpack to; Tiny ImageNet takes 240 MB in 120,000 small files."""


def find_root(root: Path) -> Path | None:
    """The folder with `wnids.txt`: `root` itself, or `tiny-imagenet-200` in it; None if neither has one.

    Raises:
        InputError: they can't be looked into.
    """
    with _reading(root, "data.root"):
        for folder in (root, root / FOLDER):
            if (folder / "wnids.txt").is_file():
                return folder
    return None


def provide(root: Path, archive: Path | None, url: str, md5_sum: str) -> Path:
    """Sees to it that Tiny ImageNet lies extracted under `root`, and returns its folder.

    What is there already is used. Otherwise `archive` is extracted, or, where none is given, the public one is
    downloaded first. Two processes that ask at once take turns.

    Raises:
        InputError: no such archive, a damaged or unsafe one, one that differs from what `root` was extracted from, a
            download that fails, or a `root` that is no folder, can't be read, or holds a part of the data only.
    """
    if archive is not None:
        _check_is_file(archive)
    found = find_root(root)
    if found is not None:
        _check_same_archive(found, archive)
        return found
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"data.root={root} can't be made a folder ({error.strerror}): give the folder that holds Tiny ImageNet, or shall "
            "hold it."
        ) from error
    with FileLock(root / ".lock"):
        found = find_root(root)
        if found is not None:
            _check_same_archive(found, archive)
            return found
        _check_nothing_in_the_way(root)
        downloaded = None
        if archive is None:
            archive = downloaded = root / f"{FOLDER}.zip"
            if not (downloaded.is_file() and _md5(downloaded) == md5_sum):
                fetch(url, downloaded, md5_sum)
        extract(archive, root / FOLDER)
        if downloaded is not None:
            downloaded.unlink()
    return root / FOLDER


def _check_is_file(archive: Path) -> None:
    with _reading(archive, "data.archive"):
        if archive.is_dir():
            raise InputError(f"data.archive={archive} is a folder: give a zip, or data.root={archive} if it is extracted.")
        if not archive.is_file():
            raise InputError(f"data.archive={archive}: no such file; give the path of a Tiny ImageNet zip.")


def _check_nothing_in_the_way(root: Path) -> None:
    """Refuses data that lost its `wnids.txt`, and anything else where the archive is to be extracted."""
    target = root / FOLDER
    with _reading(root, "data.root"):
        if target.is_symlink() or target.is_file() or (target.is_dir() and any(target.iterdir())):
            in_the_way = target
        elif root.name == FOLDER and any((root / name).exists() for name in WANTED):
            in_the_way = root
        else:
            return
    raise InputError(f"{in_the_way} is there but lacks wnids.txt: delete it, or give another data.root.")


def _check_same_archive(folder: Path, archive: Path | None) -> None:
    if archive is None:
        return
    mark = folder / ".archive.md5"
    with _reading(mark, "data.root"):
        differs = mark.is_file() and mark.read_bytes() != _md5(archive).encode()
    if differs:
        raise InputError(
            f"{folder} was extracted from another archive than {archive}: give another data.root, or delete that folder."
        )
    log.info(f"Using {folder}, extracted earlier.")


def _md5(path: Path) -> str:
    digest = md5(usedforsecurity=False)
    with _reading(path, "data.archive"), path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _reading(path: Path, option: str) -> Iterator[None]:
    """Around what reads `path`, and writes nothing: tells in a sentence that it can't be read."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or path} can't be read ({error.strerror or error}): make it readable, or give another {option}."
        ) from error


def fetch(url: str, archive: Path, md5_sum: str) -> None:
    """Downloads the public archive. Raises InputError: no web address, or what `download` raises."""
    advice = "give data.archive=PATH to a copy of the zip, or data.root=PATH to the extracted folder"
    if not str(url).lower().startswith(("http://", "https://")):
        raise InputError(f"data.url={url} is no http or https address: leave it as it is, or {advice}.")
    download(url, archive, "Tiny ImageNet", "md5", md5_sum, advice)


def extract(archive: Path, target: Path) -> None:
    """Extracts the archive's folder `tiny-imagenet-200` as `target`, which appears only when whole.

    Every member is checked (no absolute path, no `..`, no link, no more bytes than Tiny ImageNet could have) before the first
    is written, and its checksum while it is read. The unlabelled test images are left out.

    Raises:
        InputError: no zip, a damaged one, an unsafe member, no Tiny ImageNet inside, or no room for it.
    """
    with _reading_zip(archive):
        file = zipfile.ZipFile(archive)
    with file:
        members = _wanted_members(file, archive)
        try:
            with atomic_folder(target) as temporary:
                for member, inner in tqdm(members, unit="file", desc=f"Extracting {archive.name}", disable=None):
                    path = temporary.joinpath(*inner.parts)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("wb") as sink:
                        sink.writelines(_blocks(file, member, archive))
                write_atomic(temporary / ".archive.md5", _md5(archive).encode())
        except OSError as error:
            raise InputError(
                f"{archive} can't be extracted to {target} ({error.strerror or error}): make room there, or give another "
                "data.root."
            ) from error


def _blocks(file: zipfile.ZipFile, member: zipfile.ZipInfo, archive: Path) -> Iterator[bytes]:
    with _reading_zip(archive), file.open(member) as source:
        while block := source.read(1 << 20):
            yield block


@contextmanager
def _reading_zip(archive: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # zipfile and its decompressors fail in many ways, and all of them are the file's fault
        if isinstance(error, OSError) and error.strerror:
            with _reading(archive, "data.archive"):
                raise
        reason = str(error) or type(error).__name__
        raise InputError(
            f"{archive} is no whole zip archive ({reason}): get it again, or give another data.archive."
        ) from error


def _wanted_members(file: zipfile.ZipFile, archive: Path) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    members = []
    for member in file.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in member.filename or stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(f"{archive} holds the unsafe member {member.filename!r}: get Tiny ImageNet from another source.")
        if len(path.parts) > 1 and path.parts[0] == FOLDER and path.parts[1] in WANTED and not member.is_dir():
            members.append((member, PurePosixPath(*path.parts[1:])))
    total, largest = (f([member.file_size for member, _ in members] or [0]) for f in (sum, max))
    if total > MOST_BYTES or largest > MOST_BYTES_OF_ONE or len(members) > MOST_MEMBERS:
        raise InputError(
            f"{archive} would unpack to {len(members)} files of {total >> 20} MiB, the largest {largest >> 20}, far more than "
            "Tiny ImageNet's: get it from another source."
        )
    files = {inner for _, inner in members}
    if PurePosixPath("wnids.txt") not in files:
        raise InputError(f"{archive} is a zip without {FOLDER}/wnids.txt, so not Tiny ImageNet: give another data.archive.")
    if both := files & {folder for inner in files for folder in inner.parents}:
        raise InputError(f"{archive} holds {min(both)} as a file and as a folder: get Tiny ImageNet from another source.")
    return members


def read_split(root: Path, classes: int | str | None, val_per_class: int, seed: int) -> Split:
    """Draws the classes and splits their images: train and val from the train set, test is the official validation set.

    Args:
        root: Tiny ImageNet's folder.
        classes: how many to draw of those in `wnids.txt`; None takes all, `PRESENT` those whose train images are there.
        val_per_class: train images of each class that are set aside for validation.
        seed: of both draws.

    Raises:
        InputError: a class's images are missing or too few, or a file of the layout is missing or damaged.
    """
    ids = _read_lines(root / "wnids.txt")
    names = dict(line.split("\t", 1) for line in _read_lines(root / "words.txt") if "\t" in line)
    if classes == PRESENT:
        with _reading(root / "train", "data.root"):
            ids = [wnid for wnid in ids if (root / "train" / wnid / "images").is_dir()]
    drawn = draw_classes(ids, None if classes == PRESENT else classes, seed)
    named = {wnid: names.get(wnid, wnid).split(",")[0] for wnid in drawn}
    with _reading(root / "train", "data.root"):
        missing = [wnid for wnid in drawn if not (root / "train" / wnid / "images").is_dir()]
    if missing:
        listed = ", ".join(f"{wnid} ({named[wnid]})" for wnid in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise InputError(
            f"{root / 'train'} lacks the images of {len(missing)} of the {len(drawn)} classes drawn by data.seed={seed}: "
            f"{listed}; choose another data.seed or data.classes, or data that holds them."
        )
    train: list[str] = []
    val: list[str] = []
    class_of: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for wnid in drawn:
        images = [name for name in _listed(root / "train" / wnid / "images") if _is_image(name)]
        kept, held = hold_out(images, val_per_class, seed, wnid)
        train += [f"train/{wnid}/images/{name}" for name in kept]
        val += [f"train/{wnid}/images/{name}" for name in held]
        class_of |= {f"train/{wnid}/images/{name}": wnid for name in images}
        sizes[wnid] = len(images)
    fewest, most = min(sizes, key=lambda wnid: sizes[wnid]), max(sizes.values())
    if 2 * sizes[fewest] < most:
        log.warning(
            f"Class {fewest} ({named[fewest]}) has {sizes[fewest]} train images where others have {most}: is {root} whole?"
        )
    class_of |= {f"val/images/{name}": wnid for name, wnid in _test_images(root / "val", named).items()}
    test = [file for file in class_of if file.startswith("val/")]
    check_disjoint({"train": train, "val": val, "test": test})
    drawn_by: dict[str, object] = {"seed": seed, "classes": classes, "val_per_class": val_per_class}
    return Split(root, named, train, val, test, drawn_by, class_of)


def _test_images(folder: Path, classes: Container[str]) -> dict[str, str]:
    """The official validation images of these classes: name -> class, sorted by name."""
    annotations = folder / "val_annotations.txt"
    labels = [line.split("\t") for line in _read_lines(annotations)]
    if any(len(label) < 2 for label in labels):
        raise InputError(f"{annotations} is damaged (a line without a tab): extract the data again.")
    names = dict(sorted((label[0], label[1]) for label in labels if label[1] in classes))
    if paths := [name for name in names if PureWindowsPath(name).name != name or name == ".."]:  # knows / and \ and C:
        raise InputError(f"{annotations} is damaged ({paths[0]!r} is no bare file name): extract the data again.")
    listed = set(_listed(folder / "images"))
    if missing := [name for name in names if name not in listed]:
        raise InputError(
            f"{folder / 'images'} lacks {len(missing)} of the {len(names)} test images of the drawn classes ({missing[0]!r} "
            "first): extract the data again, or choose another data.seed or data.classes."
        )
    return names


def _listed(folder: Path) -> list[str]:
    with _reading(folder, "data.root"):
        return os.listdir(folder)


def _read_lines(path: Path) -> list[str]:
    with _reading(path, "data.root"):
        try:
            return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (FileNotFoundError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path} is missing or no text, so the data isn't whole Tiny ImageNet: extract it again."
            ) from error


def _is_image(name: str) -> bool:
    return name.lower().endswith((".jpeg", ".jpg", ".png")) and not name.startswith(".")


class TinyImageNet(ImageDataModule):
    """A seeded draw of Tiny ImageNet's classes; the official validation images are the test split.

    Args:
        root: folder that holds Tiny ImageNet, or will hold it.
        archive: a zip to extract into `root` if nothing is there.
        url, md5: where the archive is downloaded from if `root` is empty and no archive is given, and its checksum.
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
            raise InputError(f"data.root={self.root} holds no Tiny ImageNet (wnids.txt is missing): call prepare_data first.")
        return read_split(root.resolve(), self.classes, self.val_per_class, self.seed)
