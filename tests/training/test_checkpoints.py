"""Checkpoints: atomic, and resumed only by the run they belong to."""

import json
import resource
import shutil

import pytest
import torch
from conftest import run_train

from inversion.core.errors import InputError
from inversion.training import checkpoints


def half_done(sweep, tmp_path):
    """A copy of a finished run without its last step, so that it would be resumed."""
    folder = tmp_path / "run"
    shutil.copytree(sweep / "fc8", folder)
    (folder / "metrics.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("optimizer.lr=0.1", "optimizer.lr=0.002, not 0.1"),
        ("seed=1", "seed=0, not 1"),
        ("loss=l1", "loss._target_=inversion.decoders.losses.MSELoss, not torch.nn.L1Loss"),
        ("data.seed=1", "another draw of images"),
        ("encoder.seed=1", "other encoder weights"),
        ("+trainer.gradient_clip_val=1", "trainer.gradient_clip_val=left out, not 1"),
        ("+callbacks.ema._target_=lightning.pytorch.callbacks.EMAWeightAveraging", "callbacks.ema._target_=left out, not"),
    ],
)
def test_a_run_with_other_options_is_not_resumed(sweep, quick, tmp_path, one_line, option, expected):
    folder = half_done(sweep, tmp_path)
    outcome = run_train("layer=fc8", *quick, option, f"hydra.run.dir={folder}")
    assert outcome.code != 0 and expected in one_line(outcome.said)
    assert not (folder / "metrics.json").exists()


def test_another_layer_is_not_resumed(sweep, quick, tmp_path, one_line):
    outcome = run_train("layer=conv5", *quick, f"hydra.run.dir={half_done(sweep, tmp_path)}")
    assert outcome.code != 0 and "layer.name=fc8, not conv5" in one_line(outcome.said)


def test_the_same_run_ends_with_the_same_numbers_and_says_what_differs_but_matters_not(sweep, quick, tmp_path, capsys):
    folder = half_done(sweep, tmp_path)
    path = folder / "provenance.json"
    path.write_text(path.read_text().replace('"commit": "', '"commit": "0'))
    options = ["+trainer.profiler=simple", "~callbacks.grid", "callbacks.progress.refresh_rate=3", "name=other", "samples=4"]
    for _ in range(2):  # the second time it is finished
        assert run_train("layer=fc8", *quick, "test=true", *options, f"hydra.run.dir={folder}").code == 0
    assert json.loads(path.read_text())["config"]["samples"] == 4
    assert "This run began with commit 0" in capsys.readouterr().out
    before, after = (json.loads((place / "metrics.json").read_text()) for place in (sweep / "fc8", folder))
    assert after["test"] == before["test"]


@pytest.mark.parametrize("size", [0, 1000])
def test_a_cut_checkpoint_is_named(sweep, quick, tmp_path, one_line, size):
    folder = half_done(sweep, tmp_path)
    last = folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:size])
    outcome = run_train("layer=fc8", *quick, f"hydra.run.dir={folder}")
    assert outcome.code != 0 and f"{last} is damaged, or no checkpoint" in one_line(outcome.said)


@pytest.mark.parametrize("tensors", [[1_000_000], [1000] * 1000])
def test_a_write_that_fails_is_told_as_such(tmp_path, tensors):
    """In the middle of a large tensor torch hides it behind an error of its own."""
    path, limits = tmp_path / "last.ckpt", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            checkpoints.AtomicCheckpoints().save_checkpoint({"state_dict": [torch.ones(size) for size in tensors]}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.filename == str(path) and not list(tmp_path.iterdir())


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    metadata = {"format": torch.empty(0), "config": {}, "native_size": 64, "split": ""}
    torch.save({"state_dict": {"a": torch.ones(1)}, checkpoints.METADATA: metadata}, tmp_path / "odd.ckpt")
    with pytest.raises(InputError, match="no checkpoint of this project"):
        checkpoints.read(tmp_path / "odd.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="no checkpoint of this project"):
        checkpoints.read(tmp_path / "other.ckpt")


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    checkpoints.AtomicCheckpoints().save_checkpoint({"epoch": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        checkpoints.AtomicCheckpoints().save_checkpoint({"epoch": 2, "broken": lambda: None}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_one_of_an_older_version_is_named(sweep, tmp_path):
    content = torch.load(checkpoints.path_of(sweep / "fc8", "best"), weights_only=True)
    content[checkpoints.METADATA]["format"] = checkpoints.FORMAT - 1
    torch.save(content, tmp_path / "old.ckpt")
    with pytest.raises(InputError, match="of an older version of this project"):
        checkpoints.read(tmp_path / "old.ckpt")


def test_it_says_what_its_run_was(sweep):
    best = checkpoints.read(checkpoints.path_of(sweep / "conv5", checkpoints.BEST))
    assert best[checkpoints.METADATA]["config"]["layer"]["name"] == "conv5"
    assert not any(key.startswith("encoder.") for key in best["state_dict"])
