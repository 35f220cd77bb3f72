"""What do AlexNet's layers keep of your own picture?

python experiments/invert.py image=photo.jpg runs=outputs/<sweep>
python experiments/invert.py image=[photo.jpg,a-folder] runs=outputs/<sweep> size=227

Writes `inversions.png`, originals beside every layer's reconstruction, and each reconstruction as a PNG of its own. The runs
were trained on images of 64 x 64, so pictures are first reduced to that (`size`): "Original" is what the encoder saw.
"""

import logging
from pathlib import Path

from omegaconf import DictConfig
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2.functional import to_pil_image

from inversion.core import pixels
from inversion.core.drawing import samples_figure
from inversion.core.errors import InputError
from inversion.core.files import atomic_file, expand
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
    paths = find_images([cfg.image] if isinstance(cfg.image, str) else list(cfg.image))
    found = runs.in_layer_order(runs.find_all([cfg.runs] if isinstance(cfg.runs, str) else list(cfg.runs)))
    names = runs.titles(found)
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
        columns[names[run.folder]] = pixels.to_uint8(pixels.denormalize(reconstructions))
        log.info(f"{run.layer}: {run.folder}")
    for title, pictures in columns.items():
        for path, picture in zip(paths, pictures, strict=True):
            with atomic_file(folder / f"{path.stem}_{title.lower().replace('/', '-')}.png") as file:
                to_pil_image(picture).save(file, "PNG")
    if len(paths) <= MOST_ROWS:
        with atomic_file(folder / "inversions.png") as file:
            samples_figure(columns, rows=[path.name for path in paths]).save(file, "PNG")
    log.info(f"Figure   {folder / 'inversions.png'}" if len(paths) <= MOST_ROWS else f"Images   {folder}")


def find_images(given: list[str]) -> list[Path]:
    """The image files that are meant: those given, and those right in the folders given."""
    paths: list[Path] = []
    for path in map(expand, given):
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in IMG_EXTENSIONS)
            if not inside:
                raise InputError(f"image={path} is a folder without images ({', '.join(IMG_EXTENSIONS)}).")
            paths += inside
        elif path.is_file():
            paths.append(path)
        else:
            raise InputError(f"image={path}: no such file or folder.")
    stems = [path.stem for path in paths]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise InputError(f"Two images are called {twice}, and so would their reconstructions: give them one at a time.")
    return paths


if __name__ == "__main__":
    command_line.run(invert, "invert")
