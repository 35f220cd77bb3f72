"""Tiny ImageNet on disk: downloaded or extracted once, safely, and read in its official layout.

The layout: `wnids.txt` (one class id a line), `words.txt` (id, tab, names), `train/<id>/images/*.JPEG`, and a flat
`val/images/` with `val/val_annotations.txt` (file, tab, id, tab, box). The test set has no labels and is left alone.
"""

import logging
import os
import shutil
import stat
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from hashlib import md5
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from filelock import FileLock
from tqdm import tqdm

from inversion.errors import InputError
from inversion.files import whole_file, write_whole
from inversion.split import Split, check_disjoint, draw_classes, hold_out

log = logging.getLogger(__name__)

FOLDER = "tiny-imagenet-200"
WANTED = ("wnids.txt", "words.txt", "train", "val")


def find_root(root: Path) -> Path | None:
    """The folder with `wnids.txt`: `root` itself, or `tiny-imagenet-200` in it; None if neither has one."""
    for folder in (root, root / FOLDER):
        if (folder / "wnids.txt").is_file():
            return folder
    return None


def provide(root: Path, archive: Path | None, url: str, md5_sum: str) -> Path:
    """Sees to it that Tiny ImageNet lies extracted under `root`, and returns its folder.

    What is there already is used. Otherwise `archive` is extracted, or, where none is given, the public one is
    downloaded first. Two processes that ask at once take turns.

    Raises:
        InputError: no such archive, a damaged or unsafe one, one that differs from what `root` was extracted from, or a
            download that fails.
    """
    if archive is not None and not archive.is_file():
        raise InputError(f"data.archive={archive}: no such file; give the path of a Tiny ImageNet zip.")
    if root.is_file():
        raise InputError(f"data.root={root} is a file: give the folder that holds Tiny ImageNet, or shall hold it.")
    found = find_root(root)
    if found is not None and archive is None:
        return found
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):
        found = find_root(root)
        if found is not None:
            _check_same_archive(found, archive)
            return found
        downloaded = None
        if archive is None:
            archive = downloaded = root / Path(url).name
            if not (downloaded.is_file() and _md5(downloaded) == md5_sum):
                download(url, downloaded, md5_sum)
        extract(archive, root / FOLDER)
        if downloaded is not None:
            downloaded.unlink()
    return root / FOLDER


def _check_same_archive(folder: Path, archive: Path | None) -> None:
    mark = folder / ".archive.md5"
    if archive is None:
        return
    if mark.is_file() and mark.read_text() != _md5(archive):
        raise InputError(
            f"{folder} was extracted from another archive than {archive}: give another data.root, or delete that folder."
        )
    log.info(f"Using {folder}, extracted earlier.")


def _md5(path: Path) -> str:
    digest = md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def download(url: str, path: Path, md5_sum: str, timeout: float = 10) -> None:
    """Fetches `url` to `path` with a progress bar; the file appears only when whole and of this MD5.

    Raises:
        InputError: no network, an HTTP error, or a file with another MD5.
    """
    advice = "give data.archive=PATH to a copy of the zip, or data.root=PATH to the extracted folder"
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response, whole_file(path) as file:
            total = int(response.headers.get("Content-Length", 0)) or None
            digest = md5(usedforsecurity=False)
            with tqdm(total=total, unit="B", unit_scale=True, desc=f"Downloading {path.name}", disable=None) as bar:
                while block := response.read(1 << 18):
                    file.write(block)
                    digest.update(block)
                    bar.update(len(block))
            if digest.hexdigest() != md5_sum:
                raise InputError(f"What {url} sent is not Tiny ImageNet (MD5 {digest.hexdigest()}): {advice}.")
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(f"Tiny ImageNet can't be downloaded from {url} ({reason}): {advice}.") from error


