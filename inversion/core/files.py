"""Atomic files and folders (written under another name, synced, renamed), and locks."""

import errno
import functools
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from inversion.core.errors import InputError

log = logging.getLogger(__name__)
warn_once = functools.cache(log.warning)

REPOSITORY = Path(__file__).resolve().parents[2]
"""The folder that holds `train.py`, `conf/`, and by default `data/` and `outputs/`."""
PARTIAL = ".partial"
"""Suffix of files and folders that are still being written."""
LOCK = ".lock"
"""The file in a run's folder that is locked while the run uses it."""
SWEPT_LAYERS = "INVERSION_SWEPT_LAYERS"
"""Environment variable: the layers of the sweep that a job belongs to."""
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
"""What file systems without `flock`, such as some NFS and SMB mounts, answer."""


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file for writing that appears at `path` only if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a failed write doesn't name its file
        raise


def write_atomic(path: Path, content: bytes) -> None:
    """Writes the bytes to `path`, all of them or none."""
    with atomic_file(path) as file:
        file.write(content)


def save_atomic(path: Path, content: Any) -> None:
    """`torch.save`, atomic. Raises OSError if the file can't be written, which torch hides behind an error of its own."""
    import torch  # not at the top: --help needs none of it

    with atomic_file(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Gives a new folder to fill that appears at `path` only if the block ends without an error. The caller holds a lock."""
    temporary = path.with_name(f".{path.name}{PARTIAL}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    temporary.mkdir()
    try:
        yield temporary
        if hasattr(os, "sync"):  # once for all: syncing a hundred thousand files one by one takes minutes
            os.sync()
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def lock(path: Path, timeout: float = -1) -> Iterator[None]:
    """Holds an exclusive lock on a file until the block, or this process, ends. A file system without locks is warned of.

    Raises Timeout if another process holds it for more than `timeout` seconds; -1 waits as long as it takes, and says so.
    """
    file_lock = FileLock(path, fallback_to_soft=False)
    try:
        try:
            file_lock.acquire(timeout=2 if timeout < 0 else timeout)
        except Timeout:
            if timeout >= 0:
                raise
            log.info(f"Waiting for another process that holds {path}")
            file_lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warn_once(f"The file system of {path.parent} has no locks ({error.strerror}): start one run at a time there.")
    try:
        yield
    finally:
        file_lock.release()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks a run's folder and removes what killed processes left half-written. Raises InputError: it is in use."""
    try:
        with lock(folder / LOCK, timeout=0.5):  # longer than `is_locked` holds it
            for left in [*folder.glob(f".*{PARTIAL}"), *folder.glob(f"checkpoints/.*{PARTIAL}")]:
                left.unlink()
            yield
    except Timeout:
        raise InputError(
            f"{folder} is in use by another run: wait for it, or give another hydra.run.dir (hydra.sweep.dir for a sweep)."
        ) from None


def is_locked(folder: Path) -> bool:
    """Whether a process, this one or another, uses the run's folder."""
    if not (folder / LOCK).is_file():
        return False
    try:
        with lock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True


def expand(path: str | int | Path) -> Path:
    """The path, or number as Hydra reads 2024, with `~` replaced by the home folder; that of an unknown user stays."""
    return Path(os.path.expanduser(str(path)))  # noqa: PTH111 - Path.expanduser raises for unknown users
