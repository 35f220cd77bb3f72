"""Tiny ImageNet from archives and from the web, which is a server on this machine."""

import errno
import shutil
import threading
import time
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tiny import FOLDER, NO_URL, md5_of, provide

from inversion.core.errors import InputError
from inversion.data import tiny_imagenet
from inversion.data.tiny_imagenet import find_root, read_split


def test_a_root_that_is_a_file_is_told(archive, one_line):
    with pytest.raises(InputError, match="is a file: give it as data.archive") as error:
        provide(archive)
    one_line(str(error.value))


def test_an_empty_folder_is_not_in_the_way(archive, tmp_path):
    (tmp_path / FOLDER).mkdir()
    assert (provide(tmp_path, archive) / "wnids.txt").is_file()


def test_nothing_is_downloaded_into_a_folder_of_photos(tmp_path, one_line):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "1.jpg").touch()
    with pytest.raises(InputError, match="use data=folder") as error:
        provide(tmp_path)
    one_line(str(error.value))


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
