"""Files and folders that are whole or absent: written beside their place, synced, renamed. And folders kept to one process."""

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from inversion.core.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]
"""The folder that holds `train.py`, `conf/`, and by default `data/` and `outputs/`."""

PARTIAL = ".partial"
"""Ends the names of what is being written."""

LOCK = ".lock"
"""The file that a process locks while a folder is its own."""


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file for writing that appears at `path` only when the block has ended without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(FileNotFoundError):  # interrupted just after it got its name
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a failed write doesn't say of which file
        raise


def write_atomic(path: Path, content: bytes) -> None:
    """Writes the bytes to `path`, all of them or none."""
    with atomic_file(path) as file:
        file.write(content)


def save_atomic(path: Path, content: Any) -> None:
    """Writes to `path` what `torch.load` reads, all of it or nothing.

    Raises:
        OSError: it can't be written. torch hides what it meets in the middle of a large tensor behind an error of its own.
    """
    import torch  # not at the top: --help does without it

    with atomic_file(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Gives a new folder to fill, which appears at `path` only when the block has ended without an error.

    What killed processes left of it goes first: the caller holds a lock.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL}"):
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if hasattr(os, "sync"):  # once for all, as a hundred thousand files would take minutes one by one
            os.sync()
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Refuses the output folder to others until the block ends, or this process does, by whatever cause. Files that killed
    processes left half-written in it are removed.

    Raises:
        InputError: another process has it.
    """
    lock = FileLock(folder / LOCK, timeout=0.5)  # longer than is_locked has it
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{folder} is in use by another run: wait for it, or give another hydra.run.dir (hydra.sweep.dir for a sweep)."
        ) from None
    try:
        for left in [*folder.glob(f".*{PARTIAL}"), *folder.glob(f"checkpoints/.*{PARTIAL}")]:
            left.unlink()
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a process, this one or another, keeps the folder to itself."""
    if not (folder / LOCK).is_file():
        return False
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        with lock:
            return False
    except Timeout:
        return True


def free_bytes(folder: Path) -> int:
    """How much may still be written to the disk that the folder is on, or will be on once it is made."""
    return shutil.disk_usage(next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())).free


def expand(path: str) -> Path:
    """The path with `~` replaced by the home folder; an unknown user's is left as it is, to be missed like any other."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises where there is no such user


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