def extract(archive: Path, target: Path) -> None:
    """Extracts the archive's folder `tiny-imagenet-200` as `target`, which appears only when whole.

    Every member is checked (no absolute path, no `..`, no link) before the first is written, and its checksum while it is
    read. The unlabelled test images are left out.

    Raises:
        InputError: no zip, a damaged one, an unsafe member, or no Tiny ImageNet inside.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = _wanted_members(file, archive)
            temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            try:
                for member, inner in tqdm(members, unit="file", desc=f"Extracting {archive.name}", disable=None):
                    path = temporary.joinpath(*inner.parts)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with file.open(member) as source, path.open("wb") as sink:
                        shutil.copyfileobj(source, sink)
                write_whole(temporary / ".archive.md5", _md5(archive).encode())
                temporary.chmod(0o755)
                os.replace(temporary, target)
            except OSError as error:
                error.filename = str(target)
                raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise InputError(
            f"{archive} is no whole zip archive ({error}): get it again, or give another data.archive."
        ) from error


def _wanted_members(file: zipfile.ZipFile, archive: Path) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    members = []
    for member in file.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in member.filename or stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(f"{archive} holds the unsafe member {member.filename!r}: get Tiny ImageNet from another source.")
        if len(path.parts) > 1 and path.parts[0] == FOLDER and path.parts[1] in WANTED and not member.is_dir():
            members.append((member, PurePosixPath(*path.parts[1:])))
    if PurePosixPath("wnids.txt") not in {inner for _, inner in members}:
        raise InputError(f"{archive} is a zip without {FOLDER}/wnids.txt, so not Tiny ImageNet: give another data.archive.")
    return members


def read_split(root: Path, classes: int | None, val_per_class: int, seed: int) -> Split:
    """Draws the classes and splits their images: train and val from the train set, test is the official validation set.

    Args:
        root: Tiny ImageNet's folder.
        classes: how many to draw of those in `wnids.txt`; None takes all.
        val_per_class: train images of each class that are set aside for validation.
        seed: of both draws.

    Raises:
        InputError: a class's images are missing or too few, or a file of the layout is missing or damaged.
    """
    ids = _read_lines(root / "wnids.txt")
    names = dict(line.split("\t", 1) for line in _read_lines(root / "words.txt") if "\t" in line)
    drawn = draw_classes(ids, classes, seed)
    named = {wnid: names.get(wnid, wnid).split(",")[0] for wnid in drawn}
    missing = [wnid for wnid in drawn if not (root / "train" / wnid / "images").is_dir()]
    if missing:
        listed = ", ".join(f"{wnid} ({named[wnid]})" for wnid in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise InputError(
            f"{root / 'train'} lacks the images of {len(missing)} of the {len(drawn)} classes drawn by data.seed={seed}: "
            f"{listed}; choose another data.seed or data.classes, or data that holds them."
        )
    labels = [line.split("\t") for line in _read_lines(root / "val" / "val_annotations.txt")]
    if any(len(label) < 2 for label in labels):
        raise InputError(f"{root / 'val' / 'val_annotations.txt'} is damaged (a line without a tab): extract the data again.")
    train: list[str] = []
    val: list[str] = []
    for wnid in drawn:
        folder = root / "train" / wnid / "images"
        kept, held = hold_out([path.name for path in folder.iterdir() if _is_image(path)], val_per_class, seed, wnid)
        train += [f"train/{wnid}/images/{name}" for name in kept]
        val += [f"train/{wnid}/images/{name}" for name in held]
    test = sorted(f"val/images/{label[0]}" for label in labels if label[1] in named)
    check_disjoint({"train": train, "val": val, "test": test})
    drawn_by: dict[str, object] = {"seed": seed, "classes": classes, "val_per_class": val_per_class}
    return Split(root, named, train, val, test, drawn_by)


def _read_lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is missing or no text, so the data isn't whole Tiny ImageNet: extract it again.") from error


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in (".jpeg", ".jpg", ".png") and not path.name.startswith(".")
