"""The cache: never stale, never half, made once however many ask."""

import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch

from inversion.core.errors import InputError
from inversion.data import cache
from inversion.data.cache import Cache, Entry


def entry(key=0, shape=(100, 7), dtype="float32", name="some features"):
    return Entry(name, {"made from": key}, shape, dtype)


def filling(value, calls=None):
    def fill(arrays):
        if calls is not None:
            calls.append(sorted(arrays))
        for array in arrays.values():
            array[:] = value

    return fill


def forbidden(arrays):
    raise AssertionError("it was there already")


def test_an_entry_is_made_once_and_found_again(tmp_path):
    (made,) = Cache(tmp_path).get([entry()], filling(3))
    (found,) = Cache(tmp_path).get([entry()], forbidden)
    assert torch.equal(made, torch.full((100, 7), 3.0)) and torch.equal(found, made)
    assert [path.name for path in tmp_path.glob("*.npy")] == [entry().file_name]


@pytest.mark.parametrize("other", [entry(key=1), entry(shape=(99, 7)), entry(dtype="float16")])
def test_what_depends_on_something_else_is_another_entry(tmp_path, other):
    Cache(tmp_path).get([entry()], filling(3))
    (tensor,) = Cache(tmp_path).get([other], filling(4))
    assert (tensor == 4).all()


def test_another_format_finds_nothing(tmp_path, monkeypatch):
    Cache(tmp_path).get([entry()], filling(3))
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    assert not Cache(tmp_path).holds([entry()])


def test_only_the_missing_of_several_are_made(tmp_path):
    calls = []
    wanted = [entry(name=name) for name in ("a", "b", "c")]
    Cache(tmp_path).get(wanted[1:2], filling(1, calls))
    tensors = Cache(tmp_path).get(wanted, filling(2, calls))
    assert calls == [["b"], ["a", "c"]]
    assert [tensor[0, 0].item() for tensor in tensors] == [2, 1, 2]


@pytest.mark.parametrize("harm", ["cut", "empty", "garbage", "header", "other shape", "pickle"])
def test_a_damaged_entry_is_made_again(tmp_path, harm):
    Cache(tmp_path).get([entry()], filling(3))
    path = tmp_path / entry().file_name
    content = path.read_bytes()
    if harm == "other shape":
        with path.open("wb") as file:
            np.save(file, np.zeros((5, 5), np.float32))
    elif harm == "pickle":
        with path.open("wb") as file:
            np.save(file, np.array([{"code": 1}], dtype=object))
    else:
        path.write_bytes({"cut": content[:-1], "empty": b"", "garbage": b"x" * 500, "header": content[:60]}[harm])
    (tensor,) = Cache(tmp_path).get([entry()], filling(5))
    assert (tensor == 5).all()


def test_a_filling_that_fails_leaves_nothing(tmp_path):
    def fail(arrays):
        arrays["some features"][:50] = 1
        raise RuntimeError("for the test")

    with pytest.raises(RuntimeError, match="for the test"):
        Cache(tmp_path).get([entry()], fail)
    assert not Cache(tmp_path).holds([entry()])
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}


def test_a_full_disk_is_told_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.raises(InputError, match="256 MiB free"):
        Cache(tmp_path).get([entry()], forbidden)


def test_a_file_that_another_process_finishes_meanwhile_is_no_trouble(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    monkeypatch.setattr(cache, "_partial", lambda: [tmp_path / "gone.partial"])
    assert cache.has_room([])


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="can't be written"):
        Cache(tmp_path / "file" / "cache").get([entry()], forbidden)


def slow_fill(folder, ready, counter):
    def fill(arrays):
        with counter.get_lock():
            counter.value += 1
        ready.set()
        for array in arrays.values():
            for row in array:
                row[:] = 7
                time.sleep(0.01)

    (tensor,) = Cache(folder).get([entry()], fill)
    assert (tensor == 7).all()


def test_two_processes_at_once_make_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, counter = context.Event(), context.Value("i", 0)
    processes = [context.Process(target=slow_fill, args=(tmp_path, ready, counter)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert counter.value == 1


def test_a_process_killed_while_it_fills_leaves_nothing_that_passes_for_whole(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, counter = context.Event(), context.Value("i", 0)
    process = context.Process(target=slow_fill, args=(tmp_path, ready, counter))
    process.start()
    assert ready.wait(30)
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert list(tmp_path.glob("*.partial")) and not Cache(tmp_path).holds([entry()])
    (tensor,) = Cache(tmp_path).get([entry()], filling(8))
    assert (tensor == 8).all() and not list(tmp_path.glob("*.partial"))
