"""Finished runs: what a run leaves in its folder, and the figure and table of several."""

import csv
import io
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inversion.core.drawing import samples_figure
from inversion.core.errors import InputError
from inversion.core.files import atomic_file, expand, save_atomic, write_atomic
from inversion.encoders.alexnet import TAPS

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
SAMPLES_FILE = "samples.pt"
PARTS = ("val", "test")
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


@dataclass(frozen=True)
class Samples:
    """A few images and what one decoder made of them."""

    files: list[str]
    originals: Tensor
    """uint8, (N, 3, 227, 227)."""
    reconstructions: Tensor
    """uint8, (N, 3, 227, 227)."""

    def save(self, path: Path) -> None:
        content = {"files": self.files, "originals": self.originals, "reconstructions": self.reconstructions}
        save_atomic(path, content)


@dataclass(frozen=True)
class FinishedRun:
    """A run's folder, its `metrics.json` and its samples."""

    folder: Path
    metrics: dict[str, Any]
    samples: Samples

    @property
    def layer(self) -> str:
        return self.metrics["layer"]

    @classmethod
    def load(cls, folder: Path) -> "FinishedRun":
        """Raises InputError if the folder holds no finished run, or a damaged one."""
        if not is_finished(folder):
            raise InputError(f"{folder} holds no finished run ({METRICS_FILE} is missing).")
        path = folder / METRICS_FILE
        try:
            metrics = json.loads(path.read_text())
            path = folder / SAMPLES_FILE
            samples = Samples(**torch.load(path, weights_only=True))
        except Exception as error:  # whatever the parsers stumble over, the file is at fault
            raise InputError(f"{path} is missing or damaged: run it again in another folder, or leave it out.") from error
        return cls(folder, metrics, samples)


def find(folder: Path) -> list[FinishedRun]:
    """The finished runs of a folder: itself, or those in it.

    Raises:
        InputError: it holds none.
    """
    if is_finished(folder):
        return [FinishedRun.load(folder)]
    runs = [FinishedRun.load(path) for path in sorted(folder.iterdir()) if is_finished(path)] if folder.is_dir() else []
    if not runs:
        raise InputError(f"{folder} holds no finished run: give the folder of a run or of a sweep.")
    return runs


def find_all(folders: Iterable[str]) -> list[FinishedRun]:
    """The finished runs of several folders, each once.

    Raises:
        InputError: one of them holds none.
    """
    return list({run.folder.resolve(): run for folder in folders for run in find(expand(folder))}.values())


def is_finished(folder: Path) -> bool:
    """Whether the run of this folder came to its end: its metrics are the last thing it writes."""
    return (folder / METRICS_FILE).is_file()


def in_layer_order(runs: Iterable[FinishedRun]) -> list[FinishedRun]:
    """Sorted by layer as in the network, then by folder."""
    return sorted(runs, key=lambda run: (list(TAPS).index(run.layer), run.folder.name, run.folder))


def labels(runs: Sequence[FinishedRun]) -> dict[Path, str]:
    """What to call each run: its folder's name, preceded by as many parents as tell it from the others."""
    result = {}
    for run in runs:
        parts = run.folder.absolute().parts
        others = [other.folder.absolute().parts for other in runs if other.folder != run.folder]
        depth = next((d for d in range(1, len(parts)) if all(o[-d:] != parts[-d:] for o in others)), len(parts))
        result[run.folder] = "/".join(parts[-depth:])
    return result


def write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Writes `metrics.json`. Numbers that are not finite become null, as JSON has none."""
    write_atomic(folder / METRICS_FILE, json.dumps(_finite(metrics), indent=2, allow_nan=False).encode())


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and value - value != 0:
        return None
    return value


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


def titles(runs: Sequence[FinishedRun]) -> dict[Path, str]:
    """What stands over each run's column: its layer, or its label where several have the same."""
    names, layers = labels(runs), [run.layer for run in runs]
    return {run.folder: _title(run.layer) if layers.count(run.layer) == 1 else names[run.folder] for run in runs}


def _title(layer: str) -> str:
    return layer.upper() if layer.startswith("fc") else layer.capitalize()


def write_table(folder: Path, runs: Sequence[FinishedRun]) -> Path:
    """Writes `metrics.csv`: a row per run, a column per metric and part, and the mean image's beside them."""
    rows = []
    names = labels(runs)
    for run in in_layer_order(runs):
        row: dict[str, Any] = {"run": names[run.folder]}
        for key, value in run.metrics.items():
            if key not in PARTS:
                row |= {f"{key}_{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
        for part in PARTS:
            scores = run.metrics.get(part, {})
            row |= {f"{part}_{key}": value for key, value in scores.items() if key != "mean_image"}
            row |= {f"{part}_mean_image_{key}": value for key, value in scores.get("mean_image", {}).items()}
        rows.append(row)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    path = folder / "metrics.csv"
    write_atomic(path, text.getvalue().encode())
    return path


def format_table(runs: Sequence[FinishedRun]) -> str:
    """The metrics as text: per part, a line per run and one for the mean image of each split."""
    header = ["split", "run", "decoder", "weights", *(title for title, _ in SHOWN.values())]
    lines = [header]
    names = labels(runs)
    for part in PARTS:
        floors: dict[str, list[str]] = {}
        for run in in_layer_order(runs):
            if part in run.metrics:
                scores, native = run.metrics[part], run.metrics["native_size"]
                weights = f"{run.metrics['parameters'] / 1e6:.2f} M"
                lines.append([part, names[run.folder], run.metrics["decoder"], weights, *_cells(scores, native)])
                floor = {**scores["mean_image"], "feature_error": None}  # each layer's own: they stand in the CSV
                floors[json.dumps(floor)] = [part, "mean image", "", "", *_cells(floor, native)]
        lines += floors.values()
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    aligned = (
        "  ".join(
            cell.ljust(width) if i < 3 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    return "\n".join(line.rstrip() for line in aligned)


def _cells(scores: dict[str, float | None], native: int) -> list[str]:
    values = [(scores.get(name.format(n=native)), spec) for name, (_, spec) in SHOWN.items()]
    return ["-" if value is None else format(value, spec) for value, spec in values]


def publish(folder: Path, runs: Sequence[FinishedRun]) -> None:
    """Writes table and figures of these runs into the folder, prints the table and says where they are."""
    table = write_table(folder, runs)
    log.info("\n" + format_table(runs) + "\n")
    log.info(f"Table    {table}")
    for figure in write_figures(folder, runs):
        log.info(f"Figure   {figure}")


def result_line(metrics: dict[str, Any], folder: Path) -> str:
    """One line that says what came out: layer, metrics beside the mean image's, time and folder."""
    parts = []
    for part in PARTS:
        if part in metrics:
            s, floor = metrics[part], metrics[part]["mean_image"]
            parts.append(
                f"{part} MSE {s['mse']:.5f} PSNR {s['psnr']:.2f} dB SSIM {s['ssim']:.4f} "
                f"(mean image {floor['mse']:.5f}, {floor['psnr']:.2f} dB, {floor['ssim']:.4f})"
            )
    return " | ".join([metrics["layer"], *parts, f"{metrics['seconds']:.0f} s", str(folder)])


def hparam_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """The final metrics for TensorBoard's hparams tab: the same keys for every run, nan where a split wasn't scored."""
    return {
        f"hp/{part}_{name}": metrics[part][name] if part in metrics else float("nan")
        for part in PARTS
        for name in ("mse", "psnr", "ssim", "normalized_error")
    }
