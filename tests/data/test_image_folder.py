import json
import os
import random
from pathlib import Path

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


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    fill(tmp_path / "cats", 5)
    fill(tmp_path / "dogs", 5)
    scandir = os.scandir

    def guarded(path):
        if str(path) == str(tmp_path / "dogs"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)  # a mode of 000 would not keep root out
    with pytest.raises(PermissionError) as error:
        read(tmp_path)
    assert error.value.filename == str(tmp_path / "dogs")


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "VALID", "testing"), ("train", "dev", "TEST")])
def test_folders_of_ones_own_split_are_the_split(names, tmp_path, caplog):
    for name, number in zip(names, (6, 2, 3), strict=True):
        for key in ("cats", "dogs"):
            fill(tmp_path / name / key, number)
    fill(tmp_path / names[0] / "emus", 1)
    fill(tmp_path, 2)
    caplog.set_level("INFO")
    split = read(tmp_path)
    assert list(split.classes) == ["cats", "dogs", "emus"]
    for name, files, number in zip(names, (split.train, split.val, split.test), (13, 4, 6), strict=True):
        assert len(files) == number and all(file.startswith(f"{name}/") for file in files)
    assert split.labels("test") == [0, 0, 0, 1, 1, 1]
    assert "a split of its own" in caplog.text and "2 images beside" in caplog.text
    assert list(read(tmp_path, classes=1, seed=1).classes) in (["cats"], ["dogs"], ["emus"])


@pytest.mark.parametrize(("name", "missing", "option"), [("val", "test", "test"), ("test", "val", "val")])
def test_what_ones_own_split_lacks_is_taken_from_train(name, missing, option, tmp_path, caplog, one_line):
    fill(tmp_path / "train", 10)
    fill(tmp_path / name, 4)
    caplog.set_level("INFO")
    split = read(tmp_path, **{option: 0.3})
    assert (len(split.train), len(split.files(name)), len(split.files(missing))) == (7, 4, 3)
    assert all(file.startswith("train/") for file in split.files(missing))
    assert f"data.{missing}_fraction of train" in caplog.text
    for file in (tmp_path / "train").iterdir():
        if file.stem != "0":
            file.unlink()
    with pytest.raises(InputError, match="has 1 images, and each class needs at least 2") as error:
        read(tmp_path)
    one_line(str(error.value))


def test_a_split_without_images_is_refused(tmp_path, one_line):
    for name in ("train/cats", "train/dogs", "val/emus", "test/cats", "test/dogs"):
        fill(tmp_path / name, 5)
    assert len(read(tmp_path).val) == 5
    with pytest.raises(InputError, match="has no images for its val split") as error:
        read(tmp_path, classes=1)
    one_line(str(error.value))


def test_images_in_several_splits_are_warned_of_once(tmp_path, caplog):
    for seed, name in enumerate(("train", "val", "test")):
        fill(tmp_path / name, 4)
        for i in range(seed + 1, 4):  # image 0 stands in all three, image 1 in train and val
            Image.new("RGB", (40, 30), (60 * i, 80 * seed, 7)).save(tmp_path / name / f"{i}.png")
    data = image_folder.ImageFolder(str(tmp_path))
    data.setup("fit")
    assert "stand in" not in caplog.text
    for _ in range(2):
        data.setup("fit")
        data.images("test")
    assert caplog.text.count("2 images of data.root=") == 1 and "in more than one of train, val and test" in caplog.text
    caplog.clear()
    fill(tmp_path / "other", 10)
    other = image_folder.ImageFolder(str(tmp_path / "other"))
    assert all(len(other.images(part)) for part in ("train", "val", "test")) and not caplog.records


def test_classes_beside_a_folder_called_train_are_classes(tmp_path):
    for name in ("train", "tram", "test"):
        fill(tmp_path / name, 5)
    assert list(read(tmp_path).classes) == ["test", "train", "tram"]


def test_a_class_whose_name_is_not_utf8(tmp_path):
    """As older systems wrote them; the name is shown with a replacement character, and the files are found."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    fill(folder, 9)
    fill(tmp_path / "dog", 9)
    datamodule = image_folder.ImageFolder(str(tmp_path), native_size=16, batch_size=4)
    assert list(datamodule.split.classes.values()) == ["caf\ufffd", "dog"]
    assert datamodule.images("train").shape == (14, 3, 16, 16)
    datamodule.split.save(tmp_path / "split.json")
    assert json.loads((tmp_path / "split.json").read_text())["classes"][0]["name"] == "caf\ufffd"
    next(folder.iterdir()).write_bytes(b"")
    with pytest.raises(InputError, match="caf\ufffd/.* can't be read .empty.") as error:
        image_folder.ImageFolder(str(tmp_path), native_size=16, val_fraction=0.4).setup("fit")
    str(error.value).encode()


def test_broken_images_of_all_parts_are_named_together(tmp_path):
    fill(tmp_path, 30)
    split = image_folder.ImageFolder(str(tmp_path)).split
    for file in (split.train[0], split.val[0], split.test[0]):
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(InputError, match="^3 images are broken"):
        image_folder.ImageFolder(str(tmp_path)).setup("fit")
