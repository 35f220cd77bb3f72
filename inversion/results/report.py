"""Figure and table of finished runs."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inversion.core.drawing import layers_figure
from inversion.core.files import atomic_file, write_atomic
from inversion.core.tables import aligned, csv_text
from inversion.results.runs import FinishedRun, in_layer_order, labels, titles
from inversion.training.outcome import PARTS

log = logging.getLogger(__name__)

SHOWN = {  # the printed table's columns: metric -> title and format
    "mse": ("MSE", ".5f"),
    "psnr": ("PSNR dB", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "normalized_error": ("norm. error", ".4f"),
    "mse_{n}": ("native MSE", ".5f"),
    "ssim_{n}": ("native SSIM", ".4f"),
    "feature_error": ("feature error", ".4f"),
    "top1_agreement": ("top-1 kept", ".1%"),
}


def publish(folder: Path, runs: Sequence[FinishedRun]) -> None:
    """Writes table and figures of these runs into the folder, prints the table and says where they are."""
    path, names = folder / "metrics.csv", labels(runs)
    rows = [_row(run, names[run.folder]) for run in in_layer_order(runs)]
    write_atomic(path, csv_text(rows).encode("utf-8", "backslashreplace"))
    log.info(f"\n{format_table(runs)}\n")
    log.info(f"Table    {path}")
    for figure in write_figures(folder, runs):
        log.info(f"Figure   {figure}")


def write_figures(folder: Path, runs: Sequence[FinishedRun]) -> list[Path]:
    """Writes `samples.png` and, for runs that show other images (another draw of classes), `samples_2.png` and so on."""
    groups: dict[tuple[Any, ...], list[FinishedRun]] = {}
    for run in in_layer_order(runs):
        means = run.samples.originals.float().mean((1, 2, 3)).round().tolist()  # pixels may be rounded otherwise elsewhere
        groups.setdefault((*run.samples.files, *means), []).append(run)
    paths = [folder / ("samples.png" if i == 1 else f"samples_{i}.png") for i in range(1, len(groups) + 1)]
    for path, group in zip(paths, groups.values(), strict=True):
        names = titles(group)
        figure = layers_figure(group[0].samples.originals, {names[run.folder]: run.samples.columns for run in group})
        with atomic_file(path) as file:
            figure.save(file, "PNG")
    return paths


def format_table(runs: Sequence[FinishedRun]) -> str:
    """The metrics as text: per part, a line per run and one for the mean image of each split."""
    lines, names = [["split", "run", "decoder", "weights", *(title for title, _ in SHOWN.values())]], labels(runs)
    for part in PARTS:
        floors: dict[tuple[str, ...], list[str]] = {}
        for run in in_layer_order(runs):
            if part in run.metrics:
                scores, native = run.metrics[part], run.metrics["native_size"]
                weights = f"{run.metrics['parameters'] / 1e6:.2f} M"
                lines.append([part, names[run.folder], run.metrics["decoder"], weights, *_cells(scores, native)])
                floor = _cells({**scores["mean_image"], "feature_error": None}, native)  # each layer's own, in the CSV
                floors[tuple(floor)] = [part, "mean image", "", "", *floor]
        lines += floors.values()
    return aligned(lines, left=3)


def _row(run: FinishedRun, name: str) -> dict[str, Any]:
    """A column per metric and part, and the mean image's beside them."""
    row: dict[str, Any] = {"run": name}
    for key, value in run.metrics.items():
        row |= {f"{key}_{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
    for part in PARTS:
        floor = row.pop(f"{part}_mean_image", {})
        row |= {f"{part}_mean_image_{key}": value for key, value in floor.items()}
    return row


def _cells(scores: dict[str, float | None], native: int) -> list[str]:
    values = [(scores.get(name.format(n=native)), spec) for name, (_, spec) in SHOWN.items()]
    return ["-" if value is None else format(value, spec) for value, spec in values]
