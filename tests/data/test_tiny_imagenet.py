"""Tiny ImageNet in every layout that people have it in, extracted, downloaded and split; the server is local."""

import errno
import hashlib
import os
import shutil
import threading
import time
import zipfile
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ARCHIVE, needs_real_data

from inversion.core.errors import InputError
from inversion.data import tiny_imagenet
from inversion.data.tiny_imagenet import TinyImageNet, find_root, read_split

FOLDER = "tiny-imagenet-200"
NO_URL = "http://127.0.0.1:9/tiny-imagenet-200.zip"  # nothing listens on port 9


def provide(root, archive=None, url=NO_URL, md5=""):
    return tiny_imagenet.provide(root, archive, url, md5)


def md5_of(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def copy(synthetic_root, tmp_path):
    """A copy of the synthetic images in the official layout, to be rearranged."""
    root = shutil.copytree(synthetic_root, tmp_path / "copy" / FOLDER)
    (root / ".synthetic.json").unlink()
    return root


def annotations(root):
    return [line.split("\t") for line in (root / "val" / "val_annotations.txt").read_text().splitlines()]


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
def test_every_layout_gives_the_official_split(layout, synthetic_root, copy):
    LAYOUTS[layout](copy)
    official, split = (read_split(find_root(root), 5, 2, 0) for root in (synthetic_root, copy))
    assert (split.digest, split.class_of, split.no_test) == (official.digest, official.class_of, "")
    assert split.classes == official.classes or layout == "no_lists"
    for part in ("train", "val", "test"):
        assert split.files(part) == official.files(part)
        for file in split.files(part):
            assert split.path(file).read_bytes() == official.path(file).read_bytes()


@pytest.mark.parametrize("below", [".", FOLDER, "a", "a/b/c", f"{FOLDER}/{FOLDER}", "Tiny ImageNet/some files"])
def test_the_data_is_found_at_any_depth(below, copy, tmp_path):
    root = tmp_path / "root"
    (root / below).parent.mkdir(parents=True, exist_ok=True)
    copy.rename(root / below)
    assert find_root(root) == root / below == provide(root)
    link = tmp_path / "link"
    link.symlink_to(root)
    data = TinyImageNet(str(link), classes=3, val_per_class=2)
    data.prepare_data()
    assert data.split.root == root / below and len(data.images("test")) == 6


def test_data_found_twice_is_not_chosen_from(copy, tmp_path, one_line):
    (tmp_path / "link").symlink_to(copy.parent)
    assert find_root(tmp_path).samefile(copy)
    for name in ("b", "a"):
        shutil.copytree(copy, tmp_path / name)
    with pytest.raises(InputError, match="more than once: give one of .*/a, .*/b as data.root") as error:
        find_root(tmp_path)
    one_line(str(error.value))


def test_synthetic_images_never_pass_for_tiny_imagenet(synthetic_root, tmp_path):
    assert find_root(synthetic_root) == synthetic_root and find_root(synthetic_root.parent) is None
    shutil.copytree(synthetic_root, tmp_path / "made-30-5-0")  # as earlier versions called it
    (tmp_path / "made-30-5-0" / ".synthetic.json").rename(tmp_path / "made-30-5-0" / ".made.json")
    assert find_root(tmp_path) is None


def test_val_images_named_alike_in_several_classes(copy):
    val_by_class_and_no_annotations(copy)
    for folder in (copy / "val").iterdir():
        for i, path in enumerate(sorted(folder.iterdir())):
            path.rename(folder / f"{i}.JPEG")
    split = read_split(copy, 5, 2, 0)
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
def test_without_test_images_one_can_train(change, expected, copy, one_line):
    change(copy)
    data = TinyImageNet(str(copy), classes=None, val_per_class=2)
    data.prepare_data()
    data.setup("fit")
    assert [len(data.images(part)) for part in ("train", "val")] == [80, 40] and data.split.test == []
    with pytest.raises(InputError, match=f"{expected}.*test=false") as error:
        data.images("test")
    assert "delete" not in one_line(str(error.value))


@pytest.mark.parametrize("change", ["train renamed", "class folders alone", "lists alone", "another folder"])
def test_a_part_of_the_data_is_not_fetched_over(change, copy, archive, monkeypatch, one_line):
    monkeypatch.setattr(tiny_imagenet, "download", None)
    monkeypatch.setattr(tiny_imagenet, "extract", None)
    if change == "class folders alone":
        for folder in (copy / "train").iterdir():
            folder.rename(copy / folder.name)
    if change == "another folder":
        (copy / "cat").mkdir()
        for name in ("val", "wnids.txt", "words.txt"):
            (copy / name).rename(copy / f".{name}")
    (copy / "train").rename(copy / "images") if change != "lists alone" else shutil.rmtree(copy / "train")
    for root in (copy, copy.parent) if change != "another folder" else (copy.parent,):
        for given in (archive, None):
            with pytest.raises(InputError, match=f"{FOLDER} holds no train/ .*data=folder data.root=") as error:
                provide(root, given)
            assert "delete" not in one_line(str(error.value))
    with pytest.raises(InputError, match="holds no train/"):
        TinyImageNet(str(copy)).split  # noqa: B018


def test_a_root_that_is_a_file_is_told(archive, one_line):
    with pytest.raises(InputError, match="is a file: give it as data.archive") as error:
        provide(archive)
    one_line(str(error.value))


def test_an_empty_folder_is_not_in_the_way(archive, tmp_path):
    (tmp_path / FOLDER).mkdir()
    assert (provide(tmp_path, archive) / "wnids.txt").is_file()


@pytest.mark.parametrize("name", ["tiny-imagenet-200.zip", "Tiny_ImageNet (1).ZIP", "tiny-imagenet.tar.gz"])
def test_an_archive_that_lies_in_the_root_is_used_and_left(name, archive, tmp_path):
    shutil.copy(archive, tmp_path / name)
    assert (provide(tmp_path) / "wnids.txt").is_file()
    assert md5_of(tmp_path / name) == md5_of(archive)


def test_extracts_all_but_the_test_images(archive, synthetic_root, tmp_path):
    folder = provide(tmp_path, archive)
    assert folder == tmp_path / "tiny-imagenet-200"
    for source in synthetic_root.rglob("*.*"):
        if source.is_file() and source.name != ".synthetic.json":
            assert (folder / source.relative_to(synthetic_root)).read_bytes() == source.read_bytes()
    assert not (folder / "test").exists()


def test_extracts_once(archive, tmp_path):
    folder = provide(tmp_path, archive)
    (folder / "words.txt").write_text("changed by hand")
    provide(tmp_path, archive)
    assert (folder / "words.txt").read_text() == "changed by hand"


def test_another_archive_than_the_one_extracted_is_refused(archive, tmp_path, one_line):
    provide(tmp_path / "data", archive)
    other = tmp_path / "other.zip"
    shutil.copy(archive, other)
    with zipfile.ZipFile(other, "a") as file:
        file.writestr("more", b"more")
    with pytest.raises(InputError, match="another archive") as error:
        provide(tmp_path / "data", other)
    one_line(str(error.value))


@pytest.mark.parametrize("prefix", ["", "Tiny ImageNet/", f"{FOLDER}/{FOLDER}/", "test/a/b/", "train/"])
def test_an_archive_may_have_any_folder_around_the_data(prefix, synthetic_root, tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        for source in [*synthetic_root.rglob("*")]:
            file.write(source, f"{prefix}{source.relative_to(synthetic_root)}")
            file.writestr(f"__MACOSX/{prefix}{source.relative_to(synthetic_root).parent}/._{source.name}", b"\0\5\x16\7")
    root = provide(tmp_path / "data", tmp_path / "other.zip")
    assert root == tmp_path / "data" / FOLDER and not (root / "__MACOSX").exists()
    assert {path.name for path in root.iterdir()} == {"train", "val", "wnids.txt", "words.txt", ".archive.md5"}
    assert read_split(root, 3, 2, 0).digest == read_split(synthetic_root, 3, 2, 0).digest


def test_an_archive_of_the_train_images_alone_will_do(synthetic_root, tmp_path):
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as file:
        for source in [*synthetic_root.rglob("*.JPEG")]:
            if "val" not in source.parts:
                file.write(source, source.relative_to(synthetic_root))
    split = read_split(provide(tmp_path / "data", tmp_path / "train.zip"), 3, 2, 0)
    assert split.val == read_split(synthetic_root, 3, 2, 0).val and "test=false" in split.no_test


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda path: zipfile.ZipFile(path, "w").writestr("readme.txt", b"hello"), "no Tiny ImageNet"),
        (lambda path: path.write_bytes(b"Rar!\x1a\7"), "a RAR archive"),
        (lambda path: path.mkdir(), "is a folder: .*data.root"),
        (lambda path: None, "no such file"),
    ],
)
def test_bad_archives_leave_nothing_behind(write, expected, tmp_path, one_line):
    path = tmp_path / "bad.zip"
    write(path)
    with pytest.raises(InputError, match=expected) as error:
        provide(tmp_path / "data", path)
    assert str(path) in one_line(str(error.value))
    left = {entry.name for entry in (tmp_path / "data").iterdir()} if (tmp_path / "data").exists() else set()
    assert left <= {".lock"}


