"""Image files: found by their endings, every mode read as RGB, broken ones named."""

import builtins
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from test_image_folder import fill

from inversion.core.errors import InputError
from inversion.core.images import BrokenImagesError, decode, find_images, read_image


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
        ("I;16", 1000, {}, [249, 249, 249]),
        ("I", 30000, {}, [117, 117, 117]),
        ("F", 0.5, {}, [128, 128, 128]),
        ("F", 60.0, {}, [60, 60, 60]),
        ("1", 1, {}, [255, 255, 255]),
    ],
)
def test_every_mode_becomes_rgb(mode, colour, options, expected, tmp_path):
    image = Image.new(mode, (32, 32), colour)
    if mode == "P":
        image.putpalette([9, 8, 7])
    path = tmp_path / ("image.tif" if mode in "IF" else "image.png")
    image.save(path, **options)
    assert read_image(path, 32)[:, 5, 5].tolist() == expected


def test_a_truncated_jpeg_is_refused(synthetic_root, tmp_path, one_line):
    whole = next((synthetic_root / "val" / "images").iterdir()).read_bytes()
    (tmp_path / "cut.JPEG").write_bytes(whole[:-300])
    with pytest.raises(InputError, match=r"cut\.JPEG can't be read .*truncated") as error:
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


def grey(path, values, dtype):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(values), (32, 32)).astype(dtype)).save(path)


def decoded(paths, among=()):
    array = np.empty((len(paths), 3, 32, 32), np.uint8)
    decode(paths, array, "Decoding", among)
    return array


def test_images_of_more_than_8_bits_share_one_white(tmp_path, caplog):
    """12-bit data in 16-bit files keeps its brightness from image to image, and from part to part."""
    bright, dark = tmp_path / "bright.tif", tmp_path / "dark.tif"
    grey(bright, [0, 4000], np.uint16)
    grey(dark, [0, 400], np.uint16)
    caplog.set_level("INFO")
    assert decoded([bright, dark]).max((1, 2, 3)).tolist() == [249, 25]
    assert "4095 is white" in caplog.text
    assert decoded([dark], among=[bright, dark]).max() == 25
    assert decoded([dark]).max() == round(400 / 1023 * 255)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([-1, 5], np.int32), ([0, 70000], np.int32), ([0, -0.5], np.float32), ([0, np.nan], np.float32), ([0, 1e6], np.float32)],
)
def test_values_that_no_rule_scales_are_refused(values, dtype, tmp_path, one_line):
    grey(tmp_path / "a.tif", values, dtype)
    with pytest.raises(BrokenImagesError, match=r"a\.tif can't be read .values from .* must lie in") as error:
        read_image(tmp_path / "a.tif", 32)
    one_line(str(error.value))


def test_images_of_one_colour_are_warned_of(tmp_path, caplog):
    for i in range(3):
        grey(tmp_path / f"flat{i}.png", [i], np.uint8)
        grey(tmp_path / f"good{i}.png", [i, 200], np.uint8)
    decoded([*tmp_path.glob("good*"), tmp_path / "flat0.png"])
    assert not caplog.records
    decoded([*tmp_path.glob("flat*"), tmp_path / "good0.png"])
    assert "3 of 4 images" in caplog.text and "nearly of one colour" in caplog.text


def test_all_broken_images_are_named_at_once_for_what_they_are(tmp_path, one_line):
    kinds = {
        "page.jpg": (b"<!DOCTYPE html><html></html>", "a web page"),
        "phone.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC photo"),
        "empty.png": (b"", "empty"),
        "pointer.png": (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        "film.gif": (b"\0\0\0\x18ftypmp42\0\0\0\0", "a video"),
        "notes.bmp": (b"to do", "text"),
        "cut.jpg": (b"\xff\xd8\xff\xe0\0\x10JFIF", "Truncated"),
        "cut.png": (b"\x89PNG\r\n\x1a\n\0", "a PNG, cut off or damaged"),
        "noise.tif": (b"\xfe" * 50, "no image"),
    }
    for name, (content, _) in kinds.items():
        (tmp_path / name).write_bytes(content)
    grey(tmp_path / "good.png", [0, 200], np.uint8)
    with pytest.raises(BrokenImagesError, match="^9 images are broken") as error:
        decoded(sorted(tmp_path.iterdir()))
    said = one_line(str(error.value))
    assert all(f"{tmp_path / name} can't be read (" in said and kind in said for name, (_, kind) in kinds.items())
    assert {path.name for path in error.value.files} == set(kinds)
    assert str(pickle.loads(pickle.dumps(error.value))) == said  # as launchers hand it over


def test_more_than_ten_broken_images_are_listed_in_a_file(tmp_path, monkeypatch, one_line):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    paths = [tmp_path / f"{i:02}.png" for i in range(12)]
    for path in paths:
        path.touch()
    with pytest.raises(BrokenImagesError, match="12 images .* and 2 more, all listed in") as error:
        decoded(paths)
    said = one_line(str(error.value))
    (listed,) = tmp_path.glob("broken_images_*.txt")
    assert str(listed) in said
    assert listed.read_text().splitlines() == [f"{path} can't be read (empty)" for path in paths]


def test_whatever_pillow_decodes_is_found_and_the_rest_counted(tmp_path, caplog):
    wanted = ["a/b.JPG", "a/c.jfif", "a/d.jp2", "a/e.webp", "f.tif"]
    for name in (
        *wanted,
        *(".hidden.jpg", "._b.jpg", "@eaDir/b.jpg/thumb.jpg", "a/.thumbnails/x.png", "__MACOSX/a/b.jpg", "#recycle/g.png"),
        *("notes.txt", "labels.txt", "film.mpg", "README", "data.h5"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    caplog.set_level("INFO")
    assert [path.as_posix() for path in find_images(tmp_path)] == wanted
    (record,) = caplog.records
    counted = (
        "2 hidden files",
        "1 @eaDir folders",
        "1 .thumbnails folders",
        "1 __MACOSX folders",
        "2 .txt",
        "1 .mpg",
        "1 .h5",
    )
    assert all(kind in record.message for kind in (*counted, "1 .h5", "1 files without an ending"))
