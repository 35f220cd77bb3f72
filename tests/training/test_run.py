"""Whole runs and sweeps of train.py: what they leave behind, how they fail, how they go on."""

import csv
import errno
import gc
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from hashlib import sha256

import pytest
import torch
from conftest import REPOSITORY, TRAINED, Outcome, needs_trained_encoder, run_train
from PIL import Image
from torchvision.models import alexnet

from inversion.core.files import is_locked, locked
from inversion.core.images import read_image
from inversion.training import fit
from inversion.training.module import InversionModule

SMALL = ["layer=conv5", "decoder.members=1", "decoder.channels=[16,8,8]", "trainer.max_epochs=1"]
NUMBERS = {"mse", "psnr", "ssim", "normalized_error", "mse_64", "ssim_64", "feature_error", "top1_agreement"}


@pytest.mark.parametrize("layer", ["conv5", "fc8"])
def test_a_run_leaves_what_was_promised(sweep, layer):
    folder = sweep / layer
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["layer"] == layer
    for part in ("val", "test"):
        assert set(metrics[part]) == NUMBERS | {"mean_image"}
        assert set(metrics[part]["mean_image"]) == NUMBERS
        assert all(math.isfinite(metrics[part][key]) for key in NUMBERS)
    split = json.loads((folder / "split.json").read_text())
    assert [len(split[part]) for part in ("train", "val", "test")] == [12, 6, 6]
    assert all(set(entry) == {"id", "name"} for entry in split["classes"])
    for name in (".hydra/config.yaml", "hparams.yaml", "samples.png", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        assert (folder / name).exists(), name


@pytest.mark.parametrize("layer", ["conv5", "fc8"])
@pytest.mark.parametrize("name", ["best", "last"])
def test_checkpoints_load_safely_and_hold_the_decoder_alone(sweep, layer, name):
    checkpoint = torch.load(sweep / layer / "checkpoints" / f"{name}.ckpt", weights_only=True)
    prefixes = {key.split(".")[0] for key in checkpoint["state_dict"]}
    assert prefixes == {"decoder", "standardize"}
    if name == "last":
        assert checkpoint["epoch"] == 1 and checkpoint["optimizer_states"]


def test_both_layers_share_split_and_mean_image(sweep):
    first, second = (json.loads((sweep / layer / "metrics.json").read_text()) for layer in ("conv5", "fc8"))
    pixels = [{**one["test"]["mean_image"], "feature_error": None} for one in (first, second)]  # features are the layer's own
    assert pixels[0] == pixels[1]
    assert first["test"]["mse"] != second["test"]["mse"]


def test_a_sweep_ends_with_figure_and_table(sweep):
    rows = list(csv.DictReader((sweep / "metrics.csv").open()))
    assert [row["layer"] for row in rows] == ["conv5", "fc8"]
    for row in rows:
        metrics = json.loads((sweep / row["layer"] / "metrics.json").read_text())
        assert float(row["val_mse"]) == metrics["val"]["mse"]
        assert float(row["test_mse"]) == metrics["test"]["mse"]
        assert float(row["test_mean_image_ssim"]) == metrics["test"]["mean_image"]["ssim"]
    with Image.open(sweep / "samples.png") as figure:
        assert figure.width > 3 * 227 and figure.height > 6 * 227  # three columns; six validation images


def test_test_false_leaves_the_test_split_untouched_and_the_folder_may_lie_behind_a_link(quick, tmp_path, monkeypatch):
    from inversion.data.datamodule import ImageDataModule

    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    asked = []
    images = ImageDataModule.images
    monkeypatch.setattr(ImageDataModule, "images", lambda self, part: asked.append(part) or images(self, part))
    assert run_train(*quick, *SMALL, f"hydra.run.dir={tmp_path / 'link' / 'out'}") == Outcome(0, "")
    assert "val" in asked and "test" not in asked
    assert "test" not in json.loads((tmp_path / "real" / "out" / "metrics.json").read_text())


def test_ones_own_images(tmp_path):
    from test_image_folder import fill

    fill(tmp_path / "photos", 12, size=(48, 40))
    options = ["data=folder", f"data.root={tmp_path / 'photos'}", f"data.cache={tmp_path / 'cache'}"]
    options += ["encoder.weights=random", "trainer.max_epochs=1"]
    assert run_train("layer=conv5", *options, f"hydra.run.dir={tmp_path / 'out'}").code == 0
    assert {"mse_40", "ssim_40"} <= set(json.loads((tmp_path / "out" / "metrics.json").read_text())["val"])


def test_optimiser_scheduler_loss_and_callbacks_are_replaceable(quick, tmp_path):
    options = [
        "optimizer._target_=torch.optim.SGD",
        "~optimizer.betas",
        "scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau",  # has to be told what to watch
        "~scheduler.T_max",
        "loss._target_=torch.nn.SmoothL1Loss",
        "~loss.tv",
        "~callbacks.progress",
        "~callbacks.images_per_second",
        "~callbacks.grid",
    ]
    assert run_train(*quick, *SMALL, *options, f"hydra.run.dir={tmp_path}") == Outcome(0, "")
    assert (tmp_path / "metrics.json").is_file()


def test_a_finished_run_is_not_repeated(sweep, quick, capsys):
    before = (sweep / "fc8" / "metrics.json").stat().st_mtime_ns
    assert run_train("layer=fc8", *quick, "test=true", f"hydra.run.dir={sweep / 'fc8'}").code == 0
    assert (sweep / "fc8" / "metrics.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_finished_job_whose_config_has_changed_is_not_skipped_in_silence(sweep, quick, tmp_path):
    folder = shutil.copytree(sweep, tmp_path / "sweep")
    before = {path: path.read_bytes() for path in (*folder.glob("*/*.json"), *folder.glob("*/checkpoints/*"))}
    options = ["trainer.max_epochs=3", "data.val_per_class=3"]
    for option, expected in zip(options, ["trainer.max_epochs=2, not 3", "another draw of images"], strict=True):
        outcome = run_train("-m", "layer=conv5,fc8", *quick, "test=true", option, f"hydra.sweep.dir={folder}")
        assert outcome.code == 1 and outcome.said.count(expected) == 2
    assert all(path.read_bytes() == content for path, content in before.items())
    assert run_train("-m", "layer=conv5,fc8", *quick, "test=true", f"hydra.sweep.dir={folder}") == Outcome(0, "")


def test_all_that_repeats_a_run_lies_in_its_folder(sweep, synthetic_root):
    told = json.loads((sweep / "fc8" / "provenance.json").read_text())
    assert told["command"].startswith("python train.py layer=fc8") and told["config"]["layer"]["name"] == "fc8"
    assert told["commit"] and {"python", "torch", "torchvision", "lightning", "pillow"} <= set(told["versions"])
    metrics = json.loads((sweep / "fc8" / "metrics.json").read_text())
    assert all(metrics[key] == told[key] for key in ("commit", "hardware", "versions"))
    best = torch.load(sweep / "fc8" / "checkpoints" / "best.ckpt", weights_only=True)["inversion"]
    assert (told["sha256"]["encoder"], told["sha256"]["split"]) == (best["encoder"], best["split"])
    split = json.loads((sweep / "fc8" / "split.json").read_text())
    for part in ("train", "val", "test"):
        images = torch.stack([read_image(synthetic_root / name, 64) for name in split[part]])
        assert told["sha256"][f"{part} images"] == sha256(images.numpy().data).hexdigest()


def test_a_device_without_memory_is_told(quick, tmp_path, monkeypatch, one_line):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(InversionModule, "training_step", fail)
    outcome = run_train(*quick, *SMALL, f"hydra.run.dir={tmp_path}")
    assert outcome.code == 1 and "lower data.batch_size" in one_line(outcome.said)


def test_a_layer_that_cant_be_encoded_fails_its_own_job_alone(quick, tmp_path):
    weights = tmp_path / "convolutions.pt"
    torch.save({name: value for name, value in alexnet().state_dict().items() if name.startswith("features")}, weights)
    options = [*quick, "layer=conv1,fc6", "trainer.max_epochs=1", f"encoder.weights={weights}"]
    outcome = run_train("-m", *options, f"hydra.sweep.dir={tmp_path / 'out'}")
    assert outcome.code == 1 and "1 of the sweep's jobs failed: fc6 (" in outcome.said
    assert (tmp_path / "out" / "conv1" / "metrics.json").is_file()


def test_the_commit_is_that_of_the_code_as_it_was_loaded(quick, tmp_path, monkeypatch):
    told = iter(["at the start", "changed meanwhile"])
    monkeypatch.setattr(fit, "provenance", lambda device: {"commit": next(told)})
    assert run_train(*quick, *SMALL, f"hydra.run.dir={tmp_path}") == Outcome(0, "")
    for name in ("metrics", "provenance"):
        assert json.loads((tmp_path / f"{name}.json").read_text())["commit"] == "at the start"


def hold(folder, ready):
    with locked(folder):
        ready.set()
        time.sleep(600)


@pytest.mark.parametrize("place", ["hydra.run.dir", "hydra.sweep.dir"])
def test_a_second_run_in_one_folder_is_refused_until_the_first_is_gone(quick, tmp_path, one_line, place):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    first = context.Process(target=hold, args=(tmp_path, ready))
    first.start()
    assert ready.wait(30)
    options = [*quick, *SMALL, f"{place}={tmp_path}"]
    options += ["-m"] if place == "hydra.sweep.dir" else []
    outcome = run_train(*options)
    assert outcome.code == 1 and f"{tmp_path} is in use by another run" in one_line(outcome.said)
    assert not list(tmp_path.rglob("*.ckpt"))
    first.kill()
    first.join()
    assert not is_locked(tmp_path)


@pytest.mark.slow
def test_sigterm_while_images_are_extracted_tidies_up(archive, quick, tmp_path):
    """Before Lightning has a say."""
    places = [f"data.archive={archive}", f"data.root={tmp_path / 'data'}", f"hydra.run.dir={tmp_path / 'out'}"]
    script = "import sys, time, zipfile, train\nwhole = zipfile.ZipFile.open\n"
    script += "zipfile.ZipFile.open = lambda *arguments: time.sleep(1) or whole(*arguments)\ntrain.command()"
    command = [sys.executable, "-c", script, "layer=fc8", *quick, *places]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("data/.tiny*.partial/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143 and "Interrupted: there is no checkpoint yet." in said and "Traceback" not in said
    assert {path.name for path in (tmp_path / "data").iterdir()} == {".lock"}


def test_a_disk_that_fills_up_leaves_a_run_that_can_go_on(quick, tmp_path, monkeypatch, one_line):
    from inversion.training import outcome

    def full(folder, *_):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "metrics.json"))

    options = [*quick, *SMALL, f"hydra.run.dir={tmp_path}"]
    with monkeypatch.context() as patch:
        patch.setattr(outcome, "write_metrics", full)
        outcome = run_train(*options)
    said = one_line(outcome.said)
    assert outcome.code == 1 and f"{tmp_path / 'metrics.json'} can't be used (No space left on device)" in said
    assert f"{tmp_path / 'checkpoints' / 'last.ckpt'}; the same command with hydra.run.dir='{tmp_path}' resumes" in said
    assert run_train(*options) == Outcome(0, "")


def test_a_failed_job_takes_nothing_with_it(quick, tmp_path):
    """conv2's features are maps, for which there are no hidden layers."""
    options = ["layer=conv2,fc8", "decoder.hidden=1", "trainer.max_epochs=1"]
    outcome = run_train("-m", *quick, *options, f"hydra.sweep.dir={tmp_path}")
    assert outcome.code == 1
    assert "conv2" in outcome.said and "decoder.hidden" in outcome.said and "fc8 (" not in outcome.said
    assert [row["layer"] for row in csv.DictReader((tmp_path / "metrics.csv").open())] == ["fc8"]
    assert (tmp_path / "samples.png").is_file()
    assert "decoder.hidden" in (tmp_path / "conv2" / "failed.txt").read_text()


@pytest.mark.slow  # tests/launch/test_launchers.py does it with a model of its own
def test_a_failed_jobs_model_is_given_back_before_the_next_starts(quick, tmp_path, monkeypatch):
    from inversion.training import run

    models = []

    def fail_once(reconstructor, *arguments):
        if not models:
            models.append(weakref.ref(reconstructor[-1]))
            raise RuntimeError("for the test")
        gc.collect()
        models.append(models[0]() is None)
        return dict.fromkeys(NUMBERS, 0.5) | {"mean_image": dict.fromkeys(NUMBERS, 0.5)}

    monkeypatch.setattr(run, "evaluate", fail_once)
    options = ["layer=fc8,conv5", "trainer.max_epochs=1"]
    outcome = run_train("-m", *quick, *options, f"hydra.sweep.dir={tmp_path}")
    assert outcome.code == 1 and "RuntimeError: for the test" in outcome.said
    assert models[1] is True


@pytest.mark.slow
def test_other_swept_keys_are_in_the_folders_names(quick, tmp_path):
    assert run_train("-m", *quick, *SMALL, "seed=1,2", f"hydra.sweep.dir={tmp_path}") == Outcome(0, "")
    assert {path.name for path in tmp_path.iterdir() if path.is_dir() and path.name != ".jobs"} == {
        "conv5_seed-1",
        "conv5_seed-2",
    }
    assert len(list(csv.DictReader((tmp_path / "metrics.csv").open()))) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_keeps_and_names_its_last_checkpoint_and_goes_on(quick, tmp_path, sent, code):
    """A real process, a real signal; the run that is resumed, once is enough, ends as one that was never stopped."""
    options = ["layer=fc8", *quick, "scheduler=step", f"hydra.run.dir={tmp_path / 'out'}"]
    command = [sys.executable, str(REPOSITORY / "train.py"), *options, "trainer.max_epochs=400"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background inherit it ignored
    )
    last = tmp_path / "out" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, sent)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert str(last) in said and f"hydra.run.dir='{tmp_path / 'out'}'" in said and "Traceback" not in said
    assert not (tmp_path / "out" / "metrics.json").exists()
    done = torch.load(last, weights_only=True)["epoch"] + 1
    assert done < 400
    if sent == signal.SIGTERM:
        return
    more = [f"trainer.max_epochs={done + 1}"]
    assert run_train(*options, *more).code == 0
    assert run_train(*options, *more, f"hydra.run.dir={tmp_path / 'whole'}").code == 0
    gone_on, whole = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("out", "whole")
    )
    for key, value in whole["state_dict"].items():
        assert torch.equal(gone_on["state_dict"][key], value), key


