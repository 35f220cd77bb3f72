"""The benchmark against the published loop: what it writes, how it projects, what it refuses."""

import json
import logging
import math

import pytest
from conftest import Outcome, run_command

from experiments.benchmark import SIDES, command, project, shares
from inversion.studies.timing import STAGES


@pytest.fixture
def benchmark(capsys):
    """`python experiments/benchmark.py <arguments>` in this process, with what it prints; the loggers that it quietens speak
    again afterwards.
    """

    def run(*arguments):
        outcome = run_command("benchmark.py", command, arguments)
        return outcome if outcome.code else Outcome(0, capsys.readouterr().out)

    yield run
    logging.getLogger("inversion").setLevel(logging.NOTSET)


def numbers(value):
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers(item)
    elif isinstance(value, int | float):
        yield value


def test_a_small_benchmark(benchmark, quick, tmp_path):
    outcome = benchmark(*quick, "layers=[conv5]", "steps=1", "rounds=2", f"hydra.run.dir={tmp_path}")
    assert outcome.code == 0, outcome.said
    found = json.loads((tmp_path / "benchmark.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {".hydra", ".lock", "benchmark.json", "benchmark.log"}
    assert set(found) >= {"date", "commit", "hardware", "versions", "precision", "images", "peak_mib"}
    assert all(math.isfinite(number) and number >= 0 for number in numbers(found))
    assert list(found["layers"]) == ["conv5"]
    for sides in found["layers"].values():
        assert list(sides) == list(SIDES) and sides["a"]["ratio"] == 1
        for side in sides.values():
            assert side["ms_per_image"] > 0 and side["images_per_s"] > 0 and len(side["ms_per_image_by_round"]) == 2
            assert list(side["shares"]) == list(STAGES) and sum(side["shares"].values()) == pytest.approx(1)
            assert side["shares"]["backward"] > 0 and side["shares"]["validation"] > 0
    projection = found["projection_s"]
    assert projection["a"]["decoding"] == projection["a"]["scoring"] == projection["a"]["checkpoints"] == 0
    assert all(cost > 0 for side in "bc" for cost in projection[side].values())
    a, c = projection["a"]["sum"], projection["c"]["sum"]
    assert outcome.said.splitlines()[-1] == f"whole sweep: {c:.1f} s against {a:.1f} s, {a / c:.2f}x"


IMAGES = {"train": 100, "val": 10, "test": 20}
TIMES = dict.fromkeys(STAGES[:-2], 0.125) | {
    "step": 1.0,
    "validation": 0.5,
    "statistics": 7.0,
    "checkpoints": 3.0,
    "scoring": 2.0,
}


def test_the_projection_counts_every_cost():
    layers = [TIMES, TIMES | {"step": 0.25, "scoring": 1.0}]
    assert project(layers, IMAGES, epochs=4, decoding=0.1, encoding=0.2, encoded=110) == pytest.approx(
        {
            "decoding": 0.1 * 130,
            "features": 0.2 * 110 + 14,
            "training": 1.25 * 100 * 4,
            "validation": 1.0 * 10 * 4,
            "checkpoints": 6 * 4,
            "scoring": 3 * 30,
            "sum": 13 + 36 + 500 + 40 + 24 + 90,
        }
    )


def test_shares_are_of_training_and_validation():
    """The step's 1 s are six stages of 0.125 s and 0.25 s of logging; validation adds 0.5 s x 10 / 100."""
    found = shares(TIMES, IMAGES)
    assert found["encoder"] == pytest.approx(0.125 / 1.05)
    assert found["logging"] == pytest.approx(0.25 / 1.05)
    assert found["validation"] == pytest.approx(0.05 / 1.05)
    assert shares(TIMES | {"step": 0.5}, IMAGES)["logging"] == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["steps=0"], "steps=0 must be at least 1"),
        (["layers=[conv2,conv9]"], "must be a list of some of conv1"),
        (["steps=3"], "12 training images make 3 of data.batch_size=4"),
        (["-m", "seed=1,2"], "leave -m out"),
    ],
)
def test_what_cant_be_measured(benchmark, quick, arguments, expected, one_line, tmp_path):
    outcome = benchmark(*quick, *arguments, f"hydra.run.dir={tmp_path}")
    assert outcome.code == 1 and expected in one_line(outcome.said)
