"""Synthetic images, a small set that needs no download: made by a seeded generator, in Tiny ImageNet's layout.

Twenty classes, five objects by four textures; colours, background, and the object's place, size and rotation are random.
"""

import json
import math
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw
from tqdm import tqdm

from inversion.core.errors import InputError
from inversion.core.files import atomic_folder, lock
from inversion.data.tiny_imagenet import SYNTHETIC, TinyImageNet

SIZE = 64
SCALE = 4  # painted at 256 x 256, then reduced, for smooth edges
OBJECTS = ("disc", "square", "triangle", "star", "ring")
TEXTURES = ("plain", "striped", "checked", "dotted")
CLASSES = {f"n{90000000 + i:08d}": f"{TEXTURES[i % 4]} {OBJECTS[i // 4]}" for i in range(20)}
VERSION = 1


def provide(root: Path, train_per_class: int, test_per_class: int, seed: int) -> None:
    """Makes the set in `root`, which appears only when complete, unless this very set lies there.

    Raises InputError: counts below 1, or a `root` that holds something else.
    """
    recipe = json.dumps({"version": VERSION, "seed": seed, "train": train_per_class, "test": test_per_class})
    if train_per_class < 1 or test_per_class < 1:
        raise InputError("data.train_per_class and data.test_per_class must be at least 1.")
    root.parent.mkdir(parents=True, exist_ok=True)
    with lock(root.parent / f".{root.name}.lock"):
        mark = root / SYNTHETIC
        if root.exists():
            if mark.is_file() and mark.read_text() == recipe:
                return
            raise InputError(f"data.root={root} holds something else than these synthetic images: give another data.root.")
        with atomic_folder(root) as temporary:
            _write_set(temporary, train_per_class, test_per_class, seed)
            (temporary / SYNTHETIC).write_text(recipe)


def _write_set(root: Path, train_per_class: int, test_per_class: int, seed: int) -> None:
    rng = random.Random(seed)
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in CLASSES))
    (root / "words.txt").write_text("".join(f"{wnid}\t{name}\n" for wnid, name in CLASSES.items()))
    (root / "val" / "images").mkdir(parents=True)
    annotations: list[str] = []
    for wnid, name in tqdm(CLASSES.items(), desc="Making synthetic images", unit="class", leave=False, disable=None):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        for i in range(train_per_class):
            make_image(name, rng).save(folder / f"{wnid}_{i}.JPEG", quality=92)
        for _ in range(test_per_class):
            file = f"val_{len(annotations)}.JPEG"
            make_image(name, rng).save(root / "val" / "images" / file, quality=92)
            annotations.append(f"{file}\t{wnid}\t0\t0\t{SIZE - 1}\t{SIZE - 1}\n")
    (root / "val" / "val_annotations.txt").write_text("".join(annotations))


def make_image(name: str, rng: random.Random) -> Image.Image:
    """One image, 64 x 64 RGB, of the class '<texture> <object>'; `rng` chooses everything else."""
    texture, shape = name.split()
    side = SIZE * SCALE
    hue = rng.random()
    back, front, second = _colour(hue, rng), _colour(hue + rng.uniform(0.25, 0.75), rng), _colour(rng.random(), rng)
    shade = _ramp(rng.uniform(0, 2 * math.pi), side)
    canvas = Image.composite(Image.new("RGB", (side, side), back), Image.new("RGB", (side, side), _colour(hue, rng)), shade)
    horizon = rng.uniform(0.55, 0.85) * side
    ImageDraw.Draw(canvas).rectangle((0, horizon, side, side), fill=_colour(hue + rng.uniform(-0.2, 0.2), rng))
    radius = rng.uniform(0.2, 0.36) * side
    centre = (rng.uniform(0.32, 0.68) * side, rng.uniform(0.32, 0.68) * side)
    mask = _silhouette(shape, centre, radius, rng.uniform(0, 2 * math.pi), side)
    shadow = ImageChops.offset(mask, int(0.03 * side), int(0.04 * side)).point(lambda value: value * 2 // 5)
    canvas.paste(Image.new("RGB", (side, side), (10, 10, 20)), mask=shadow)
    canvas.paste(_textured(texture, front, second, rng, side), mask=mask)
    return canvas.resize((SIZE, SIZE), Image.Resampling.BOX)


def _colour(hue: float, rng: random.Random) -> tuple[int, int, int]:
    values = np.array([hue % 1 * 255, rng.uniform(70, 230), rng.uniform(80, 245)], dtype=np.uint8)
    red, green, blue = np.asarray(Image.fromarray(values[None, None], "HSV").convert("RGB"))[0, 0].tolist()
    return red, green, blue


def _ramp(angle: float, side: int) -> Image.Image:
    rows, columns = np.mgrid[0:side, 0:side] / side - 0.5
    ramp = 0.5 + 0.7 * (math.cos(angle) * columns + math.sin(angle) * rows)
    return Image.fromarray((ramp.clip(0, 1) * 255).astype(np.uint8))


def _silhouette(shape: str, centre: tuple[float, float], radius: float, turn: float, side: int) -> Image.Image:
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    x, y = centre
    if shape in ("disc", "ring"):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        if shape == "ring":
            hole = radius * 0.5
            draw.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
        return mask
    corners = {"square": 4, "triangle": 3, "star": 10}[shape]
    radii = [radius * (0.45 if shape == "star" and i % 2 else 1) for i in range(corners)]
    angles = [turn + 2 * math.pi * i / corners for i in range(corners)]
    draw.polygon([(x + r * math.cos(a), y + r * math.sin(a)) for a, r in zip(angles, radii, strict=True)], fill=255)
    return mask


def _textured(
    texture: str, front: tuple[int, int, int], second: tuple[int, int, int], rng: random.Random, side: int
) -> Image.Image:
    rows, columns = np.mgrid[0:side, 0:side]
    angle, period = rng.uniform(0, math.pi), rng.uniform(0.09, 0.17) * side
    u = (columns * math.cos(angle) + rows * math.sin(angle)) / period
    v = (rows * math.cos(angle) - columns * math.sin(angle)) / period
    pattern = {
        "plain": np.zeros_like(u, dtype=bool),
        "striped": u % 1 < 0.5,
        "checked": (u % 1 < 0.5) ^ (v % 1 < 0.5),
        "dotted": (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.1,
    }[texture]
    return Image.fromarray(np.where(pattern[..., None], np.array(second, np.uint8), np.array(front, np.uint8)))


class SyntheticImages(TinyImageNet):
    """Images made by a seeded generator, in Tiny ImageNet's layout: data for trying things out, not for findings.

    Args:
        train_per_class, test_per_class: how many images of each class to make; validation is taken from the first.
        **options: see `TinyImageNet`; `seed` is also the generator's.
    """

    def __init__(self, root: str, train_per_class: int, test_per_class: int, **options: float | None) -> None:
        super().__init__(root, **options)  # type: ignore[arg-type]
        self.per_class = {"train_per_class": train_per_class, "test_per_class": test_per_class}

    def prepare_data(self) -> None:
        provide(self.root, seed=self.seed, **self.per_class)
