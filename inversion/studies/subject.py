"""What the studies look at: finished runs, and the images that they are shown."""

import math
from collections.abc import Callable, Sequence
from copy import copy

import torch
from omegaconf import OmegaConf
from torch import Tensor

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.data.datamodule import ImageDataModule
from inversion.decoders.base import check_number
from inversion.results import runs, trained
from inversion.training.building import build
from inversion.training.metrics import mean_squared_errors

BATCH = 64  # images that are encoded and decoded at once


class Subject:
    """Finished runs, and images of the data that they were trained on. The arguments are described in conf/study.yaml.

    `runs` are by title, in the network's order; they compute on `device`, all else is on the CPU. `images` are native, uint8
    (N, 3, n, n), of `part`, with their names, `files`, and their classes, `labels`, (N,), as places in the list `classes`.
    Raises InputError: there are no such runs, they were trained on different images, or an option can't be used.
    """

    def __init__(
        self,
        folders: str | Sequence[str],
        part: str = "test",
        images: int | None = None,
        weights: str | None = None,
        device: str = "auto",
    ) -> None:
        found = runs.in_layer_order(runs.find_all(folders))
        titles = runs.titles(found)
        self.device = _device(device)
        self.runs = {titles[run.folder]: trained.load(run.folder, weights).to(self.device) for run in found}
        if len({(run.metadata["split"], run.native_size) for run in self.runs.values()}) > 1:
            raise InputError("These runs were trained on different draws or sizes of images: study those of one at a time.")
        first = next(iter(self.runs.values()))
        self.datamodule: ImageDataModule = build("data", OmegaConf.create(first.metadata["config"]["data"]))
        split = self.datamodule.split
        if split.digest != first.metadata["split"]:
            raise InputError(f"The images under {split.root} are not those that the runs were trained on.")
        self.classes = list(split.classes.values())
        self._choose(part, images)

    def _choose(self, part: str, number: int | None) -> None:
        if part not in ("val", "test"):
            raise InputError(f"part={part} must be val or test.")
        files = self.datamodule.split.files(part)
        number = min(check_number("images", len(files) if number is None else number), len(files))
        chosen = torch.linspace(0, len(files) - 1, number).round().long()
        self.part = part
        self.files = [files[i] for i in chosen]
        self.labels = torch.tensor(self.datamodule.split.labels(part))[chosen]
        self.images = self.datamodule.images(part)[chosen]

    def on(self, part: str, images: int | None = None) -> "Subject":
        """The same runs with other images, see conf/study.yaml."""
        other = copy(self)
        other._choose(part, images)
        return other

    def truth(self) -> Tensor:
        """The images at their native size, (N, 3, n, n) in [0, 1]."""
        return self.images.float() / 255

    def mean_image(self) -> Tensor:
        """The training images' mean, native: (3, n, n) in [0, 1]."""
        return pixels.denormalize(self.datamodule.mean_image())

    def examples(self, number: int) -> Tensor:
        """A few images of the part to show, the same in every study: (number, 3, 227, 227) in [-1, 1]."""
        return self.datamodule.examples(self.part, number)[1]

    def features(self, run: trained.TrainedRun, native: Tensor | None = None) -> Tensor:
        """Features of the images, or of others at their native size, uint8 or in [0, 1]: (N, *feature_shape)."""
        batches = (self.images if native is None else native).split(BATCH)
        return torch.cat([run.encode(pixels.to_input(batch)) for batch in batches])

    def errors(self, run: trained.TrainedRun, features: Tensor) -> Tensor:
        """Mean squared error, on the [0, 1] scale at 227 x 227, of each image's reconstruction from its features: (N,)."""
        pairs = zip(features.split(BATCH), self.images.split(BATCH), strict=True)
        return torch.cat([mean_squared_errors(run.predict(some), pixels.normalize(images)) for some, images in pairs])

    def native_reconstructions(self, run: Callable[[Tensor], Tensor]) -> Tensor:
        """Reconstructions by a run or another function of images (B, 3, 227, 227) in [-1, 1]: (N, 3, n, n) in [0, 1]."""
        found = (pixels.denormalize(run(pixels.to_input(batch))) for batch in self.images.split(BATCH))
        return torch.cat([pixels.to_native(batch, self.images.shape[-1]).clamp(0, 1) for batch in found])


def feature_error(found: Tensor, wanted: Tensor) -> float:
    """The root of sum ||f' - f||^2 / sum ||f - mean f||^2 over images, (N, ...) both."""
    return float(((found - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()).sqrt())


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(f"device={name} can't be used here ({reason:.120}): give auto, cpu or cuda.") from error


def check_range(least: float, most: float = math.inf, **options: float | Sequence[float]) -> None:
    """Raises InputError unless each option, a number or a list of them, lies between `least` and `most`."""
    for name, value in options.items():
        numbers = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(one, int | float) and least <= one <= most for one in numbers):
            limits = f"be at least {least}" if most == math.inf else f"lie between {least} and {most}"
            raise InputError(f"{name}={value} must {limits}.")
