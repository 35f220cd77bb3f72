"""A file system that has no locks, as some NFS and SMB mounts, is told and does without."""

import errno
import fcntl
import os
import time

import pytest
from conftest import run_train

from inversion.data import synthetic, tiny_imagenet


@pytest.fixture(params=["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def no_locks(request, monkeypatch):
    """What the file system answers."""
    code = getattr(errno, request.param)

    def fail(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", fail)
    return os.strerror(code)


def test_data_is_made_and_extracted(no_locks, archive, tmp_path, caplog):
    started = time.monotonic()
    for root in (tmp_path / "synthetic", tmp_path / "data"):
        for _ in range(2):  # the second finds what lies there, and whatever lock file the first has left
            if root.name == "synthetic":
                synthetic.provide(root, train_per_class=1, test_per_class=1, seed=0)
            else:
                tiny_imagenet.provide(root, archive, "", "")
    assert time.monotonic() - started < 20
    assert f"has no locks ({no_locks}): start one run at a time there." in caplog.text


@pytest.mark.parametrize("no_locks", ["ENOLCK"], indirect=True)
def test_a_run_works(no_locks, quick, tmp_path, capsys):
    folders = (tmp_path / "cache", tmp_path / "out")
    for folder in folders:
        folder.mkdir()
        (folder / ".lock").touch()  # an earlier run's
    options = [f"data.cache={folders[0]}", "trainer.max_epochs=1", f"hydra.run.dir={folders[1]}"]
    started = time.monotonic()
    assert run_train("layer=conv5", *quick, *options).code == 0
    assert time.monotonic() - started < 60 and (folders[1] / "metrics.json").is_file()
    said = capsys.readouterr().out
    for folder in folders:
        assert f"The file system of {folder} has no locks ({no_locks})" in said
