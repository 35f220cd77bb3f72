"""Downloads: whole, of a known hash, gone on with after a cut, and never by plain http where https was asked for."""

import hashlib
import logging
import os
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO

from tqdm import tqdm

from inversion.core.errors import InputError
from inversion.core.files import PARTIAL

log = logging.getLogger(__name__)

BROKEN = (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError, ValueError)
"""What a server, a network or an address can fail with."""


def download(url: str, path: Path, name: str, algorithm: str, digest: str, advice: str, timeout: float = 7) -> None:
    """Fetches `url` to `path`, which appears only when whole and of this hash.

    What has come before a cut is kept beside it, and the next attempt, now or in a later run, asks for the rest alone. An
    attempt that brings nothing is the last. The caller holds a lock.

    Args:
        url: http or https.
        path: of the file; its folder is there.
        name: what it is, for errors.
        algorithm, digest: `hashlib`'s name of the hash, and how its hexadecimal digits begin.
        advice: what to do without the download, for errors.
        timeout: seconds of silence after which a connection counts as cut. A host that never answers is tried at each of its
            addresses, commonly up to four, for so long.

    Raises:
        InputError: no network, an HTTP error, a redirection to plain http, or a file with another hash.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    while True:
        before = _size(partial)
        try:
            _fetch(url, partial, timeout)
        except BROKEN as error:
            if _size(partial) <= before:
                kept = f"; {before >> 20} MiB are kept to go on from" if before else ""
                reason = getattr(error, "reason", None) or error
                raise InputError(f"{name} can't be downloaded from {url} ({reason}{kept}): {advice}.") from error
            log.info(f"The download of {path.name} was cut: going on at {_size(partial) >> 20} MiB.")
            continue
        except OSError as error:
            error.filename = error.filename or str(partial)  # a failed write doesn't say of which file
            raise
        found = _hash(partial, algorithm)
        if found.startswith(digest):
            os.replace(partial, path)
            return
        partial.unlink()
        if not before:  # else the beginning may have been of another file
            raise InputError(f"What {url} sent is not {name} ({algorithm.upper()} {found}): {advice}.")


def _fetch(url: str, partial: Path, timeout: float) -> None:
    """Adds to the file what it lacks. Raises one of `BROKEN` where the server didn't send all of it."""
    there = _size(partial)
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    try:
        response = urllib.request.build_opener(_NeverToPlainHttp).open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and there:  # nothing lies behind what is there already
            return
        raise
    with response, partial.open("ab") as file:
        if response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {there}-"):
            file.truncate(0)  # a server that can't go on sends the whole
            there = 0
        length = response.headers.get("Content-Length")
        total = there + int(length) if length else None
        with tqdm(
            total=total, initial=there, unit="B", unit_scale=True, desc=f"Downloading {partial.name}", disable=None
        ) as bar:
            while block := response.read(1 << 18):
                file.write(block)
                bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())
        if total is not None and file.tell() < total:
            raise ConnectionError(f"cut after {file.tell()} of {total} bytes")


class _NeverToPlainHttp(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise urllib.error.URLError(f"it redirects to {newurl}, which is no https address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _hash(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
