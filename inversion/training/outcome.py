"""What a run leaves in its folder when it ends: its scores and its samples."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from inversion.core.files import write_atomic

METRICS_FILE = "metrics.json"
SAMPLES_FILE = "samples.pt"
"""What `torch.load` reads: the fields of `Samples`."""
PARTS = ("val", "test")
"""Of the images, those that are scored."""


@dataclass(frozen=True)
class Samples:
    """A few images and what one decoder made of them, uint8 (N, 3, 227, 227); `more` are samples, columns by title."""

    files: list[str]
    originals: Tensor
    reconstructions: Tensor
    more: dict[str, Tensor] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, Tensor]:
        """The figure's columns by title."""
        return {"Mean": self.reconstructions} | self.more


def is_finished(folder: Path) -> bool:
    """Whether the folder's run has ended: its metrics are the last thing it writes."""
    return (folder / METRICS_FILE).is_file()


def write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Writes `metrics.json`. Numbers that are not finite become null, as JSON has none."""
    finite = json.loads(json.dumps(metrics), parse_constant=lambda name: None)
    write_atomic(folder / METRICS_FILE, json.dumps(finite, indent=2).encode())


def title_of(layer: str) -> str:
    """How figures write a layer: Conv5, FC8."""
    return layer.upper() if layer.startswith("fc") else layer.capitalize()
