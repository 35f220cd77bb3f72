"""Drawing: pure functions from images to pictures."""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import make_grid

from inversion.core import pixels

GAP = 6


def samples_figure(
    columns: Mapping[str, Tensor], rows: Sequence[str] = (), tile: int = pixels.INPUT_SIZE, title: str = ""
) -> Image.Image:
    """The published figure: one row per image, one titled column per layer.

    Args:
        columns: title -> images (N, 3, S, S), uint8; N the same in all.
        rows: N labels left of the rows, or none.
        tile: side in pixels at which images are shown.
        title: stands over all columns, if any.
    """
    sizes = {len(images) for images in columns.values()}
    if len(sizes) != 1 or (rows and len(rows) not in sizes):
        raise ValueError(f"columns of {sizes} images and {len(rows)} row labels make no figure")
    tiles = torch.stack([_tiles(images, tile) for images in columns.values()], dim=1).flatten(0, 1)
    body = to_pil_image(make_grid(tiles, nrow=len(columns), padding=GAP, pad_value=255))
    title_size = max(12, tile // 10)
    small = ImageFont.load_default(size=max(10, tile // 14))
    heading = int(title_size * 2.2) if title else 0
    top = heading + int(title_size * 1.8)
    left = int(max(map(small.getlength, rows))) + 2 * GAP if rows else 0
    figure = Image.new("RGB", (body.width + left, body.height + top), "white")
    figure.paste(body, (left, top))
    draw = ImageDraw.Draw(figure)
    draw.text((left + GAP, heading / 2 + GAP), title, "black", ImageFont.load_default(1.4 * title_size), anchor="lm")
    fonts = (ImageFont.load_default(size=size) for size in range(title_size, 7, -1))
    fitting = next((font for font in fonts if max(map(font.getlength, columns)) <= tile), ImageFont.load_default(size=8))
    for i, name in enumerate(columns):
        centre = left + GAP + tile / 2 + i * (tile + GAP)
        draw.text((centre, (heading + top + GAP) / 2), name, "black", fitting, anchor="mm")
    for i, row in enumerate(rows):
        draw.text((GAP, top + GAP + tile / 2 + i * (tile + GAP)), row, "black", small, anchor="lm")
    return figure


def layers_figure(
    originals: Tensor, columns: Mapping[str, Mapping[str, Tensor]], rows: Sequence[str] = (), tile: int = pixels.INPUT_SIZE
) -> Image.Image:
    """The published figure, uint8 images (N, 3, S, S): a column per title; below, a figure for each of several columns."""
    single = {title: images for title, own in columns.items() if len(own) == 1 for images in own.values()}
    figures = [samples_figure({"Original": originals} | single, rows, tile)] if single else []
    for title, own in columns.items():
        if len(own) > 1:
            figures.append(samples_figure({"Original": originals, **own}, rows, tile, title))
    return stacked(figures)


def stacked(figures: Sequence[Image.Image]) -> Image.Image:
    """Figures one under another, flush left, on white."""
    whole = Image.new("RGB", (max(figure.width for figure in figures), sum(figure.height for figure in figures)), "white")
    top = 0
    for figure in figures:
        whole.paste(figure, (0, top))
        top += figure.height
    return whole


def images_grid(columns: Sequence[Tensor], pairs: int = 1, tile: int = 128) -> Tensor:
    """Columns of images (N, 3, S, S) side by side, those of `pairs` images a row -> (3, height, width), all uint8."""
    tiles = torch.stack([_tiles(images, tile) for images in columns], dim=1).flatten(0, 1)
    return make_grid(tiles, nrow=pairs * len(columns), padding=2, pad_value=255)


def sample_columns(samples: Tensor) -> dict[str, Tensor]:
    """Samples (N, K, 3, S, S) in [-1, 1] as a figure's columns by title, and if there are two or more a map of where they
    differ: each pixel's standard deviation between them, over the colours, black for none, white for a quarter of the range.
    """
    columns = pixels.to_display(samples)
    named = {f"Sample {number}": columns[:, number - 1] for number in range(1, samples.shape[1] + 1)}
    if samples.shape[1] == 1:
        return named
    spread = pixels.denormalize(samples).var(1).mean(1, keepdim=True).sqrt().cpu()
    return named | {"Where they differ": pixels.to_uint8((4 * spread).clamp(0, 1)).expand(-1, 3, -1, -1).contiguous()}


def _tiles(images: Tensor, side: int) -> Tensor:
    return pixels.to_uint8(pixels.resize(images.float() / 255, side))
