"""Runs that are killed at any moment and started again end as one that was never stopped, bit for bit."""

import json
import os
import random
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from killing import differences, kill_until_done

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


@pytest.fixture(scope="module")
def archive(made_root, tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(path, "w") as file:
        for source in sorted(made_root.rglob("*.*")):
            file.write(source, f"tiny-imagenet-200/{source.relative_to(made_root)}")
    return path


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
        "decoder.channels=[16,8,8,8]",
        "encoder.weights=random",
        "trainer.max_epochs=4",
        "trainer.accelerator=cpu",
        "callbacks.grid.times=4",
    ]
    folder = tmp_path_factory.mktemp("whole")
    done = kill_until_done([*options, *places(folder)], random.Random(0), 0, 0, folder / "said.txt")
    assert done.code == 0, (folder / "said.txt").read_text()
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


def test_a_run_killed_three_times_ends_as_one_that_was_not(whole, tmp_path):
    assert check(whole, tmp_path / "run", seed=0, kills=3) >= 2  # the third may find the run at its end


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_one_that_was_not(whole, tmp_path):
    """INVERSION_KILLS says how often; each seed's run is killed five times, then left alone."""
    done = seed = 0
    while done < KILLS:
        seed += 1
        done += check(whole, tmp_path / f"seed {seed}", seed, min(KILLS_PER_RUN, KILLS - done))
