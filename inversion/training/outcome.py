"""What a run leaves in its folder when it ends: its scores, its samples, and the line that says both."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from inversion.core.files import save_atomic, write_atomic

METRICS_FILE = "metrics.json"
SAMPLES_FILE = "samples.pt"
PARTS = ("val", "test")
"""Of the images, those that are scored."""


@dataclass(frozen=True)
class Samples:
    """A few images and what one decoder made of them."""

    files: list[str]
    originals: Tensor
    """uint8, (N, 3, 227, 227)."""
    reconstructions: Tensor
    """uint8, (N, 3, 227, 227)."""

    def save(self, path: Path) -> None:
        """Writes what `torch.load` reads."""
        content = {"files": self.files, "originals": self.originals, "reconstructions": self.reconstructions}
        save_atomic(path, content)


def is_finished(folder: Path) -> bool:
    """Whether the folder's run has ended: its metrics are the last thing it writes."""
    return (folder / METRICS_FILE).is_file()


def write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Writes `metrics.json`. Numbers that are not finite become null, as JSON has none."""
    write_atomic(folder / METRICS_FILE, json.dumps(_finite(metrics), indent=2, allow_nan=False).encode())


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and value - value != 0:
        return None
    return value


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
