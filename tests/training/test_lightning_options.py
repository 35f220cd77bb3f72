"""What Lightning's users bring along: its trainer's options, its callbacks, its loggers."""

import csv
import json

import pytest
import torch
from conftest import Outcome, run_train

from inversion.results.trained import load
from inversion.training import checkpoints

EMA = ["+callbacks.ema._target_=lightning.pytorch.callbacks.EMAWeightAveraging", "+callbacks.ema.decay=0.9"]


@pytest.fixture
def run(quick, tmp_path):
    """Runs a small conv5 for one epoch in its own folder, which is returned with the outcome."""

    def start(*options: str):
        small = ["layer=conv5", "decoder.members=1", "decoder.channels=[16,8,8]", "trainer.max_epochs=1"]
        return run_train(*quick, *small, *options, f"hydra.run.dir={tmp_path}"), tmp_path

    return start


def test_an_average_of_the_weights_is_validated_saved_scored_and_resumed(run):
    """It lags far behind the weights themselves, which would score otherwise."""
    options = [*EMA, "scheduler=step", "trainer.precision=32-true", "optimizer.lr=0.01"]
    outcome, folder = run(*options)
    assert outcome == Outcome(0, "") and json.loads((folder / "metrics.json").read_text())["epochs"] == 1
    (folder / "metrics.json").unlink()
    assert run(*options, "trainer.max_epochs=2")[0] == Outcome(0, "")
    best, last = (torch.load(checkpoints.path_of(folder, name), weights_only=True) for name in ("best", "last"))
    key = "decoder.leave.1.weight"
    assert not torch.equal(best["state_dict"][key], last["current_model_state"][key]) or best["epoch"] == 1
    assert {name.split(".")[0] for name in last["state_dict"]} == {"decoder", "standardize"}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["epochs"] == 2 and metrics["best_epoch"] == best["epoch"] + 1
    for score in ("mse", "psnr"):
        assert metrics["val"][score] == pytest.approx(events(folder, f"val/{score}")[best["epoch"]], rel=1e-4)


def events(folder, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return [event.value for event in accumulator.Scalars(tag)]


@pytest.mark.parametrize(
    "options",
    [
        ["+trainer.limit_train_batches=0.7", "+trainer.limit_val_batches=0.5", "+trainer.max_time=00:00:05:00"],
        ["+trainer.overfit_batches=1", "+trainer.max_steps=1", "trainer.devices=auto"],
        ["+trainer.limit_val_batches=0"],
    ],
    ids=lambda options: options[0],
)
def test_the_trainers_options_work(run, options):
    outcome, folder = run(*options)
    assert outcome == Outcome(0, "")
    assert json.loads((folder / "metrics.json").read_text())["val"]["mse"] > 0


def test_a_quick_look_saves_and_scores_nothing(run, capsys):
    outcome, folder = run("+trainer.fast_dev_run=true")
    assert outcome == Outcome(0, "") and "nothing was saved or scored" in capsys.readouterr().out
    assert not (folder / "metrics.json").exists() and not list(folder.glob("checkpoints/*"))


def test_profile_and_model_summary_are_shown_and_the_profile_lies_in_the_runs_folder(run, capsys):
    outcome, folder = run("+trainer.profiler=simple", "trainer.enable_model_summary=true")
    said = capsys.readouterr().out
    assert outcome == Outcome(0, "") and "run_training_batch" in said and "CompactDecoder" in said
    assert len(list(folder.glob("fit-profile*"))) == 1


def test_several_loggers_go_together(run):
    outcome, folder = run("logger=[tensorboard,csv]", "trainer.max_epochs=2")
    assert outcome == Outcome(0, "")
    rows = [row for row in csv.DictReader((folder / "csv" / "metrics.csv").open()) if row["val/mse"]]
    assert len(rows) == 2 and list(folder.glob("events*"))
    assert [float(row["val/mse"]) for row in rows] == pytest.approx(events(folder, "val/mse"))


def test_a_resumed_runs_table_is_in_two_files(run):
    for options in (["trainer.max_epochs=1"], ["trainer.max_epochs=2", "scheduler.T_max=1"]):
        outcome, folder = run("logger=csv", *options)
        assert outcome == Outcome(0, "")
        (folder / "metrics.json").unlink()
    tables = [folder / name / "metrics.csv" for name in ("csv", "csv_from_step_3")]
    found = [[float(row["val/mse"]) for row in csv.DictReader(table.open()) if row["val/mse"]] for table in tables]
    assert [len(values) for values in found] == [1, 1] and found[0] != found[1]


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("+callbacks.best.dirpath=elsewhere", "callbacks.best's filename, dirpath and save_top_k"),
        ("+callbacks.best.save_top_k=2", "callbacks.best's filename, dirpath and save_top_k"),
        ("+callbacks.ema.decay=0.9", "callbacks.ema is no callback"),
        ("+trainer.logger=false", "trainer.logger is not for you to set"),
        ("+logger.mine._target_=nowhere.Log", "The options of logger.mine can't be used"),
        ("+trainer.val_check_interval=1000", "val_check_interval"),
        ("optimizer.betas=[0.9]", "optimizer or scheduler can't be used"),
        ("encoder.layer=conv2", "encoder.layer=conv2: leave it out"),
    ],
)
def test_options_that_would_spoil_a_run_are_refused(run, one_line, option, expected):
    outcome, folder = run(option)
    assert outcome.code == 1 and expected in one_line(outcome.said)
    assert not (folder / "metrics.json").exists()


