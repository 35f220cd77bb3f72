import os
import random

import pytest
from PIL import Image

from inversion.core.errors import InputError
from inversion.data import image_folder


def fill(folder, number, size=(40, 30)):
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    for i in range(number):
        Image.new("RGB", size, tuple(rng.randrange(256) for _ in range(3))).save(folder / f"{i}.png")


def read(root, classes=None, val=0.1, test=0.1, seed=0):
    return image_folder.read_split(root, classes, val, test, seed)


def test_sub_folders_are_classes(tmp_path):
    for name in ("cats", "dogs"):
        fill(tmp_path / name, 20)
    split = read(tmp_path)
    assert list(split.classes) == ["cats", "dogs"]
    assert (len(split.train), len(split.val), len(split.test)) == (32, 4, 4)
    assert len({*split.train, *split.val, *split.test}) == 40


def test_a_flat_folder_is_one_class(tmp_path):
    fill(tmp_path, 10)
    split = read(tmp_path)
    assert split.classes == {".": "all images"}
    assert (len(split.train), len(split.val), len(split.test)) == (8, 1, 1)


def test_three_images_are_enough(tmp_path):
    fill(tmp_path, 3)
    split = read(tmp_path, val=0.45, test=0.45)
    assert (len(split.train), len(split.val), len(split.test)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("number", "options", "expected"),
    [
        (0, {}, "no images"),
        (2, {}, "at least 3"),
        (9, {"val": 0}, "data.val_fraction"),
        (9, {"test": "some"}, "data.test_fraction=some"),
        (9, {"classes": "abc"}, "data.classes=abc must be a whole number"),
        (9, {"val": 0.5, "test": 0.5}, "nothing to train on"),
        (9, {"classes": 2}, "data.classes"),
    ],
)
def test_bad_folders_and_options_are_told(number, options, expected, tmp_path, one_line):
    fill(tmp_path, number)
    with pytest.raises(InputError, match=expected) as error:
        read(tmp_path, **options)
    one_line(str(error.value))


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read(tmp_path / "absent")


def test_hidden_folders_are_no_classes(tmp_path):
    fill(tmp_path / "cats", 5)
    fill(tmp_path / "cats" / ".thumbnails", 5)
    fill(tmp_path / ".cache", 5)
    split = read(tmp_path)
    assert list(split.classes) == ["cats"]
    assert len(split.train + split.val + split.test) == 5


def test_linked_folders_are_followed_once(tmp_path):
    fill(tmp_path / "elsewhere", 4)
    fill(tmp_path / "images" / "cats", 5)
    (tmp_path / "images" / "dogs").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "dogs_again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "cats" / "loop").symlink_to(tmp_path / "images")
    split = read(tmp_path / "images")
    assert list(split.classes) == ["cats", "dogs"]
    assert len({*split.train, *split.val, *split.test}) == len(split.train + split.val + split.test) == 9


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch, one_line):
    fill(tmp_path / "cats", 5)
    fill(tmp_path / "dogs", 5)
    scandir = os.scandir

    def guarded(path):
        if str(path) == str(tmp_path / "dogs"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)  # a mode of 000 would not keep root out
    with pytest.raises(InputError, match="can't be read .Permission denied") as error:
        read(tmp_path)
    assert str(tmp_path / "dogs") in one_line(str(error.value))
