"""Files that are whole or absent: written beside their place, synced, renamed."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file for writing that appears at `path` only when the block has ended without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a failed write doesn't say of which file
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Writes the bytes to `path`, all of them or none."""
    with whole_file(path) as file:
        file.write(content)


def expand(path: str) -> Path:
    """The path with `~` replaced by the home folder; an unknown user's is left as it is, to be missed like any other."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises where there is no such user


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
