"""Tables as text."""

import csv
import io
from collections.abc import Mapping, Sequence


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows of as many cells each -> lines with aligned columns, the first `left` of them flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ([*map(str.ljust, row[:left], widths), *map(str.rjust, row[left:], widths[left:])] for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in cells)


def csv_text(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as CSV with a header: all keys, in order of first appearance; empty where a row lacks one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
