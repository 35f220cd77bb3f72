"""Archives from anywhere, read safely: zip and tar, told apart by their content, also tar in gzip, bzip2 or xz."""

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from inversion.core.errors import InputError
from inversion.core.file_kinds import kind_of

MOST_FILES = 1_000_000
MOST_BYTES = 4 << 30
MOST_BYTES_OF_ONE = 64 << 20
"""What an archive may unpack to; Tiny ImageNet takes 240 MB in 120,000 small files."""

DECOMPRESSORS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}

Wanted = Callable[[PurePosixPath], bool]
Files = Iterator[tuple[PurePosixPath, bytes]]


def read_files(archive: Path, wanted: Wanted) -> Files:
    """The wanted files of an archive: (path, content). Shows progress.

    Every member must be a file or a folder whose path stays within the archive, and sizes are limited: in a zip all of that
    is checked before the first file is given out, in a tar as it is read. Checksums are verified where the format has them.
    Raises InputError: no such archive, a damaged, cut off or encrypted one, or one with an unsafe member or too much in it.
    """
    with archive.open("rb") as file:
        head = file.read(512)
        is_zip = head.startswith(b"PK") or (head[257:262] != b"ustar" and zipfile.is_zipfile(file))
        file.seek(0)
        try:
            yield from _zip_files(archive, file, wanted) if is_zip else _tar_files(archive, file, head, wanted)
        except InputError:
            raise
        except Exception as error:  # zipfile, tarfile and the decompressors fail in many ways, all of them the archive's fault
            reason = kind_of(archive)
            if reason in (None, "a zip archive", "a compressed file or archive: extract it"):
                reason = str(error) or type(error).__name__
            raise InputError(
                f"{archive} can't be read as a zip or tar archive ({reason}): get it again, or extract it yourself and give "
                "data.root=PATH to the folder."
            ) from error


def _zip_files(archive: Path, file: IO[bytes], wanted: Wanted) -> Files:
    with zipfile.ZipFile(file) as zipped:
        members = [
            (_safe_path(archive, member.filename, not stat.S_ISLNK(member.external_attr >> 16)), member)
            for member in zipped.infolist()
        ]
        members = [(path, member) for path, member in members if wanted(path) and not member.is_dir()]
        sizes = [member.file_size for _, member in members]
        _check_size(archive, len(sizes), sum(sizes), max(sizes, default=0))
        if any(member.flag_bits & 1 for _, member in members):
            raise ValueError("encrypted with a password")
        for path, member in tqdm(members, unit="file", desc=f"Extracting {archive.name}", disable=None):
            yield path, zipped.read(member)


def _tar_files(archive: Path, file: IO[bytes], head: bytes, wanted: Wanted) -> Files:
    opened = next((opened for magic, opened in DECOMPRESSORS.items() if head.startswith(magic)), None)
    stream: IO[bytes] = opened(file, "rb") if opened else file  # type: ignore[operator]
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        total = 0
        for number, member in enumerate(tqdm(tar, unit="file", desc=f"Extracting {archive.name}", disable=None)):
            path = _safe_path(archive, member.name, member.isreg() or member.isdir())
            total += member.size  # what isn't wanted is decompressed as well
            chosen = member.isreg() and wanted(path)
            _check_size(archive, number, total, member.size if chosen else 0)
            if chosen and (content := tar.extractfile(member)):
                yield path, content.read()
        # tarfile ends at a damaged header or a cut as it does at the end, two blocks of zeros; gzip's checksum comes after it
        rest = stream.read(512)
        if not rest:
            raise EOFError("cut off")
        while rest:
            if rest.strip(b"\0"):
                raise ValueError("a damaged header")
            rest = stream.read(1 << 20)


def _safe_path(archive: Path, name: str, is_plain: bool) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if not is_plain or path.is_absolute() or ".." in path.parts or ":" in name:
        raise InputError(f"{archive} holds the unsafe member {name!r}: get Tiny ImageNet from another source.")
    return path


def _check_size(archive: Path, files: int, total: int, largest: int) -> None:
    if files > MOST_FILES or total > MOST_BYTES or largest > MOST_BYTES_OF_ONE:
        raise InputError(
            f"{archive} unpacks to {files} files of {total >> 20} MiB, one of {largest >> 20}, far more than Tiny ImageNet's: "
            "get it from another source."
        )
