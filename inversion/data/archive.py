"""Archives from anywhere: zip and tar, told apart by their content, also tar in gzip, bzip2 or xz."""

import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from inversion.core.errors import InputError
from inversion.core.file_kinds import kind_of


def read_files(archive: Path, wanted: Callable[[PurePosixPath], bool]) -> Iterator[tuple[PurePosixPath, bytes]]:
    """The wanted files of an archive: (path, content). Raises InputError: none, damaged, encrypted, or with unsafe paths."""
    try:
        for name, read in _zip_members(archive) if zipfile.is_zipfile(archive) else _tar_members(archive):
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or ":" in name:
                raise InputError(f"{archive} holds the unsafe member {name!r}: get Tiny ImageNet from another source.")
            if wanted(path):
                yield path, read()
    except InputError:
        raise
    except Exception as error:  # zipfile, tarfile and the decompressors fail in many ways, all of them the archive's fault
        reason = kind_of(archive)
        if reason in (None, "a zip archive", "a compressed file or archive: extract it"):
            reason = str(error).partition("\n")[0].rstrip(":") or type(error).__name__
        raise InputError(
            f"{archive} can't be read as a zip or tar archive ({reason}): get it again, or extract it yourself and give "
            "data.root=PATH to the folder."
        ) from error


def _zip_members(archive: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    with zipfile.ZipFile(archive) as zipped:
        for member in tqdm(zipped.infolist(), unit="file", desc=f"Extracting {archive.name}", disable=None):
            if not member.is_dir():
                yield member.filename, lambda member=member: zipped.read(member)  # type: ignore[misc]


def _tar_members(archive: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    with tarfile.open(archive, errorlevel=2) as tar:
        for member in tqdm(tar, unit="file", desc=f"Extracting {archive.name}", disable=None):
            if member.isreg():
                yield member.name, lambda member=member: tar.extractfile(member).read()  # type: ignore[misc, union-attr]
        stream: Any = tar.fileobj
        stream.seek(tar.offset)  # where tarfile took a cut or a damaged header for the end, which is a block of zeros
        if stream.read(512) != bytes(512):
            raise EOFError("cut off, or with a damaged header")
        while stream.read(1 << 20):  # to gzip's checksum
            pass
