"""Numbers that are no numbers end a run with a word; images that hold nothing don't make any."""

import json
import math

import pytest
import torch
from conftest import run_train
from PIL import Image

from inversion.core.images import read_image
from inversion.training import checkpoints
from inversion.training.module import InversionModule

SMALL = ["decoder.members=1", "decoder.channels=[16,8,8,8]"]
BAD = 4
"""The training step that is spoilt: the second of the second epoch, of three each."""


@pytest.fixture
def spoilt(monkeypatch):
    """Spoils the loss of one step, and notes that step's images."""
    steps, seen = [0], []
    step = InversionModule.training_step

    def spoil(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        steps[0] += 1
        if steps[0] == BAD + 1:
            seen.append(batch.images)
            return loss * self.spoiling
        return loss

    monkeypatch.setattr(InversionModule, "training_step", spoil)
    return seen


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_step_images_and_checkpoint(value, spoilt, quick, tmp_path, monkeypatch, one_line):
    monkeypatch.setattr(InversionModule, "spoiling", value, raising=False)
    outcome = run_train("layer=conv5", *quick, *SMALL, "data.flip=false", f"hydra.run.dir={tmp_path}")
    last = checkpoints.path_of(tmp_path, checkpoints.LAST)
    assert outcome.code != 0 and f"not finite after step {BAD + 1} (epoch 2, batch 2: " in one_line(outcome.said)
    assert str(last) in outcome.said
    assert checkpoints.read(last)["epoch"] == 0 and not (tmp_path / "metrics.json").exists()
    names = outcome.said.partition("batch 2: ")[2].partition(")")[0].split(", ")
    root = json.loads((tmp_path / "split.json").read_text())["root"]
    named = torch.stack([read_image(f"{root}/{name}", 64) for name in names])
    assert torch.allclose(named.float() / 127.5 - 1, spoilt[0], atol=1e-5)


def test_a_run_that_bursts_leaves_no_checkpoint_of_it(quick, tmp_path, one_line):
    outcome = run_train("layer=conv5", *quick, "optimizer.lr=1e38", f"hydra.run.dir={tmp_path}")
    assert outcome.code != 0 and "is not finite after step" in one_line(outcome.said) and "none yet" in outcome.said
    assert not list((tmp_path / "checkpoints").glob("*.ckpt"))


def test_images_of_one_colour_of_one_pixel_and_of_unlike_sizes_make_a_run(tmp_path):
    (tmp_path / "photos").mkdir()
    for i, (size, colour) in enumerate([((1, 1), 0), ((64, 64), 0), ((300, 2), 255), ((2, 300), 0), ((17, 31), 128)] * 3):
        Image.new("RGB", size, (colour,) * 3).save(tmp_path / "photos" / f"{i}.png")
    options = ["data=folder", f"data.root={tmp_path / 'photos'}", f"data.cache={tmp_path / 'cache'}"]
    options += ["data.native_size=17", "trainer.max_epochs=1", "encoder.weights=random"]
    outcome = run_train("layer=conv5", *options, f"hydra.run.dir={tmp_path / 'out'}")
    assert outcome.code == 0, outcome.said
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for part in ("val", "test"):
        assert all(math.isfinite(metrics[part][name]) for name in ("mse", "psnr", "ssim", "mse_17", "ssim_17")), metrics[part]
