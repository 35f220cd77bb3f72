"""One run over several devices, as two processes on a CPU."""

import json
import os
import subprocess
import sys
import time

import pytest
from conftest import REPOSITORY, Outcome, run_train
from killing import curves, differences

SGD = ["optimizer._target_=torch.optim.SGD", "~optimizer.betas", "optimizer.lr=0.1"]
"""Adam's first steps are as long where a gradient is nothing but rounding."""


def start(arguments, log):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / "train.py"), *arguments]
    with log.open("a") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)


def options(quick, folder, *more):
    """12 training images in batches of 4."""
    small = ["layer=conv5", "decoder.channels=[16,8,8,8]", "trainer.precision=32-true", "data.feature_type=float32"]
    own = ["data.batch_size=4", f"data.cache={folder / 'cache'}", f"hydra.run.dir={folder / 'out'}"]
    return [*quick, *small, *own, "callbacks.last.seconds=0", *more]  # the last one counts


SHARED = ["trainer=ddp", "trainer.devices=2"]


@pytest.fixture(scope="module")
def shared(quick, tmp_path_factory):
    """The folder of a run that two processes have shared."""
    folder = tmp_path_factory.mktemp("shared")
    code = start(options(quick, folder, *SGD, *SHARED), folder / "said.txt").wait(240)
    assert code == 0, (folder / "said.txt").read_text()
    return folder


@pytest.mark.slow
def test_two_processes_come_near_to_what_one_comes_to(quick, shared, tmp_path):
    """Not to the same: each normalises by its own half of a batch."""
    assert run_train(*options(quick, tmp_path, *SGD)) == Outcome(0, "")
    first, second = (json.loads((folder / "out" / "metrics.json").read_text())["val"] for folder in (tmp_path, shared))
    assert first["mean_image"] == second["mean_image"]
    assert first["mse"] == pytest.approx(second["mse"], rel=0.1)
    assert [step for step, _ in curves(tmp_path / "out")["val/loss"]] == [s for s, _ in curves(shared / "out")["val/loss"]]


@pytest.mark.slow
def test_one_process_writes_and_caches_for_all(shared):
    out = shared / "out"
    assert {path.name for path in out.iterdir() if "tfevents" not in path.name} == {
        *(".hydra", ".lock", "checkpoints", "hparams.yaml", "metrics.json", "provenance.json"),
        *("samples.png", "samples.pt", "split.json", "train.log"),
    }
    assert len(list(out.glob("*tfevents*"))) == 2  # the curves, and the hparams
    for text in ((out / "train.log").read_text(), (shared / "said.txt").read_text()):
        for words in ("Cached train images", "Cached conv5 train features", "epoch 2/2", "val MSE"):
            assert text.count(words) == 1, words


@pytest.mark.slow
def test_a_run_over_two_processes_that_is_killed_resumes(quick, shared, tmp_path):
    arguments = options(quick, tmp_path, *SGD, *SHARED)
    process = start(arguments, tmp_path / "said.txt")
    deadline = time.monotonic() + 200
    while not (tmp_path / "out" / "checkpoints" / "last.ckpt").is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert start(arguments, tmp_path / "said.txt").wait(240) == 0, (tmp_path / "said.txt").read_text()
    assert "Resuming from" in (tmp_path / "said.txt").read_text()
    assert not differences(shared / "out", tmp_path / "out")


@pytest.mark.slow
def test_what_goes_wrong_ends_all_processes_with_one_sentence(quick, tmp_path, one_line):
    process = start(options(quick, tmp_path, *SHARED, "optimizer.lr=1e30"), tmp_path / "said.txt")
    assert process.wait(240) == 1
    (error,) = [line for line in (tmp_path / "said.txt").read_text().splitlines() if line.startswith("error: ")]
    assert "not finite after epoch 1" in one_line(error) and not list(tmp_path.rglob("*.ckpt"))


def test_a_sweep_of_such_runs_is_refused(quick, tmp_path, one_line):
    outcome = run_train("-m", *quick, "seed=0,1", *SHARED, f"hydra.sweep.dir={tmp_path / 'out'}")
    assert outcome.code == 1 and "hydra/launcher=joblib or =submitit_slurm" in one_line(outcome.said)
    assert not list((tmp_path / "out").rglob("*.ckpt"))
