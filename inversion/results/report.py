"""Figure and table of finished runs."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inversion.core.drawing import samples_figure
from inversion.core.files import atomic_file, write_atomic
from inversion.core.tables import aligned, csv_text
from inversion.results.runs import FinishedRun, in_layer_order, labels, titles
from inversion.training.outcome import PARTS

log = logging.getLogger(__name__)

SHOWN = {
    "mse": ("MSE", ".5f"),
    "psnr": ("PSNR dB", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "normalized_error": ("norm. error", ".4f"),
    "mse_{n}": ("native MSE", ".5f"),
    "ssim_{n}": ("native SSIM", ".4f"),
    "feature_error": ("feature error", ".4f"),
    "top1_agreement": ("top-1 kept", ".1%"),
}
"""The printed table's columns: metric -> title and format."""


def publish(folder: Path, runs: Sequence[FinishedRun]) -> None:
    """Writes table and figures of these runs into the folder, prints the table and says where they are."""
    path = folder / "metrics.csv"
    write_atomic(path, csv_text([_row(run, name) for run, name in _named(runs)]).encode("utf-8", "backslashreplace"))
    log.info("\n" + format_table(runs) + "\n")
    log.info(f"Table    {path}")
    for figure in write_figures(folder, runs):
        log.info(f"Figure   {figure}")


def write_figures(folder: Path, runs: Sequence[FinishedRun]) -> list[Path]:
    """Writes the samples figure of these runs: `samples.png`.

    Runs that show other images (another draw of classes) can't share rows; each further set of images gets a figure of its
    own, `samples_2.png` and so on.
    """
    groups: dict[tuple[tuple[str, ...], bytes], list[FinishedRun]] = {}
    for run in in_layer_order(runs):
        content = run.samples.originals.numpy().tobytes()
        groups.setdefault((tuple(run.samples.files), content), []).append(run)
    paths = []
    for i, group in enumerate(groups.values()):
        names = titles(group)
        columns = {"Original": group[0].samples.originals}
        columns |= {names[run.folder]: run.samples.reconstructions for run in group}
        paths.append(folder / ("samples.png" if i == 0 else f"samples_{i + 1}.png"))
        with atomic_file(paths[-1]) as file:
            samples_figure(columns).save(file, "PNG")
    return paths


def format_table(runs: Sequence[FinishedRun]) -> str:
    """The metrics as text: per part, a line per run and one for the mean image of each split."""
    lines = [["split", "run", "decoder", "weights", *(title for title, _ in SHOWN.values())]]
    for part in PARTS:
        floors: dict[str, list[str]] = {}
        for run, name in _named(runs):
            if part in run.metrics:
                scores, native = run.metrics[part], run.metrics["native_size"]
                weights = f"{run.metrics['parameters'] / 1e6:.2f} M"
                lines.append([part, name, run.metrics["decoder"], weights, *_cells(scores, native)])
                floor = {**scores["mean_image"], "feature_error": None}  # each layer's own: they stand in the CSV
                floors[json.dumps(floor)] = [part, "mean image", "", "", *_cells(floor, native)]
        lines += floors.values()
    return aligned(lines, left=3)


def _named(runs: Sequence[FinishedRun]) -> list[tuple[FinishedRun, str]]:
    names = labels(runs)
    return [(run, names[run.folder]) for run in in_layer_order(runs)]


def _row(run: FinishedRun, name: str) -> dict[str, Any]:
    """A column per metric and part, and the mean image's beside them."""
    row: dict[str, Any] = {"run": name}
    for key, value in run.metrics.items():
        if key not in PARTS:
            row |= {f"{key}_{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
    for part in PARTS:
        scores = run.metrics.get(part, {})
        row |= {f"{part}_{key}": value for key, value in scores.items() if key != "mean_image"}
        row |= {f"{part}_mean_image_{key}": value for key, value in scores.get("mean_image", {}).items()}
    return row


def _cells(scores: dict[str, float | None], native: int) -> list[str]:
    values = [(scores.get(name.format(n=native)), spec) for name, (_, spec) in SHOWN.items()]
    return ["-" if value is None else format(value, spec) for value, spec in values]