def test_works_from_another_working_directory(quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_train(*quick, *SMALL, "hydra.run.dir=here") == Outcome(0, "")
    assert (tmp_path / "here" / "metrics.json").is_file()


@pytest.mark.slow
@needs_trained_encoder
@pytest.mark.parametrize(
    ("layer", "decoder", "standardized"),
    [("conv5", "published", False), ("conv5", "compact", True), ("fc6", "compact", False)],
)
def test_a_decoder_gets_the_features_of_trained_weights_as_it_wants_them(layer, decoder, standardized, quick, tmp_path):
    options = [f"encoder.weights={TRAINED}", "trainer.max_epochs=1", f"decoder={decoder}"]
    assert run_train(f"layer={layer}", *quick, *options, f"hydra.run.dir={tmp_path / 'run'}").code == 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["standardize"] is standardized


def test_a_run_is_a_library_call_too(quick, tmp_path):
    """As in a notebook: without Hydra's runtime, in a process that no program has set up."""
    options = ["layer=conv5", *quick, "decoder.members=1", "trainer.max_epochs=1"]
    code = "import json, sys; from hydra import compose, initialize_config_dir; import inversion\n"
    code += "from inversion.training.run import train\n"
    code += f"with initialize_config_dir({str(REPOSITORY / 'conf')!r}, version_base='1.3'):\n"
    code += f"    cfg = compose('config', {options})\n"
    code += "assert train(cfg, 'out')['val']['mse'] > 0 and train(cfg, 'out') is None"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "checkpoints" / "best.ckpt").is_file()
