"""What the studies under experiments/ share: finished runs with their images, and how a result is published."""

import csv
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig, ListConfig, OmegaConf
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchmetrics.functional.image import structural_similarity_index_measure

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.core.files import atomic_file, write_atomic
from inversion.data.datamodule import ImageDataModule, to_input
from inversion.encoders.alexnet import TAPS
from inversion.results import runs, trained
from inversion.training.building import build
from inversion.training.metrics import MAX_PSNR, mean_squared_errors

log = logging.getLogger(__name__)

BATCH = 64
"""Images that are encoded and decoded at once."""


class Study:
    """The runs that a study looks at, in the network's order, and the images that they are shown.

    Args:
        cfg: has `runs`, `weights`, `part` (`val` or `test`) and `images` (how many of them, evenly spread; null for all).

    Raises:
        InputError: there are no such runs, they were trained on different images, or there are fewer images than asked for.
    """

    def __init__(self, cfg: DictConfig) -> None:
        given = list(cfg.runs) if isinstance(cfg.runs, ListConfig) else [cfg.runs]
        found = runs.in_layer_order(runs.find_all(given))
        titles = runs.titles(found)
        self.runs = {titles[run.folder]: trained.load(run.folder, cfg.weights) for run in found}
        """Title -> run."""
        self.folders = {titles[run.folder]: run.folder for run in found}
        """Title -> the run's folder."""
        splits = {run.metadata["split"] for run in self.runs.values()}
        if len(splits) > 1:
            raise InputError("These runs were trained on different draws of images: study those of one draw at a time.")
        if cfg.part not in ("val", "test"):
            raise InputError(f"part={cfg.part} must be val or test.")
        first = next(iter(self.runs.values()))
        self.datamodule: ImageDataModule = build("data", OmegaConf.create(first.metadata["config"]["data"]))
        split = self.datamodule.split
        if split.digest not in splits:
            raise InputError(f"The images under {split.root} are not those that the runs were trained on.")
        there = len(split.files(cfg.part))
        if cfg.images is not None and not 1 <= cfg.images <= there:
            raise InputError(f"images={cfg.images} must lie between 1 and {there}, or be null for all.")
        self.classes = list(split.classes.values())
        """Names of the classes."""
        self._look_at(cfg.part, cfg.images)

    def _look_at(self, part: str, number: int | None) -> None:
        files = self.datamodule.split.files(part)
        number = len(files) if number is None else min(number, len(files))
        chosen = torch.linspace(0, len(files) - 1, number).round().long()
        self.part = part
        """`val` or `test`."""
        self.files = [files[i] for i in chosen]
        """Names of the images."""
        self.labels = torch.tensor(self.datamodule.split.labels(part))[chosen]
        """(N,): each image's class, as its place in `classes`."""
        self.images = self.datamodule.images(part)[chosen]
        """uint8 (N, 3, n, n), native."""

    def on(self, part: str) -> "Study":
        """The same runs, and as many images of another part, or all that it has."""
        other = copy(self)
        other._look_at(part, len(self.files))
        return other

    @property
    def native_size(self) -> int:
        """n, side in pixels of the images as they are held."""
        return self.images.shape[-1]

    def inputs(self) -> Tensor:
        """The images as they are encoded, (N, 3, 227, 227) in [-1, 1]."""
        return to_input(self.images)

    def truth(self) -> Tensor:
        """The images at their native size, (N, 3, n, n) in [0, 1]."""
        return self.images.float() / 255

    def mean_image(self) -> Tensor:
        """The training images' mean, native: (3, n, n) in [0, 1]."""
        return pixels.denormalize(self.datamodule.mean_image())

    def samples(self, number: int) -> tuple[list[str], Tensor]:
        """The images that pictures show, the same in every study: files, and (number, 3, 227, 227) in [-1, 1]."""
        return self.datamodule.samples(self.part, number)

    def features(self, run: trained.TrainedRun) -> Tensor:
        """What the run's encoder makes of the images: (N, *feature_shape)."""
        return torch.cat([run.encode(to_input(chunk)) for chunk in self.images.split(BATCH)])

    @torch.no_grad()
    def errors(self, run: trained.TrainedRun, features: Tensor) -> Tensor:
        """Mean squared error of each image's reconstruction from these features, (N, *feature_shape): (N,), on the [0, 1]
        scale at 227 x 227.
        """
        parts = []
        for some, images in zip(features.split(BATCH), self.images.split(BATCH), strict=True):
            parts.append(mean_squared_errors(run.decoder.predict(run.standardize(some)), pixels.normalize(images)))
        return torch.cat(parts)

    @torch.no_grad()
    def native_reconstructions(self, run: Callable[[Tensor], Tensor]) -> Tensor:
        """What the run (or another function of images (B, 3, 227, 227) in [-1, 1]) makes of the images, at their native size:
        (N, 3, n, n) in [0, 1].
        """
        parts = []
        for chunk in self.images.split(BATCH):
            shown = pixels.denormalize(run(to_input(chunk)))
            parts.append(pixels.to_native(shown, self.native_size).clamp(0, 1))
        return torch.cat(parts)


def image_scores(truth: Tensor, reconstructions: Tensor) -> dict[str, Tensor]:
    """Each image's `mse`, `psnr` (dB) and `ssim`.

    Args:
        truth, reconstructions: (N, 3, n, n) in [0, 1], at the native size.

    Returns:
        name -> (N,).
    """
    mse = (truth - reconstructions).square().mean(dim=(1, 2, 3))
    ssim = [
        structural_similarity_index_measure(a, b, data_range=1.0, reduction="none").reshape(len(a))  # type: ignore[union-attr]
        for a, b in zip(reconstructions.split(BATCH), truth.split(BATCH), strict=True)
    ]
    return {"mse": mse, "psnr": (-10 * mse.log10()).clamp(max=MAX_PSNR), "ssim": torch.cat(ssim)}


def layer_colour(layer: str) -> tuple[float, ...]:
    """One colour per layer in every plot, from dark to light with depth, told apart by the colour-blind as well."""
    return mpl.colormaps["viridis"](0.92 * list(TAPS).index(layer) / (len(TAPS) - 1))


def new_figure(width: float, height: float, columns: int) -> tuple[Figure, np.ndarray]:
    """A figure of one row of plots, and the plots; sizes in inches at 120 dots each."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, columns))


def publish(
    folder: Path,
    name: str,
    figure: Figure | Image.Image,
    rows: Sequence[Mapping[str, Any]],
    findings: Sequence[str],
) -> None:
    """Writes `<name>.png` and `<name>.csv` into the folder, shows the figure in TensorBoard, and says where they are and what
    was found.
    """
    path = folder / f"{name}.png"
    with atomic_file(path) as file:
        if isinstance(figure, Figure):
            figure.savefig(file, format="png")
        else:
            figure.save(file, "PNG")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(folder / f"{name}.csv", text.getvalue().encode())
    with Image.open(path) as picture, SummaryWriter(str(folder / "tensorboard")) as board:
        board.add_image(name, np.asarray(picture.convert("RGB")), dataformats="HWC")
    log.info(f"Figure   {path}")
    log.info(f"Table    {folder / f'{name}.csv'}")
    for finding in findings:
        log.info(f"Finding  {finding}")
