"""Download, extraction and reading of Tiny ImageNet; the archives are made here, the server is local."""

import errno
import hashlib
import io
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

NO_URL = "http://127.0.0.1:9/tiny-imagenet-200.zip"  # nothing listens on port 9


def provide(root, archive=None, url=NO_URL, md5=""):
    return tiny_imagenet.provide(root, archive, url, md5)


def md5_of(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_extracts_all_but_the_test_images(archive, synthetic_root, tmp_path):
    folder = provide(tmp_path, archive)
    assert folder == tmp_path / "tiny-imagenet-200"
    for source in synthetic_root.rglob("*.*"):
        if source.is_file() and source.name != ".made.json":
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


def _not_a_zip(path, archive):
    path.write_bytes(b"<html>no zip</html>" * 100)


def _cut_off(path, archive):
    path.write_bytes(archive.read_bytes()[:-2000])


def _flipped_byte(path, archive):
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _other_content(path, archive):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", b"hello")


def _with_member(name, link=False):
    def write(path, archive):
        shutil.copy(archive, path)
        with zipfile.ZipFile(path, "a") as file:
            member = zipfile.ZipInfo(name)
            if link:
                member.external_attr = 0o120777 << 16
            file.writestr(member, b"/etc/passwd")

    return write


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (_not_a_zip, "no whole zip"),
        (_cut_off, "no whole zip"),
        (_flipped_byte, "no whole zip"),
        (_other_content, "not Tiny ImageNet"),
        (_with_member("tiny-imagenet-200/../../evil.txt"), "unsafe member"),
        (_with_member("/tmp/evil.txt"), "unsafe member"),
        (_with_member("tiny-imagenet-200/train/link", link=True), "unsafe member"),
        (_with_member("tiny-imagenet-200/words.txt/more"), "words.txt as a file and as a folder"),
        (_with_member(f"tiny-imagenet-200/train/{'n' * 300}"), "can't be extracted"),
        (lambda path, archive: path.mkdir(), "is a folder"),
        (lambda path, archive: None, "no such file"),
    ],
)
def test_bad_archives_leave_nothing_behind(write, expected, archive, tmp_path, one_line):
    path = tmp_path / "bad.zip"
    write(path, archive)
    with pytest.raises(InputError, match=expected) as error:
        provide(tmp_path / "data", path)
    assert str(path) in one_line(str(error.value))
    left = {entry.name for entry in (tmp_path / "data").iterdir()} if (tmp_path / "data").exists() else set()
    assert left <= {".lock"}
    assert not (tmp_path / "evil.txt").exists()


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
    assert tiny_imagenet.find_root(tmp_path) is None
    monkeypatch.undo()
    assert (provide(tmp_path, archive) / "wnids.txt").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "tiny-imagenet-200"}


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError("Invalid data stream"), "no whole zip archive .Invalid data stream"),
        (ValueError("odd"), "no whole zip archive .odd"),
        (EOFError(), "no whole zip archive .EOFError"),
        (OSError(errno.EIO, "Input/output error"), "can't be read .Input/output error"),
    ],
)
def test_members_that_cannot_be_read_are_the_archives_fault(raised, expected, archive, tmp_path, monkeypatch, one_line):
    def fail(*arguments):
        raise raised

    monkeypatch.setattr(zipfile.ZipExtFile, "read", fail)
    with pytest.raises(InputError, match=expected) as error:
        provide(tmp_path, archive)
    assert str(archive) in one_line(str(error.value))
    assert {path.name for path in tmp_path.iterdir()} == {".lock"}


def test_a_full_disk_is_not_the_archives_fault(archive, tmp_path, monkeypatch, one_line):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tiny_imagenet, "write_atomic", fail)
    with pytest.raises(InputError, match="can't be extracted to .*No space left") as error:
        provide(tmp_path, archive)
    assert "data.root" in one_line(str(error.value))


