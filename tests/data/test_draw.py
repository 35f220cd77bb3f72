"""The split that is drawn from Tiny ImageNet."""

import shutil
import zipfile

import pytest
from conftest import ARCHIVE, needs_real_data
from tiny import FOLDER, annotations

from inversion.core.errors import InputError
from inversion.data import tiny_imagenet
from inversion.data.tiny_imagenet import read_split


def test_the_split_is_drawn_from_train_and_tested_on_official_validation(synthetic_root):
    split = read_split(synthetic_root, classes=5, val_per_class=2, seed=0)
    assert (len(split.train), len(split.val), len(split.test)) == (5 * 4, 5 * 2, 5 * 2)
    assert len({*split.train, *split.val, *split.test}) == 40
    for wnid in split.classes:
        assert sum(wnid in name for name in split.val) == 2
    assert all(name.startswith("val/images/") for name in split.test)
    assert all((synthetic_root / name).is_file() for name in [*split.train, *split.val, *split.test])
    assert split.classes[next(iter(split.classes))].split()[0] in ("plain", "striped", "checked", "dotted")


def test_the_split_follows_the_seed(synthetic_root):
    splits = [read_split(synthetic_root, 20, 2, seed) for seed in (0, 0, 1)]
    assert splits[0] == splits[1]
    assert splits[0].val != splits[2].val


def test_missing_classes_are_named(own_copy, one_line):
    shutil.rmtree(own_copy / "train" / "n90000004")
    with pytest.raises(InputError, match=r"n90000004 \(plain square\)") as error:
        read_split(own_copy, None, 2, 0)
    one_line(str(error.value))


def test_missing_test_images_of_classes_not_drawn_do_not_matter(own_copy):
    drawn = read_split(own_copy, 3, 2, 0)
    for path in (own_copy / "val" / "images").iterdir():
        if f"val/images/{path.name}" not in drawn.test:
            path.unlink()
    assert read_split(own_copy, 3, 2, 0) == drawn


@pytest.mark.parametrize("value", ["abc", "3", 3.0, True])
def test_numbers_that_are_no_whole_numbers_are_told(synthetic_root, value, one_line):
    whole = {"classes": 3, "val_per_class": 2, "seed": 0}
    for name in whole:
        with pytest.raises(InputError, match=f"data.{name}={value} must be a whole number") as error:
            read_split(synthetic_root, **{**whole, name: value})
        one_line(str(error.value))


def test_too_few_images_are_told(synthetic_root, one_line):
    with pytest.raises(InputError, match="has 6 images") as error:
        read_split(synthetic_root, 3, 6, 0)
    one_line(str(error.value))


def test_a_class_with_far_fewer_images_than_others_is_warned_of(synthetic_root, tmp_path, caplog):
    root = tmp_path / "copy"
    shutil.copytree(synthetic_root, root)
    thin = read_split(root, 3, 1, 0).train[0].split("/")[1]
    assert not caplog.records
    for path in sorted((root / "train" / thin / "images").iterdir())[2:]:
        path.unlink()
    read_split(root, 3, 1, 0)
    assert f"Class {thin}" in caplog.text and "has 2 train images where others have 6" in caplog.text


@needs_real_data
def test_the_official_data_is_split_as_ever(tmp_path):
    """By the real lists and files' names; the files are empty."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        for name in archive.namelist():
            if name.endswith(".txt") and "boxes" not in name:
                archive.extract(name, tmp_path)
        drawn = read_ids(archive, 3, 2)
        tested = {row[0] for row in annotations(tmp_path / FOLDER) if row[1] in drawn}
        for name in archive.namelist():
            if name.endswith(".JPEG") and (name.split("/")[2] in drawn or name.split("/")[-1] in tested):
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).touch()
    split = read_split(tmp_path / FOLDER, 3, 50, 2)
    assert split.digest == "730f3cfc6ad73d8f6c0c03c3d0b23e639f936cf40e421ea882485a88cb08d47a"
    assert list(split.classes.values()) == ["brain coral", "king penguin", "dugong"] and not split.paths
    assert read_split(tmp_path / FOLDER, "present", 50, 2).digest == split.digest
    with pytest.raises(InputError, match="lacks the images of .* of the 20 classes drawn by data.seed=0"):
        read_split(tmp_path / FOLDER, 20, 50, 0)


def read_ids(archive, number, seed):
    ids = archive.read(f"{FOLDER}/wnids.txt").decode().split()
    assert len(ids) == 200
    return tiny_imagenet.draw_classes(ids, number, seed)


@needs_real_data
def test_known_classes_of_seed_0_on_the_real_ids():
    with zipfile.ZipFile(ARCHIVE) as file:
        assert " ".join(read_ids(file, 20, 0)) == (
            "n01784675 n02085620 n02132136 n02481823 n02788148 n02793495 n02815834 n02883205 n03042490 n03201208 "
            "n03393912 n03444034 n03804744 n03837869 n03930313 n03937543 n04254777 n04371430 n07920052 n09193705"
        )
