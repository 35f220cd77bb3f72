"""Tiny ImageNet in every layout that people have it in: found, read as the official one, or named."""

import errno
import os
import shutil
from contextlib import contextmanager

import pytest
from tiny import FOLDER, annotations, provide

from inversion.core.errors import InputError
from inversion.data import tiny_imagenet
from inversion.data.tiny_imagenet import TinyImageNet, find_root, read_split


def val_by_class(root, pattern="{}"):
    for name, wnid, *_ in annotations(root):
        folder = root / "val" / pattern.format(wnid)
        folder.mkdir(parents=True, exist_ok=True)
        (root / "val" / "images" / name).rename(folder / name)
    (root / "val" / "images").rmdir()


def val_by_class_with_images(root):
    val_by_class(root, "{}/images")


def val_copied_by_class(root):
    shutil.copytree(root / "val" / "images", root / "images")
    val_by_class(root)
    (root / "images").rename(root / "val" / "images")


def val_by_class_and_no_annotations(root):
    val_by_class(root)
    (root / "val" / "val_annotations.txt").unlink()


def val_by_class_and_annotations_of_nothing(root):
    val_by_class(root)
    (root / "val" / "val_annotations.txt").write_bytes(b"\xff\x00 damaged")


def val_flat(root):
    for path in (root / "val" / "images").iterdir():
        path.rename(root / "val" / path.name)


def annotations_moved(root):
    (root / "val" / "val_annotations.txt").rename(root / "val_annotations.txt")


def val_called_validation(root):
    (root / "val").rename(root / "Validation")


def train_flat(root):
    for folder in (root / "train").iterdir():
        for path in (folder / "images").iterdir():
            path.rename(folder / path.name)
        (folder / "images").rmdir()


def no_lists(root):
    val_by_class_and_no_annotations(root)
    for path in root.rglob("*.txt"):
        path.unlink()


def no_class_ids(root):
    (root / "wnids.txt").unlink()


def other_endings(root):
    for path in [*root.rglob("*.JPEG")]:
        path.rename(path.with_suffix(".jpg" if path.stem.endswith("1") else ".Jpeg"))


def lists(change):
    def rearrange(root):
        for path in [*root.rglob("*.txt")]:
            path.write_bytes(change(path.read_text()))

    return rearrange


def clutter(root):
    (root / ".DS_Store").write_bytes(b"\0")
    for path in [root / "train", *(root / "train").iterdir(), root / "val" / "images"]:
        (path / "._n90000000_9.JPEG").write_bytes(b"\0\5\x16\7")
        (path / ".thumbnails").mkdir()
        (path / ".thumbnails" / "n90000000_9.JPEG").write_bytes(b"small")
    (root / "__MACOSX" / "train" / "n90000000").mkdir(parents=True)
    (root / "train" / "readme.md").write_text("The images.")


