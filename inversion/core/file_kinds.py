"""What a file really is, whatever its name says, so that an error can say it too."""

import os
import re
from pathlib import Path

KINDS = {
    rb"version https://git-lfs": "a git-lfs pointer: run git lfs pull",
    rb"(?i)\s*(<!--.*?-->\s*)?(<!doctype html|<html|<head)": "a web page",
    rb"\xff\xd8\xff": "a JPEG",
    rb"\x89PNG": "a PNG",
    rb"GIF8": "a GIF",
    rb"II\*\0|MM\0\*|II\+\0|MM\0\+": "a TIFF",
    rb"RIFF....WEBP": "a WebP",
    rb"....ftypavi[fs]": "an AVIF image",
    rb"....ftyp(hei|hev|mif1|msf1)": "a HEIC photo",
    rb"....ftyp|RIFF....AVI |\x1aE\xdf\xa3|\0\0\x01[\xb3\xba]": "a video",
    rb"%!PS|%PDF": "PostScript or PDF",
    rb"PK\x03\x04": "a zip archive",
    rb"\x1f\x8b|BZh|\xfd7zXZ|.{257}ustar": "a compressed file or archive: extract it",
    rb"7z\xbc\xaf": "a 7-Zip archive",
    rb"Rar!": "a RAR archive",
    rb"\x28\xb5\x2f\xfd": "compressed with Zstandard",
    rb"\x89HDF": "an HDF5 file, as Keras writes",
    rb"\x08[\x02-\x0f]\x12": "an ONNX model",
    rb"\x93NUMPY": "a NumPy array",
    rb"PAR1": "a Parquet table",
    rb"\x80[\x02-\x05]": "pickled Python objects",
    rb"[\t\n\f\r\x1b -~]+\Z": "text",
}
"""How files begin -> what they are; the first that fits."""


def kind_of(path: Path) -> str | None:
    """What the file's first bytes say it is; None if they tell nothing."""
    with path.open("rb") as file:
        head = file.read(1024)
    if not head:
        return "empty"
    return next((kind for pattern, kind in KINDS.items() if re.match(pattern, head, re.DOTALL)), None)


def printable(path: Path | str) -> str:
    """The path as text that any terminal or file takes: what isn't UTF-8 in it, as in old file names, becomes U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")
