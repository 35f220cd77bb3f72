"""Archives of every kind that can be read, damaged and of other kinds."""

import io
import struct
import tarfile
import zipfile

import pytest

from inversion.core.errors import InputError
from inversion.data.archive import read_files

FILES = {f"data/{i}.JPEG": bytes([i]) * (512 * i + 100 * (i % 2)) for i in range(9)} | {"data/list.txt": b"n1\n" * 300}
TARS = {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}


def wanted(path):
    return path.suffix in (".JPEG", ".txt")


def read(path):
    return {str(name): content for name, content in read_files(path, wanted)}


def write(path, kind, *others):
    """An archive of FILES; `others` are further members, (name, tar type)."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in FILES.items():
                file.writestr(name, content)
            for name, link in others:
                member = zipfile.ZipInfo(name)
                member.external_attr = (0o120777 if link else 0o100644) << 16
                file.writestr(member, b"/etc/passwd")
        return path
    with tarfile.open(path, TARS[kind]) as file:
        for name, content in FILES.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
        for name, link in others:
            member = tarfile.TarInfo(name)
            member.type = link or tarfile.REGTYPE
            member.linkname = "/etc/passwd"
            file.addfile(member)
    return path


@pytest.mark.parametrize("kind", ["zip", *TARS])
def test_archives_are_told_by_their_content(kind, tmp_path):
    path = write(tmp_path / "archive.bin", kind, ("data/readme.md", None), ("data/folder/", None))
    assert read(path) == FILES


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("name", ["data/../../evil.txt", "/tmp/evil.txt", "C:evil.txt", "data\\..\\..\\evil.txt"])
def test_members_that_lead_out_are_refused(kind, name, tmp_path, one_line):
    path = write(tmp_path / "bad", kind, (name, None))
    with pytest.raises(InputError, match="unsafe member") as error:
        read(path)
    assert repr(name) in one_line(str(error.value))


@pytest.mark.parametrize(
    ("kind", "link"),
    [("zip", True), *(("tar", kind) for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE))],
)
def test_links_and_devices_are_not_followed(kind, link, tmp_path):
    found = read(write(tmp_path / "odd", kind, ("data/x.JPEG", link)))
    assert found.pop("data/x.JPEG", b"/etc/passwd") == b"/etc/passwd" and found == FILES  # a zip's link holds its target


@pytest.mark.parametrize("kind", ["zip", *TARS])
def test_a_cut_anywhere_is_noticed(kind, tmp_path, one_line):
    path = write(tmp_path / "cut", kind)
    content = path.read_bytes()
    for length in range(1, len(content) - 1024, max(1, len(content) // 60 // 512 * 512)):
        path.write_bytes(content[:length])
        if kind == "tar" and not content[length:].strip(b"\0"):
            break  # only padding is missing
        with pytest.raises(InputError, match="can't be read as a zip or tar archive") as error:
            read(path)
        assert str(path) in one_line(str(error.value))


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_changed_byte_is_noticed(kind, tmp_path):
    path = write(tmp_path / "changed", kind)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="can't be read as a zip or tar archive"):
        read(path)


def test_a_damaged_header_does_not_end_a_tar(tmp_path):
    path = write(tmp_path / "changed", "tar")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"./data/5.JPEG", b"./dat\xff/5.JPEG"))
    with pytest.raises(InputError, match="a damaged header"):
        read(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"7z\xbc\xaf\x27\x1c\0\4", "a 7-Zip archive"),
        (b"Rar!\x1a\7\1\0", "a RAR archive"),
        (b"\x28\xb5\x2f\xfd\4\0", "compressed with Zstandard"),
        (b"PAR1\x15\4", "a Parquet table"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"", "empty"),
        (b"anything else" * 100, "text"),
        (bytes(range(256)) * 4, "file could not be opened successfully"),
    ],
)
def test_other_files_are_called_what_they_are(content, expected, tmp_path, one_line):
    (tmp_path / "file.zip").write_bytes(content)
    with pytest.raises(InputError, match=f"file.zip can't be read as a zip or tar archive .{expected}") as error:
        read(tmp_path / "file.zip")
    one_line(str(error.value))


@pytest.mark.parametrize(
    ("at", "value", "expected"), [(8, 1, "encrypted, password required"), (10, 9, "That compression method")]
)
def test_zips_that_need_another_program_are_told(at, value, expected, tmp_path, one_line):
    path = write(tmp_path / "file.zip", "zip")
    content = bytearray(path.read_bytes())
    entry, header = content.rindex(b"PK\1\2"), content.rindex(b"PK\3\4")
    struct.pack_into("<H", content, entry + at, value)
    struct.pack_into("<H", content, header + at - 2, value)
    path.write_bytes(content)
    with pytest.raises(InputError, match=f".*{expected}.*data.root=PATH") as error:
        read(path)
    one_line(str(error.value))


@pytest.mark.parametrize("raised", [OSError("Invalid data stream"), ValueError("odd"), EOFError()])
def test_whatever_a_decompressor_throws_is_the_archives_fault(raised, tmp_path, monkeypatch, one_line):
    def fail(*arguments):
        raise raised

    path = write(tmp_path / "file.zip", "zip")
    monkeypatch.setattr(zipfile.ZipExtFile, "read", fail)
    with pytest.raises(InputError, match=f"can't be read as a zip or tar archive .{str(raised) or 'EOFError'}") as error:
        read(path)
    assert str(path) in one_line(str(error.value))