LAYOUTS = {
    "as it is": lambda root: None,
    "blanks": lists(lambda text: f" \n{text}".replace("\n", " \t \n\n").encode()),
    "CRLF": lists(lambda text: text.replace("\n", "\r\n").encode()),
    "byte-order mark": lists(lambda text: text.encode("utf-8-sig")),
    "UTF-16": lists(lambda text: text.encode("utf-16")),
    "spaces for tabs": lists(lambda text: text.replace("\t", "    ").encode()),
} | {
    change.__name__: change
    for change in (
        val_by_class,
        val_by_class_with_images,
        val_copied_by_class,
        val_by_class_and_no_annotations,
        val_by_class_and_annotations_of_nothing,
        val_flat,
        annotations_moved,
        val_called_validation,
        train_flat,
        no_lists,
        no_class_ids,
        other_endings,
        clutter,
    )
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_official_split(layout, synthetic_root, own_copy):
    LAYOUTS[layout](own_copy)
    official, split = (read_split(find_root(root), 5, 2, 0) for root in (synthetic_root, own_copy))
    assert (split.digest, split.class_of, split.no_test) == (official.digest, official.class_of, "")
    assert split.classes == official.classes or layout == "no_lists"
    for part in ("train", "val", "test"):
        assert split.files(part) == official.files(part)
        for file in split.files(part):
            assert split.path(file).read_bytes() == official.path(file).read_bytes()


@pytest.mark.parametrize("below", [".", FOLDER, "a", "a/b/c", f"{FOLDER}/{FOLDER}", "Tiny ImageNet/some files"])
def test_the_data_is_found_at_any_depth(below, own_copy, tmp_path):
    root = tmp_path / "root"
    (root / below).parent.mkdir(parents=True, exist_ok=True)
    own_copy.rename(root / below)
    assert find_root(root) == root / below == provide(root)
    link = tmp_path / "link"
    link.symlink_to(root)
    data = TinyImageNet(str(link), classes=3, val_per_class=2)
    data.prepare_data()
    assert data.split.root == root / below and len(data.images("test")) == 6


def test_data_found_twice_is_not_chosen_from(own_copy, tmp_path, one_line):
    (tmp_path / "link").symlink_to(own_copy.parent)
    assert find_root(tmp_path).samefile(own_copy)
    for name in ("b", "a"):
        shutil.copytree(own_copy, tmp_path / name)
    with pytest.raises(InputError, match="more than once: give one of .*/a, .*/b as data.root") as error:
        find_root(tmp_path)
    one_line(str(error.value))


def test_synthetic_images_never_pass_for_tiny_imagenet(synthetic_root, tmp_path):
    assert find_root(synthetic_root) == synthetic_root and find_root(synthetic_root.parent) is None


def test_val_images_named_alike_in_several_classes(own_copy):
    val_by_class_and_no_annotations(own_copy)
    for folder in (own_copy / "val").iterdir():
        for i, path in enumerate(sorted(folder.iterdir())):
            path.rename(folder / f"{i}.JPEG")
    split = read_split(own_copy, 5, 2, 0)
    assert split.test == [f"val/{wnid}/{i}.JPEG" for wnid in split.classes for i in range(2)]
    assert all(split.path(file).parent.name == split.class_of[file] for file in split.test)


def unlabelled(root):
    (root / "val" / "val_annotations.txt").unlink()


def without_val(root):
    shutil.rmtree(root / "val")


def without_a_class(root):
    val_by_class_and_no_annotations(root)
    shutil.rmtree(root / "val" / "n90000003")


def without_an_image(root):
    (root / "val" / "images" / "val_7.JPEG").unlink()


def listing_another(name):
    def change(root):
        (root / "val" / "images" / "a\\b.JPEG").write_bytes(b"")
        with (root / "val" / "val_annotations.txt").open("a") as file:
            file.write(f"{name}\tn90000000\t0\t0\t63\t63\n")

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (without_val, "val, the test set, lacks images of 20 of the 20 classes"),
        (unlabelled, "lacks images of 20 of the 20 classes drawn, or val_annotations.txt"),
        (without_a_class, "lacks images of 1 of the 20 classes"),
        (without_an_image, "lacks images of 1 of the 20 classes"),
        (listing_another("../../train/x.JPEG"), "lacks images of 1 of the 20 classes"),
        (listing_another("/etc/passwd"), "lacks images of 1 of the 20 classes"),
    ],
)
def test_without_test_images_one_can_train(change, expected, own_copy, one_line):
    change(own_copy)
    data = TinyImageNet(str(own_copy), classes=None, val_per_class=2)
    data.prepare_data()
    data.setup("fit")
    assert [len(data.images(part)) for part in ("train", "val")] == [80, 40] and data.split.test == []
    with pytest.raises(InputError, match=f"{expected}.*test=false") as error:
        data.images("test")
    assert "delete" not in one_line(str(error.value))


@pytest.mark.parametrize("change", ["train renamed", "class folders alone", "lists alone", "another folder"])
def test_a_part_of_the_data_is_not_fetched_over(change, own_copy, archive, monkeypatch, one_line):
    monkeypatch.setattr(tiny_imagenet, "download", None)
    monkeypatch.setattr(tiny_imagenet, "extract", None)
    if change == "class folders alone":
        for folder in (own_copy / "train").iterdir():
            folder.rename(own_copy / folder.name)
    if change == "another folder":
        (own_copy / "cat").mkdir()
        for name in ("val", "wnids.txt", "words.txt"):
            (own_copy / name).rename(own_copy / f".{name}")
    (own_copy / "train").rename(own_copy / "images") if change != "lists alone" else shutil.rmtree(own_copy / "train")
    for root in (own_copy, own_copy.parent) if change != "another folder" else (own_copy.parent,):
        for given in (archive, None):
            with pytest.raises(InputError, match=f"{FOLDER} holds no train/ .*data=folder data.root=") as error:
                provide(root, given)
            assert "delete" not in one_line(str(error.value))
    with pytest.raises(InputError, match="holds no train/"):
        TinyImageNet(str(own_copy)).split  # noqa: B018


@contextmanager
def unreadable(path):
    """Can't be listed; a mode of 000 would not keep root out."""
    whole = os.scandir

    def guarded(given):
        if str(given) == str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(given))
        return whole(given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", guarded)
        yield


@pytest.mark.parametrize("name", [".", "train", "train/n90000003/images", "val/images"])
def test_folders_that_cannot_be_read_are_not_taken_for_missing(name, own_copy):
    with unreadable(own_copy / name), pytest.raises(PermissionError) as error:
        read_split(provide(own_copy.parent), None, 2, 0)
    assert error.value.filename == str(own_copy / name)
