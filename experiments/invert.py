"""What do AlexNet's layers keep of your own picture?

Writes `inversions.png`, originals beside every layer's reconstruction, and each reconstruction as a PNG of its own. The runs
were trained on images of 64 x 64, so pictures are first reduced to that (`size`): "Original" is what the encoder saw.
"""

from inversion.launch import command_line  # isort: skip - before torch

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from inversion.core import pixels
from inversion.core.drawing import layers_figure, sample_columns
from inversion.core.errors import InputError
from inversion.core.file_kinds import printable
from inversion.core.files import atomic_file, expand
from inversion.core.images import find_images
from inversion.results import runs, trained
from inversion.studies.subject import BATCH, check_range

log = logging.getLogger(__name__)


def invert(cfg: DictConfig, folder: Path) -> None:
    """Writes the single images into the folder, and the figure if there are at most 50."""
    check_range(0, samples=cfg.samples)
    paths = pictures([cfg.image] if isinstance(cfg.image, str | int) else list(cfg.image))
    found = runs.in_layer_order(runs.find_all(cfg.runs))
    titles, names = runs.titles(found), names_of(paths)
    sizes = {run.metrics["native_size"] for run in found} if cfg.size == "native" else {cfg.size}
    size = sizes.pop()
    if sizes:
        raise InputError("The runs were trained on images of different sizes: say with size=64 which the pictures get.")
    if not isinstance(size, int) or not 1 <= size <= pixels.INPUT_SIZE:
        raise InputError(f"size={cfg.size} must be native, or a whole number up to {pixels.INPUT_SIZE}.")
    images = trained.read_images(paths, size)
    columns: dict[str, dict[str, Tensor]] = {}
    for run in found:
        loaded, title = trained.load(run.folder, cfg.weights), titles[run.folder]
        columns[title] = {"Mean": torch.cat([pixels.to_display(loaded.reconstruct(some)) for some in images.split(BATCH)])}
        if cfg.samples:
            columns[title] |= sample_columns(loaded.sample(images, cfg.samples, cfg.seed))
        log.info(f"{run.layer}: {run.folder}")
    originals = pixels.to_display(images)
    write_images(folder, names, {"Original": {"Mean": originals}} | columns)
    if len(paths) > 50:
        log.info(f"Images   {folder}")
        return
    with atomic_file(folder / "inversions.png") as file:
        layers_figure(originals, columns, rows=names).save(file, "PNG")
    log.info(f"Figure   {folder / 'inversions.png'}")


def write_images(folder: Path, names: Sequence[str], columns: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Writes each image as a PNG, `photo_conv5.png` for the mean and `photo_conv5-sample-1.png`."""
    for title, own in columns.items():
        for kind, images in own.items():
            ending = (title if kind == "Mean" else f"{title} {kind}").lower().replace("/", "-").replace(" ", "-")
            for name, image in zip(names, images, strict=True):
                with atomic_file(folder / f"{name}_{ending}.png") as file:
                    to_pil_image(image).save(file, "PNG")


def pictures(given: Sequence[str | int]) -> list[Path]:
    """The image files that are meant: those given, and those in the folders given and below them."""
    paths: list[Path] = []
    for path in map(expand, given):
        inside = [path / name for name in find_images(path)] if path.is_dir() else [path]
        if not inside:
            raise InputError(f"image={path} is a folder without images that Pillow reads.")
        if not path.exists():
            raise InputError(f"image={path}: no such file or folder.")
        paths += inside
    return list(dict.fromkeys(paths))


def names_of(paths: Sequence[Path]) -> list[str]:
    """How the reconstructions' files begin: as the pictures' names do, numbered if two are called alike."""
    names = [printable(path.stem)[:40] for path in paths]
    if len({name.lower() for name in names}) < len(names):  # as some file systems compare them
        names = [f"{number}-{name}" for number, name in enumerate(names, 1)]
    return names


if __name__ == "__main__":
    command_line.run(invert, "invert")
