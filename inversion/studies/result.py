"""What a study returns, how its figures are drawn and written, and the page that shows the results of all."""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from inversion.core import pixels
from inversion.core.drawing import samples_figure
from inversion.core.files import atomic_file, write_atomic
from inversion.core.tables import csv_text
from inversion.encoders.alexnet import TAPS

log = logging.getLogger(__name__)

TABLE = "table.csv"
PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Studies</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; }}
h2 {{ margin-top: 3em; }} li {{ font-weight: 600; }} .error {{ color: #b00; }}
img {{ max-width: 100%; display: block; margin: 1em 0; }}
</style>
<h1>Studies</h1>
{}
</html>
"""


@dataclass(frozen=True)
class Result:
    """What a study found: figures by name, the most telling first; a table, any columns in each row; sentences."""

    figures: Mapping[str, Figure | Image.Image]
    rows: Sequence[Mapping[str, Any]]
    findings: Sequence[str]

    def save(self, folder: Path) -> None:
        """Writes `<figure>.png` each and `table.csv`, shows the figures in TensorBoard, and logs all of it."""
        with SummaryWriter(str(folder)) as board:
            for name, figure in self.figures.items():
                path = folder / f"{name}.png"
                with atomic_file(path) as file:
                    (figure.savefig if isinstance(figure, Figure) else figure.save)(file, format="png")
                board.add_image(name, np.asarray(Image.open(path).convert("RGB")), dataformats="HWC")
                log.info(f"Figure   {path}")
        write_atomic(folder / TABLE, csv_text(self.rows).encode())
        log.info(f"Table    {folder / TABLE}")
        for finding in self.findings:
            log.info(f"Finding  {finding}")


def question_and_method(study: partial[Result]) -> tuple[str, str]:
    """The first line, and what follows it, of the docstring of the module that defines a study."""
    question, _, method = (sys.modules[study.func.__module__].__doc__ or "").partition("\n")
    return question, method.strip()


def section(name: str, study: partial[Result], result: Result | Exception) -> str:
    """A study's part of the page, HTML, beside which its result is saved in a folder of its name, unless it failed."""
    question, method = question_and_method(study)
    lines = [f'<h2 id="{name}">{escape(question)}</h2>', f"<p>{escape(method)}</p>"]
    if isinstance(result, Exception):
        lines.append(f'<p class="error">{name} failed: {escape(str(result))}</p>')
    else:
        lines += ["<ul>", *(f"<li>{escape(finding)}</li>" for finding in result.findings), "</ul>"]
        lines += [f'<img src="{name}/{figure}.png" alt="{figure}">' for figure in result.figures]
        lines.append(f'<p><a href="{name}/{TABLE}">Table</a></p>')
    return "\n".join(lines)


def columns_figure(columns: Mapping[str, Tensor], rows: Sequence[str] = (), title: str = "", tile: int = 128) -> Image.Image:
    """The samples figure of images (N, 3, S, S) in [-1, 1], or of uint8 ones as they are: one column for each title."""
    shown = {name: pixels.to_display(images) if images.is_floating_point() else images for name, images in columns.items()}
    return samples_figure(shown, rows=rows, tile=tile, title=title)


def layer_colour(layer: str) -> tuple[float, ...]:
    """One colour per layer in every plot, from dark to light with depth, also for the colour-blind."""
    return mpl.colormaps["viridis"](0.92 * list(TAPS).index(layer) / (len(TAPS) - 1))


def new_figure(width: float, height: float, columns: int) -> tuple[Figure, np.ndarray]:
    """A figure of one row of plots, and the plots; sizes in inches at 120 dots each."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, columns))
