"""Finished runs: found in their folders, loaded, ordered and named."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from inversion.core.errors import InputError
from inversion.core.files import expand
from inversion.encoders.alexnet import TAPS
from inversion.training.outcome import METRICS_FILE, SAMPLES_FILE, Samples, is_finished, title_of


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
        except Exception as error:  # a damaged file can make the parsers raise anything
            raise InputError(f"{path} is missing or damaged: run it again in another folder, or leave it out.") from error
        return cls(folder, metrics, samples)


def find_all(folders: str | int | Iterable[str | int]) -> list[FinishedRun]:
    """The finished runs in a folder or several, at any depth, each once. Raises InputError: a folder holds none."""
    found: dict[Path, FinishedRun] = {}
    for folder in map(expand, [folders] if isinstance(folders, str | int) else folders):
        places = [path.parent for path in sorted(folder.rglob(METRICS_FILE))]
        runs = [FinishedRun.load(place) for place in places if place == folder or (place / SAMPLES_FILE).is_file()]
        if not runs:
            what = "holds no finished run" if folder.is_dir() else "is no folder"
            raise InputError(f"{folder} {what}: give the folder of a run or of a sweep.")
        found |= {run.folder.resolve(): run for run in runs}
    return list(found.values())


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


def titles(runs: Sequence[FinishedRun]) -> dict[Path, str]:
    """What stands over each run's column: its layer, or its label where several have the same."""
    names, layers = labels(runs), [run.layer for run in runs]
    return {run.folder: title_of(run.layer) if layers.count(run.layer) == 1 else names[run.folder] for run in runs}