@pytest.mark.parametrize("name", ["file", "file/below", "link"])
def test_a_root_that_is_no_folder_is_told(name, archive, tmp_path, one_line):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    with pytest.raises(InputError, match="can't be made a folder") as error:
        provide(tmp_path / name, archive)
    assert str(tmp_path / name) in one_line(str(error.value))


@pytest.mark.parametrize("root", [".", "tiny-imagenet-200"])
def test_data_without_its_class_ids_is_refused_before_anything_is_fetched(root, archive, tmp_path, monkeypatch, one_line):
    def never(*arguments):
        raise AssertionError("fetched")

    monkeypatch.setattr(tiny_imagenet, "fetch", never)
    monkeypatch.setattr(tiny_imagenet, "extract", never)
    (tmp_path / "tiny-imagenet-200" / "train").mkdir(parents=True)
    for given in (archive, None):
        with pytest.raises(InputError, match=r"tiny-imagenet-200 is there but lacks wnids\.txt") as error:
            provide(tmp_path / root, given)
        one_line(str(error.value))


def test_an_empty_folder_is_not_in_the_way(archive, tmp_path):
    (tmp_path / "tiny-imagenet-200").mkdir()
    assert (provide(tmp_path, archive) / "wnids.txt").is_file()


@contextmanager
def unreadable(path):
    """Neither opened, listed nor looked into; a mode of 000 would not keep root out."""

    def guarded(before):
        def call(given, *arguments, **options):
            if str(given) == str(path):
                raise PermissionError(errno.EACCES, "Permission denied", str(given))
            return before(given, *arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((io, "open"), (os, "listdir"), *([] if path.is_file() else [(os, "stat")])):
            patch.setattr(module, name, guarded(getattr(module, name)))
        yield


@pytest.mark.parametrize(
    "name", ["{archive}", ".archive.md5", "wnids.txt", "words.txt", "train/n90000003/images", "val/images"]
)
def test_what_cannot_be_read_is_told(name, archive, tmp_path, one_line):
    root = provide(tmp_path, archive)
    path = archive if name == "{archive}" else root / name
    with unreadable(path), pytest.raises(InputError, match="can't be read .Permission denied") as error:
        provide(tmp_path, archive)
        tiny_imagenet.read_split(root, None, 2, 0)
    assert str(path) in one_line(str(error.value))


def test_an_archive_that_cannot_be_read_is_told_before_it_is_extracted(archive, tmp_path, one_line):
    with unreadable(archive), pytest.raises(InputError, match="can't be read .Permission denied") as error:
        provide(tmp_path, archive)
    assert str(archive) in one_line(str(error.value))
    assert {path.name for path in tmp_path.iterdir()} == {".lock"}


def test_a_root_that_cannot_be_looked_into_is_told(tmp_path, one_line):
    with unreadable(tmp_path / "tiny-imagenet-200"), pytest.raises(InputError, match="Permission denied") as error:
        provide(tmp_path)
    assert str(tmp_path / "tiny-imagenet-200") in one_line(str(error.value))


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
    assert not (tmp_path / "data" / archive.name).exists()


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
    split = tiny_imagenet.read_split(synthetic_root, classes=5, val_per_class=2, seed=0)
    assert (len(split.train), len(split.val), len(split.test)) == (5 * 4, 5 * 2, 5 * 2)
    assert len({*split.train, *split.val, *split.test}) == 40
    for wnid in split.classes:
        assert sum(wnid in name for name in split.val) == 2
    assert all(name.startswith("val/images/") for name in split.test)
    assert all((synthetic_root / name).is_file() for name in [*split.train, *split.val, *split.test])
    assert split.classes[next(iter(split.classes))].split()[0] in ("plain", "striped", "checked", "dotted")


def test_the_split_follows_the_seed(synthetic_root):
    splits = [tiny_imagenet.read_split(synthetic_root, 20, 2, seed) for seed in (0, 0, 1)]
    assert splits[0] == splits[1]
    assert splits[0].val != splits[2].val


@pytest.fixture
def damaged(synthetic_root, tmp_path):
    return shutil.copytree(synthetic_root, tmp_path / "damaged")


def test_missing_classes_are_named(damaged, one_line):
    shutil.rmtree(damaged / "train" / "n90000004")
    with pytest.raises(InputError, match=r"n90000004 \(plain square\)") as error:
        tiny_imagenet.read_split(damaged, None, 2, 0)
    one_line(str(error.value))


@pytest.mark.parametrize("name", ["words.txt", "val/val_annotations.txt", "wnids.txt"])
def test_missing_files_are_named(damaged, name, one_line):
    (damaged / name).unlink()
    with pytest.raises(InputError, match=name) as error:
        tiny_imagenet.read_split(damaged, 3, 2, 0)
    one_line(str(error.value))


@pytest.mark.parametrize("name", ["../../train/x.JPEG", "/etc/passwd", "..", "a\\b.JPEG", "C:x.JPEG", "absent.JPEG"])
def test_test_images_are_bare_names_of_files_that_are_there(damaged, name, one_line):
    (damaged / "val" / "images" / "a\\b.JPEG").write_bytes(b"")
    annotations = damaged / "val" / "val_annotations.txt"
    annotations.write_text(annotations.read_text() + f"{name}\tn90000000\t0\t0\t63\t63\n")
    with pytest.raises(InputError, match="lacks 1 of the 41" if name == "absent.JPEG" else "no bare file name") as error:
        tiny_imagenet.read_split(damaged, None, 2, 0)
    assert repr(name) in one_line(str(error.value))


def test_missing_test_images_of_classes_not_drawn_do_not_matter(damaged):
    drawn = tiny_imagenet.read_split(damaged, 3, 2, 0)
    for path in (damaged / "val" / "images").iterdir():
        if f"val/images/{path.name}" not in drawn.test:
            path.unlink()
    assert tiny_imagenet.read_split(damaged, 3, 2, 0) == drawn


@pytest.mark.parametrize("value", ["abc", "3", 3.0, True])
def test_numbers_that_are_no_whole_numbers_are_told(synthetic_root, value, one_line):
    whole = {"classes": 3, "val_per_class": 2, "seed": 0}
    for name in whole:
        with pytest.raises(InputError, match=f"data.{name}={value} must be a whole number") as error:
            tiny_imagenet.read_split(synthetic_root, **{**whole, name: value})
        one_line(str(error.value))


def test_too_few_images_are_told(synthetic_root, one_line):
    with pytest.raises(InputError, match="has 6 images") as error:
        tiny_imagenet.read_split(synthetic_root, 3, 6, 0)
    one_line(str(error.value))


def test_a_class_with_far_fewer_images_than_others_is_warned_of(synthetic_root, tmp_path, caplog):
    root = tmp_path / "made"
    shutil.copytree(synthetic_root, root)
    thin = tiny_imagenet.read_split(root, 3, 1, 0).train[0].split("/")[1]
    assert not caplog.records
    for path in sorted((root / "train" / thin / "images").iterdir())[2:]:
        path.unlink()
    tiny_imagenet.read_split(root, 3, 1, 0)
    assert f"Class {thin}" in caplog.text and "has 2 train images where others have 6" in caplog.text


@needs_real_data
def test_known_classes_of_seed_0_on_the_real_ids():
    with zipfile.ZipFile(ARCHIVE) as file:
        ids = file.read("tiny-imagenet-200/wnids.txt").decode().split()
    assert len(ids) == 200
    assert " ".join(tiny_imagenet.draw_classes(ids, 20, 0)) == (
        "n01784675 n02085620 n02132136 n02481823 n02788148 n02793495 n02815834 n02883205 n03042490 n03201208 "
        "n03393912 n03444034 n03804744 n03837869 n03930313 n03937543 n04254777 n04371430 n07920052 n09193705"
    )