def test_an_interrupted_extraction_never_passes_for_whole(archive, tmp_path, monkeypatch):
    opened = []
    whole = zipfile.ZipFile.open

    def interrupt(file, *arguments):
        opened.append(1)
        if len(opened) == 10:
            raise KeyboardInterrupt
        return whole(file, *arguments)

    monkeypatch.setattr(zipfile.ZipFile, "open", interrupt)
    with pytest.raises(KeyboardInterrupt):
        provide(tmp_path, archive)
    assert find_root(tmp_path) is None
    monkeypatch.undo()
    assert (provide(tmp_path, archive) / "wnids.txt").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "tiny-imagenet-200"}


def test_a_full_disk_is_not_the_archives_fault(archive, tmp_path, monkeypatch, one_line):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tiny_imagenet, "write_atomic", fail)
    with pytest.raises(InputError, match="can't be extracted to .*No space left") as error:
        provide(tmp_path, archive)
    assert "data.root" in one_line(str(error.value))


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
def test_folders_that_cannot_be_read_are_not_taken_for_missing(name, copy):
    with unreadable(copy / name), pytest.raises(PermissionError) as error:
        read_split(provide(copy.parent), None, 2, 0)
    assert error.value.filename == str(copy / name)


@pytest.fixture
def server(tmp_path):
    """A web server on this machine: (its folder, its address)."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()


def test_downloads_verifies_extracts_and_tidies_up(archive, server, tmp_path):
    folder, address = server
    shutil.copy(archive, folder)
    root = provide(tmp_path / "data", url=f"{address}/{archive.name}", md5=md5_of(archive))
    assert (root / "wnids.txt").is_file()
    assert {path.name for path in (tmp_path / "data").iterdir()} == {".lock", FOLDER}


@pytest.mark.parametrize("content", [b"<html>moved</html>", b""])
def test_a_download_with_another_md5_is_not_kept(content, server, tmp_path, one_line):
    folder, address = server
    (folder / "tiny.zip").write_bytes(content)
    with pytest.raises(InputError, match="not Tiny ImageNet") as error:
        provide(tmp_path / "data", url=f"{address}/tiny.zip", md5="0" * 32)
    one_line(str(error.value))
    assert {path.name for path in (tmp_path / "data").iterdir()} == {".lock"}


@pytest.mark.parametrize("url", ["foo", None, "file:///etc/passwd", "ftp://127.0.0.1/tiny.zip", "http://[broken/tiny.zip"])
def test_an_address_that_is_none_is_told(url, tmp_path, one_line):
    with pytest.raises(InputError) as error:
        provide(tmp_path / "data", url=url)
    assert str(url) in one_line(str(error.value)) and "data.archive=PATH" in str(error.value)


def test_404_and_no_network_are_told_at_once(server, tmp_path, one_line):
    started = time.monotonic()
    for url in (f"{server[1]}/absent.zip", NO_URL, "http://no-such-host.invalid/tiny.zip"):
        with pytest.raises(InputError, match="can't be downloaded") as error:
            provide(tmp_path / "data", url=url)
        assert url in one_line(str(error.value)) and "data.archive=PATH" in str(error.value)
    assert time.monotonic() - started < 30


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


def test_missing_classes_are_named(copy, one_line):
    shutil.rmtree(copy / "train" / "n90000004")
    with pytest.raises(InputError, match=r"n90000004 \(plain square\)") as error:
        read_split(copy, None, 2, 0)
    one_line(str(error.value))


def test_missing_test_images_of_classes_not_drawn_do_not_matter(copy):
    drawn = read_split(copy, 3, 2, 0)
    for path in (copy / "val" / "images").iterdir():
        if f"val/images/{path.name}" not in drawn.test:
            path.unlink()
    assert read_split(copy, 3, 2, 0) == drawn


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
