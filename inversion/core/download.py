"""Downloads that resume after a cut and are checked by a hash."""

import hashlib
import logging
import os
import shutil
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from inversion.core.errors import InputError
from inversion.core.files import PARTIAL

log = logging.getLogger(__name__)

TIMEOUT = 7
"""Seconds of silence after which a connection counts as cut. Each address of a host is tried for so long."""


def download(url: str, path: Path, name: str, algorithm: str, digest: str, advice: str) -> None:
    """Fetches `url` to `path`, which appears only when it is complete and has this hash. If it is there already, that is all.

    What arrived before a cut stays beside it, and the next attempt, in this run or a later one, asks for the rest only. An
    attempt that brings nothing is the last. The caller holds a lock.

    Args:
        name, advice: what the file is, and what to do without it, for errors.
        algorithm, digest: `hashlib`'s name of the hash, and how its hexadecimal digits begin.

    Raises:
        InputError: no web address, no network, an HTTP error, or a file with another hash.
    """
    if path.is_file() and hash_of(path, algorithm).startswith(digest):
        return
    partial = path.with_name(f".{path.name}{PARTIAL}")
    while True:
        with partial.open("ab") as file:
            before = file.tell()
            try:
                _fetch(url, file)
            except (URLError, HTTPException, TimeoutError, ConnectionError, ValueError) as error:
                if file.tell() > before:
                    log.info(f"The download of {path.name} was cut and resumes at {file.tell() >> 20} MiB.")
                    continue
                resumable = f"; the next attempt resumes at {before >> 20} MiB" if before else ""
                reason = getattr(error, "reason", None) or error
                raise InputError(f"{name} can't be downloaded from {url} ({reason}{resumable}): {advice}.") from error
        found = hash_of(partial, algorithm)
        if found.startswith(digest):
            os.replace(partial, path)
            return
        partial.unlink()
        if not before:  # else the beginning may have been of another file
            raise InputError(f"What {url} sent is not {name} ({algorithm.upper()} {found}): {advice}.")


def _fetch(url: str, file: BinaryIO) -> None:
    """Adds to the file what it lacks."""
    if not str(url).lower().startswith(("http://", "https://")):
        raise ValueError("it is no http or https address")
    start = file.tell()
    try:
        response = urlopen(Request(url, headers={"Range": f"bytes={start}-"} if start else {}), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and start:  # the file is complete already
            return
        raise
    with response:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            file.truncate(0)  # a server that can't resume sends all of it
            start = 0
        total = start + int(response.headers.get("Content-Length", 0))
        name = f"Downloading {Path(url).name}"
        with tqdm.wrapattr(response, "read", total or None, initial=start, desc=name, disable=None) as source:
            shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())
        if file.tell() < total:
            raise ConnectionError(f"cut after {file.tell()} of {total} bytes")


def hash_of(path: Path, algorithm: str) -> str:
    """The file's hash, in hexadecimal digits; `algorithm` is `hashlib`'s name of it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