def test_without_validation_the_last_weights_are_scored_also_if_resumed(run):
    scores = []
    for options in (["trainer.max_epochs=1"], ["trainer.max_epochs=2", "scheduler.T_max=1"]):
        outcome, folder = run("+trainer.limit_val_batches=0", *options)
        assert outcome == Outcome(0, "")
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["best_epoch"] is None
        scores.append(metrics["val"]["mse"])
        (folder / "metrics.json").unlink()
    assert scores[0] != scores[1]


def test_no_logger(run):
    outcome, folder = run("logger=null")
    assert outcome == Outcome(0, "") and not list(folder.glob("events*"))


def test_wandb_offline(quick, tmp_path):
    """Each of a sweep's jobs, in one process, has a run of its own."""
    pytest.importorskip("wandb")
    options = ["layer=conv5", "seed=0,1", "trainer.max_epochs=1", "logger=wandb", "logger.wandb.offline=true"]
    assert run_train("-m", *quick, *options, f"hydra.sweep.dir={tmp_path}") == Outcome(0, "")
    assert all(list(tmp_path.glob(f"conv5_seed-{seed}/wandb/offline-run*")) for seed in (0, 1))


def test_scores_are_in_float32_whatever_the_training_was_in(run):
    """Here in mixed precision, with clipped and accumulated gradients."""
    more = ["+trainer.gradient_clip_val=0.5", "+trainer.accumulate_grad_batches=2"]
    outcome, folder = run("trainer.precision=bf16-mixed", *more)
    assert outcome == Outcome(0, "")
    metrics, trained = json.loads((folder / "metrics.json").read_text()), load(folder)
    samples = torch.load(folder / "samples.pt", weights_only=True)
    assert metrics["precision"] == "bf16-mixed"
    images = samples["originals"].float() / 127.5 - 1
    again = (trained.reconstruct(images) * 127.5 + 127.5).round()
    assert (again - samples["reconstructions"].float()).abs().max() <= 3  # the originals were rounded to bytes


def test_a_moved_comparator_is_the_same_loss(run, tmp_path):
    from inversion.encoders.alexnet import random_alexnet

    for name, seed in (("a.pt", 0), ("b.pt", 0), ("c.pt", 1)):
        weights = random_alexnet(seed).state_dict()
        torch.save({key: weight for key, weight in weights.items() if key.startswith("features.")}, tmp_path / name)
    options = ["loss=perceptual", "scheduler=step"]
    assert run(*options, f"loss.comparator.weights={tmp_path / 'a.pt'}")[0] == Outcome(0, "")
    assert run(*options, f"loss.comparator.weights={tmp_path / 'b.pt'}")[0] == Outcome(0, "")
    outcome, _ = run(*options, f"loss.comparator.weights={tmp_path / 'c.pt'}")
    assert outcome.code == 1 and "other weights in its loss" in outcome.said
