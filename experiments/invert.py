"""What do AlexNet's layers keep of your own picture?

python experiments/invert.py image=photo.jpg runs=outputs/<sweep>
python experiments/invert.py image=[photo.jpg,a-folder] runs=outputs/<sweep> size=227

Writes `inversions.png`, originals beside every layer's reconstruction, and each reconstruction as a PNG of its own. The runs
were trained on images of 64 x 64, so pictures are first reduced to that (`size`): "Original" is what the encoder saw.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig
from torchvision.transforms.v2.functional import to_pil_image

from inversion.core import pixels
from inversion.core.drawing import samples_figure
from inversion.core.errors import InputError
from inversion.core.file_kinds import printable
from inversion.core.files import atomic_file, expand
from inversion.core.images import find_images
from inversion.launch import command_line
from inversion.results import runs, trained

log = logging.getLogger(__name__)
MOST_ROWS = 50
"""More images than this get no common figure, only PNGs."""


def invert(cfg: DictConfig, folder: Path) -> None:
    """Writes the figure and the single images into the folder.

    Raises:
        InputError: there is no image or no run, or one that can't be read.
    """
    paths = pictures([cfg.image] if isinstance(cfg.image, str) else list(cfg.image))
    found = runs.in_layer_order(runs.find_all([cfg.runs] if isinstance(cfg.runs, str) else list(cfg.runs)))
    titles, names = runs.titles(found), names_of(paths)
    sizes = {run.metrics["native_size"] for run in found} if cfg.size == "native" else {cfg.size}
    size = sizes.pop()
    if sizes:
        raise InputError("The runs were trained on images of different sizes: say with size=64 which the pictures get.")
    if not isinstance(size, int) or not 1 <= size <= pixels.INPUT_SIZE:
        raise InputError(f"size={cfg.size} must be native, or a whole number up to {pixels.INPUT_SIZE}.")
    images = trained.read_images(paths, size)
    columns = {"Original": pixels.to_uint8(pixels.denormalize(images))}
    for run in found:
        reconstructions = trained.load(run.folder, cfg.weights).reconstruct(images)
        columns[titles[run.folder]] = pixels.to_uint8(pixels.denormalize(reconstructions))
        log.info(f"{run.layer}: {run.folder}")
    for title, column in columns.items():
        for name, image in zip(names, column, strict=True):
            with atomic_file(folder / f"{name}_{title.lower().replace('/', '-')}.png") as file:
                to_pil_image(image).save(file, "PNG")
    if len(paths) <= MOST_ROWS:
        with atomic_file(folder / "inversions.png") as file:
            samples_figure(columns, rows=names).save(file, "PNG")
    log.info(f"Figure   {folder / 'inversions.png'}" if len(paths) <= MOST_ROWS else f"Images   {folder}")


def pictures(given: Sequence[str]) -> list[Path]:
    """The image files that are meant: those given, and those in the folders given and below them."""
    paths: list[Path] = []
    for path in map(expand, given):
        if path.is_dir():
            paths += (inside := [path / name for name in find_images(path)])
            if not inside:
                raise InputError(f"image={path} is a folder without images that Pillow reads.")
        elif path.is_file():
            paths.append(path)
        else:
            raise InputError(f"image={path}: no such file or folder.")
    return list(dict.fromkeys(paths))


def names_of(paths: Sequence[Path]) -> list[str]:
    """How the reconstructions' files begin: as the pictures' names do, with a number where that stands already."""
    names: dict[str, str] = {}  # in lower case, as some file systems compare them -> as they are
    for path in paths:
        name = stem = printable(path.stem)[:40]
        number = 1
        while name.lower() in names:
            number += 1
            name = f"{stem}-{number}"
        names[name.lower()] = name
    return list(names.values())


if __name__ == "__main__":
    command_line.run(invert, "invert")
