"""Numbers that are no numbers end a run with a word; images that hold nothing don't make any."""

import json
import math

import pytest
from conftest import run_train
from PIL import Image

from inversion.training import checkpoints
from inversion.training.module import InversionModule

SMALL = ["decoder.members=1", "decoder.channels=[16,8,8]"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_epoch_and_checkpoint(value, quick, tmp_path, monkeypatch, one_line):
    steps, step = [0], InversionModule.training_step

    def spoil(self, batch, batch_idx):
        steps[0] += 1
        return step(self, batch, batch_idx) * (value if steps[0] == 5 else 1)  # the second of the second epoch

    monkeypatch.setattr(InversionModule, "training_step", spoil)
    outcome = run_train("layer=conv5", *quick, *SMALL, f"hydra.run.dir={tmp_path}")
    last = checkpoints.path_of(tmp_path, checkpoints.LAST)
    assert outcome.code != 0 and "not finite after epoch 2: lower optimizer.lr" in one_line(outcome.said)
    assert str(last) in outcome.said
    assert {checkpoints.read(path)["epoch"] for path in last.parent.iterdir()} == {0}
    assert not (tmp_path / "metrics.json").exists()


def test_a_run_that_bursts_leaves_no_checkpoint_of_it(quick, tmp_path, one_line):
    outcome = run_train("layer=conv5", *quick, "optimizer.lr=1e38", f"hydra.run.dir={tmp_path}")
    assert outcome.code != 0 and "is not finite after epoch 1" in one_line(outcome.said) and "none yet" in outcome.said
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
