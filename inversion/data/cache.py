"""Arrays that cost time to make and never change, kept on disk: made once, mapped into memory, shared by all runs.

An entry is one `.npy` file whose name holds a hash of everything it was made from, so what is stale is never found. Entries
are reserved on disk before they are filled, filled under another name, synced and renamed: under its own name an entry is
complete, and one that was cut since is told by its size. A lock makes those who want to fill at once take turns.
"""

import errno
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inversion.core.errors import InputError
from inversion.core.files import PARTIAL, lock

log = logging.getLogger(__name__)

FORMAT = 2
"""Version of what the entries hold; another one never finds them."""
SPARE = 256 << 20
"""Bytes that are left free on the disk."""


@dataclass(frozen=True)
class Entry:
    """An array that may lie in the cache."""

    name: str
    """What it is, for its file's name and the log; unique among the entries asked for together."""
    key: Mapping[str, Any]
    """All it depends on, in JSON's types."""
    shape: tuple[int, ...]
    dtype: str

    @property
    def digest(self) -> str:
        return sha256(json.dumps([FORMAT, self.key, self.shape, self.dtype], sort_keys=True).encode()).hexdigest()

    @property
    def file_name(self) -> str:
        return f"{self.name.replace(' ', '-')}-{self.digest[:24]}.npy"

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Cache:
    """A folder of entries, made when something is first put in. It may be deleted at any time but while a run reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, entries: Sequence[Entry], fill: Callable[[dict[str, np.ndarray]], None]) -> list[Tensor]:
        """The entries as tensors that are mapped from disk; first, `fill` is given the missing ones by name, to write to.

        Raises InputError: the folder can't be written, or the disk has no room.
        """
        if not self.holds(entries):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with lock(self.folder / ".lock"):
                    self._make(self._missing(entries), fill)
            except OSError as error:
                raise InputError(
                    f"data.cache={self.folder} can't be written ({error.strerror}): give another data.cache=PATH."
                ) from error
        return [self._open(entry) for entry in entries]

    def holds(self, entries: Sequence[Entry]) -> bool:
        """Whether all of them are there and complete."""
        return not self._missing(entries)

    def has_room(self, entries: Sequence[Entry]) -> bool:
        """Whether the disk holds those of the entries that aren't there yet."""
        needed = sum(entry.nbytes for entry in self._missing(entries))
        left = 0  # which goes before anything is made
        for path in self._partial():
            with suppress(FileNotFoundError):  # finished meanwhile
                left += path.stat().st_blocks * 512
        place = next(path for path in (self.folder.absolute(), *self.folder.absolute().parents) if path.exists())
        return not needed or shutil.disk_usage(place).free + left > needed + SPARE

    def _partial(self) -> list[Path]:
        return list(self.folder.glob(f"*{PARTIAL}"))

    def _missing(self, entries: Sequence[Entry]) -> list[Entry]:
        missing = []
        for entry in entries:
            try:
                self._open(entry)
            except (OSError, ValueError, EOFError, SyntaxError) as error:
                missing.append(entry)
                if not isinstance(error, FileNotFoundError | NotADirectoryError):
                    log.warning(f"{self.folder / entry.file_name} is damaged and is made again.")
        return missing

    def _open(self, entry: Entry) -> Tensor:
        path = self.folder / entry.file_name
        array = np.load(path, mmap_mode="c", allow_pickle=False)  # pages are private if written to, which nobody does
        if array.shape != entry.shape or array.dtype != np.dtype(entry.dtype):
            raise ValueError("not what its name says")
        return torch.from_numpy(array)

    def _make(self, entries: Sequence[Entry], fill: Callable[[dict[str, np.ndarray]], None]) -> None:
        for left in self._partial():  # of a process that was killed: whoever holds the lock is alone
            left.unlink()
        if not self.has_room(entries):
            needed = (sum(entry.nbytes for entry in entries) + SPARE) >> 20
            raise OSError(errno.ENOSPC, f"it takes {needed} MiB free on its disk")
        paths = {entry.name: self.folder / f"{entry.file_name}{PARTIAL}" for entry in entries}
        try:
            arrays: dict[str, np.ndarray] = {entry.name: _reserve(paths[entry.name], entry) for entry in entries}
            if arrays:
                fill(arrays)
            for entry in entries:
                arrays.pop(entry.name).flush()  # type: ignore[attr-defined]
                os.replace(paths[entry.name], self.folder / entry.file_name)
                log.info(f"Cached {entry.name}: {entry.nbytes / 2**20:.0f} MiB in {self.folder / entry.file_name}")
        finally:
            for path in paths.values():
                path.unlink(missing_ok=True)


def _reserve(path: Path, entry: Entry) -> np.ndarray:
    """An array in a new file, given all its room on the disk: a full disk says so now, and not by a signal."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(entry.dtype), shape=entry.shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
