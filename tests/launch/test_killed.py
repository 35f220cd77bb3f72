"""Runs that are killed at any moment and started again end as one that was never stopped, bit for bit."""

import csv
import json
import os
import random
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from killing import differences, kill_until_done, run

KILLS = int(os.environ.get("INVERSION_KILLS", "100"))
"""How many processes the long test kills."""
KILLS_PER_RUN = 5


@dataclass(frozen=True)
class Whole:
    """A run that was never stopped."""

    options: list[str]
    folder: Path
    seconds: float
    """How long it took, about."""


def places(folder: Path) -> list[str]:
    """A run's folder, data and cache, all its own."""
    return [f"hydra.run.dir={folder / 'out'}", f"data.root={folder / 'data'}", f"data.cache={folder / 'cache'}"]


@pytest.fixture(scope="module")
def whole(archive, tmp_path_factory):
    options = [
        "layer=conv5",
        f"data.archive={archive}",
        "data.classes=3",
        "data.val_per_class=2",
        "data.batch_size=4",
        "decoder.channels=[16,8,8]",
        "encoder.weights=random",
        "trainer.max_epochs=4",
        "trainer.accelerator=cpu",
        "callbacks.grid.times=4",
        "test=false",
    ]
    folder = tmp_path_factory.mktemp("whole")
    code = run([*options, *places(folder)], folder / "said.txt")
    assert code == 0, (folder / "said.txt").read_text()
    return Whole(options, folder / "out", json.loads((folder / "out" / "metrics.json").read_text())["seconds"] + 1)


def check(whole: Whole, folder: Path, seed: int, kills: int) -> int:
    """Kills a run so many times, compares what it ends with, and says how often it was killed and where."""
    folder.mkdir()
    rng = random.Random(seed)
    seconds = rng.choice([0.0, 20.0])  # a checkpoint after each epoch, or the usual: after the first and the last
    options = [*whole.options, f"callbacks.last.seconds={seconds}", *places(folder)]
    killed = kill_until_done(options, rng, kills, whole.seconds, folder / "said.txt")
    print(f"seed {seed}: {dict(killed.deaths)}", flush=True)
    assert killed.code == 0, (folder / "said.txt").read_text()
    assert not (found := differences(whole.folder, folder / "out")), (seed, killed.deaths, found)
    return killed.deaths.total()


@pytest.mark.slow
def test_a_run_killed_three_times_ends_as_one_that_was_not(whole, tmp_path):
    assert check(whole, tmp_path / "run", seed=0, kills=3) >= 2  # the third may find the run at its end


@pytest.mark.slow
def test_a_sweep_killed_in_its_second_job_resumes_there(whole, tmp_path):
    """Its first job is left alone, and is the run that was never stopped; figure and table are of both."""
    options = ["-m", *whole.options, "seed=0,1", *places(tmp_path)[1:], f"hydra.sweep.dir={tmp_path / 'out'}"]
    steps = 4 * 3
    assert run(options, tmp_path / "said.txt", "training", steps + 5) == -signal.SIGKILL
    first, second = (tmp_path / "out" / f"conv5_seed-{seed}" for seed in (0, 1))
    finished = (first / "metrics.json").stat().st_mtime_ns
    assert not (second / "metrics.json").exists() and not (tmp_path / "out" / "metrics.csv").exists()
    assert run(options, tmp_path / "said.txt") == 0, (tmp_path / "said.txt").read_text()
    assert (first / "metrics.json").stat().st_mtime_ns == finished and not differences(whole.folder, first)
    said = (tmp_path / "said.txt").read_text()
    assert f"{first} holds this run, finished" in said and f"Resuming from {second}" in said
    assert len(list(csv.DictReader((tmp_path / "out" / "metrics.csv").open()))) == 2


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_one_that_was_not(whole, tmp_path):
    """INVERSION_KILLS says how often; each seed's run is killed five times, then left alone."""
    done = seed = 0
    while done < KILLS:
        seed += 1
        done += check(whole, tmp_path / f"seed {seed}", seed, min(KILLS_PER_RUN, KILLS - done))
