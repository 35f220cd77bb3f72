"""Atomic files and folders, and locks, also where the file system has none."""

import errno
import os
import stat
from multiprocessing import get_context

import pytest

from inversion.core.errors import InputError
from inversion.core.files import atomic_file, atomic_folder, is_locked, lock, locked, write_atomic


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / f"{'ü' * 120}.txt"  # as long as file systems take
    with pytest.raises(KeyError), atomic_file(path) as file:
        file.write(b"half")
        raise KeyError
    assert not list(path.parent.iterdir())
    write_atomic(path, b"first")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second" and list(path.parent.iterdir()) == [path]


def test_files_and_folders_get_the_usual_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", b"")
        with atomic_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    for outcome in (KeyError, None):
        (tmp_path / ".data.partial").mkdir()
        (tmp_path / ".data.partial" / "left").touch()  # by a process that was killed
        try:
            with atomic_folder(tmp_path / "data") as folder:
                (folder / "file").touch()
                if outcome:
                    raise outcome
        except KeyError:
            assert not list(tmp_path.iterdir())
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["data", "data/file"]


def hold(folder, ready, done):
    with locked(folder):
        ready.set()
        done.wait(60)


def test_a_folder_that_another_process_uses_is_refused(tmp_path, one_line):
    context = get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready, done))
    process.start()
    assert ready.wait(60) and is_locked(tmp_path)
    with pytest.raises(InputError, match="in use by another run") as error, locked(tmp_path):
        pass
    one_line(str(error.value))
    done.set()
    process.join()
    assert not is_locked(tmp_path)


@pytest.mark.parametrize("left_behind", [False, True])
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_warned_of_and_used(number, left_behind, tmp_path, monkeypatch, caplog):
    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", fail)
    if left_behind:
        (tmp_path / ".lock").touch()
    for timeout in (-1, 0):
        with lock(tmp_path / ".lock", timeout):
            pass
    with locked(tmp_path):
        assert not is_locked(tmp_path)
    assert caplog.text.count("has no locks") == 1 and os.strerror(number) in caplog.text


def test_other_errors_of_locks_are_not_hidden(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(OSError, match="Input/output"), lock(tmp_path / ".lock"):
        pass
