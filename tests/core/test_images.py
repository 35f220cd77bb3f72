"""Image files: every mode read as RGB, broken ones named."""

import builtins

import numpy as np
import pytest
import torch
from PIL import Image
from test_image_folder import fill

from inversion.core.errors import InputError
from inversion.core.images import read_image


def test_grey_images_become_rgb_and_others_are_fitted(tmp_path):
    Image.new("L", (64, 64), 77).save(tmp_path / "grey.JPEG")
    Image.new("RGBA", (90, 40), (10, 20, 30, 255)).save(tmp_path / "wide.png")
    assert torch.equal(read_image(tmp_path / "grey.JPEG", 64), torch.full((3, 64, 64), 77, dtype=torch.uint8))
    assert read_image(tmp_path / "wide.png", 64)[:, 0, 0].tolist() == [10, 20, 30]


def test_photos_are_turned_as_their_exif_says(tmp_path):
    pixels_of = np.zeros((40, 60, 3), np.uint8)
    pixels_of[:, :30] = 255  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: white at the top
    Image.fromarray(pixels_of).save(tmp_path / "photo.png", exif=exif)
    image = read_image(tmp_path / "photo.png", 20)
    assert image[:, :8].eq(255).all() and image[:, 12:].eq(0).all()


@pytest.mark.parametrize(
    ("mode", "colour", "options", "expected"),
    [
        ("RGBA", (10, 20, 30, 0), {}, [255, 255, 255]),
        ("RGBA", (0, 100, 200, 51), {}, [204, 224, 244]),
        ("LA", (40, 0), {}, [255, 255, 255]),
        ("P", 0, {"transparency": 0}, [255, 255, 255]),
        ("P", 0, {}, [9, 8, 7]),
        ("I;16", 65535, {}, [255, 255, 255]),
        ("I;16", 1000, {}, [4, 4, 4]),
        ("I", 30000, {}, [117, 117, 117]),
        ("1", 1, {}, [255, 255, 255]),
    ],
)
def test_every_mode_becomes_rgb(mode, colour, options, expected, tmp_path):
    image = Image.new(mode, (32, 32), colour)
    if mode == "P":
        image.putpalette([9, 8, 7])
    path = tmp_path / ("image.tif" if mode == "I" else "image.png")
    image.save(path, **options)
    assert read_image(path, 32)[:, 5, 5].tolist() == expected


def test_a_truncated_jpeg_is_refused(synthetic_root, tmp_path, one_line):
    whole = next((synthetic_root / "val" / "images").iterdir()).read_bytes()
    (tmp_path / "cut.JPEG").write_bytes(whole[:-300])
    with pytest.raises(InputError, match=r"cut\.JPEG is a broken image .*truncated") as error:
        read_image(tmp_path / "cut.JPEG", 64)
    one_line(str(error.value))


@pytest.mark.parametrize("raised", [Image.DecompressionBombError("too large"), IndexError("odd")])
@pytest.mark.parametrize("step", ["open", "convert"])
def test_whatever_pillow_throws_names_the_image(step, raised, tmp_path, monkeypatch, one_line):
    def fail(*arguments, **options):
        raise raised

    fill(tmp_path, 1)
    monkeypatch.setattr(Image if step == "open" else Image.Image, step, fail)
    with pytest.raises(InputError, match=r"0\.png") as error:
        read_image(tmp_path / "0.png", 32)
    one_line(str(error.value))


def test_an_image_that_may_not_be_read_says_so(tmp_path, monkeypatch, one_line):
    def fail(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    fill(tmp_path, 1)
    monkeypatch.setattr(builtins, "open", fail)
    with pytest.raises(InputError, match=r"0\.png can't be read .Permission denied") as error:
        read_image(tmp_path / "0.png", 32)
    one_line(str(error.value))
