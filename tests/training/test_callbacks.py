"""Checkpoints while training: when they are saved, and which epoch a resumed run takes for its best."""

from types import SimpleNamespace

import pytest
import torch
from conftest import run_train
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar

from inversion.training.callbacks import LastCheckpoint, MovableCheckpoint, Progress, SeededEpochs


@pytest.mark.parametrize(("seconds", "saved"), [(0, [0, 1, 2, 3]), (1000, [0, 3])])
def test_last_is_saved_after_the_first_and_the_last_epoch_and_when_time_has_passed(monkeypatch, seconds, saved):
    epochs = []
    callback = LastCheckpoint(seconds)
    monkeypatch.setattr(
        ModelCheckpoint, "on_train_epoch_end", lambda self, trainer, module: epochs.append(callback.ended["epoch"])
    )
    for epoch in range(4):
        alone = SimpleNamespace(broadcast=lambda decision: decision)
        trainer = SimpleNamespace(current_epoch=epoch, fit_loop=SimpleNamespace(state_dict=dict), loggers=[], strategy=alone)
        callback.on_train_epoch_start(trainer, None)
        callback.on_train_epoch_end(trainer, None)
    callback.on_train_end(trainer, None)
    assert epochs == saved


def test_an_epochs_line_has_no_scores_of_an_earlier_validation(monkeypatch, caplog):
    for name in ("on_validation_end", "on_train_epoch_end"):
        monkeypatch.setattr(TQDMProgressBar, name, lambda self, *arguments: None)
    progress, values = Progress(), {"train/loss": torch.tensor(0.5), "val/loss": torch.tensor(0.25)}
    caplog.set_level("INFO")
    for epoch in range(2):
        trainer = SimpleNamespace(current_epoch=epoch, max_epochs=2, callback_metrics=values)
        if epoch == 0:
            progress.on_validation_end(trainer, None)
        progress.on_train_epoch_end(trainer, None)
    assert caplog.messages == ["epoch 1/2  train loss 0.50000  val loss 0.25000", "epoch 2/2  train loss 0.50000"]


def test_last_holds_each_whole_epoch(quick, tmp_path, monkeypatch):
    epochs = []
    save = LastCheckpoint._save_checkpoint

    def watched(self, trainer, path):
        save(self, trainer, path)
        epochs.append(torch.load(path, weights_only=True)["epoch"])

    monkeypatch.setattr(LastCheckpoint, "_save_checkpoint", watched)
    options = ["layer=conv5", *quick, "decoder.members=1", "decoder.channels=[16,8,8]"]
    options += ["trainer.max_epochs=3", "callbacks.last.seconds=0"]
    assert run_train(*options, f"hydra.run.dir={tmp_path}").code == 0
    assert epochs == [0, 1, 2]


def test_a_moved_run_still_knows_its_best(tmp_path):
    old, new = (MovableCheckpoint(dirpath=tmp_path / name, filename="best", monitor="val/loss") for name in ("old", "new"))
    old.best_model_path = old.kth_best_model_path = str(tmp_path / "old" / "best.ckpt")
    old.best_model_score = old.kth_value = torch.tensor(0.25)
    old.best_k_models = {old.best_model_path: torch.tensor(0.25)}
    new.load_state_dict(old.state_dict())
    path = str(tmp_path / "new" / "best.ckpt")
    assert new.best_model_path == new.kth_best_model_path == path
    assert new.best_model_score == 0.25 and new.best_k_models == {path: torch.tensor(0.25)}


def test_seconds_add_up_over_a_runs_processes():
    first, second = SeededEpochs(0), SeededEpochs(0)
    first.started -= 100
    second.load_state_dict(first.state_dict())
    assert 100 <= second.seconds < 110
