"""Downloads that resume after a cut, are checked by a hash, and never leave https for plain http."""

import hashlib
import logging
import os
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from inversion.core.errors import InputError
from inversion.core.files import PARTIAL

log = logging.getLogger(__name__)

BROKEN = (URLError, HTTPException, TimeoutError, ConnectionError, ValueError)
"""What a server, a network or an address can fail with."""


def download(url: str, path: Path, name: str, algorithm: str, digest: str, advice: str, timeout: float = 7) -> None:
    """Fetches `url` to `path`, which appears only when it is complete and has this hash.

    What arrived before a cut stays beside it, and the next attempt, in this run or a later one, asks for the rest only. An
    attempt that brings nothing is the last. The caller holds a lock.

    Args:
        url: http or https.
        path: of the file; its folder exists.
        name: what it is, for errors.
        algorithm, digest: `hashlib`'s name of the hash, and how its hexadecimal digits begin.
        advice: what to do without the download, for errors.
        timeout: seconds of silence after which a connection counts as cut. A host that never answers is tried at each of its
            addresses, commonly up to four, for so long.

    Raises:
        InputError: no web address, no network, an HTTP error, a redirection to plain http, or a file with another hash.
    """
    if not str(url).lower().startswith(("http://", "https://")):
        raise InputError(f"{name} can't be downloaded from {url}, which is no http or https address: {advice}.")
    partial = path.with_name(f".{path.name}{PARTIAL}")
    while True:
        before = _size(partial)
        try:
            _fetch(url, partial, timeout)
        except BROKEN as error:
            if _size(partial) <= before:
                resumable = f"; the next attempt resumes at {before >> 20} MiB" if before else ""
                reason = getattr(error, "reason", None) or error
                raise InputError(f"{name} can't be downloaded from {url} ({reason}{resumable}): {advice}.") from error
            log.info(f"The download of {path.name} was cut and resumes at {_size(partial) >> 20} MiB.")
            continue
        found = hash_of(partial, algorithm)
        if found.startswith(digest):
            os.replace(partial, path)
            return
        partial.unlink()
        if not before:  # else the beginning may have been of another file
            raise InputError(f"What {url} sent is not {name} ({algorithm.upper()} {found}): {advice}.")


def _fetch(url: str, partial: Path, timeout: float) -> None:
    """Adds to the file what it lacks. Raises one of `BROKEN` where the server didn't send all of it."""
    start = _size(partial)
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = build_opener(_NeverToPlainHttp).open(request, timeout=timeout)
    except HTTPError as error:
        if error.code == 416 and start:  # the file is complete already
            return
        raise
    with response, partial.open("ab") as file:
        if response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            file.truncate(0)  # a server that can't resume sends all of it
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=f"Downloading {partial.name}", disable=None)
        with bar:
            while block := response.read(1 << 18):
                file.write(block)
                bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())
        if total is not None and file.tell() < total:
            raise ConnectionError(f"cut after {file.tell()} of {total} bytes")


class _NeverToPlainHttp(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise URLError(f"it redirects to {newurl}, which is no https address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def hash_of(path: Path, algorithm: str) -> str:
    """The file's hash, in hexadecimal digits; `algorithm` is `hashlib`'s name of it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
