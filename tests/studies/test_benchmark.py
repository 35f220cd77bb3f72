"""The benchmark against the published loop: what it writes, how it projects, what it refuses."""

import json
import logging

import pytest
from conftest import run_experiment


@pytest.fixture
def benchmark(tmp_path):
    """`python experiments/benchmark.py <arguments>` in this process; the loggers that it quietens speak again afterwards."""
    yield lambda *arguments: run_experiment("benchmark", *arguments, f"hydra.run.dir={tmp_path}")
    logging.getLogger("inversion").setLevel(logging.NOTSET)


def test_a_small_benchmark(benchmark, quick, tmp_path, capsys):
    outcome = benchmark(*quick, "data.batch_size=2", "layers=[conv5]", "steps=1", "trainer.max_epochs=5")
    assert outcome.code == 0, outcome.said
    found = json.loads((tmp_path / "benchmark.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {".hydra", ".lock", "benchmark.json", "benchmark.log"}
    assert set(found) >= {"commit", "hardware", "versions"}
    assert found["images"] == {"train": 12, "val": 6, "test": 6}
    assert [(row["layer"], row["side"]) for row in found["layers"]] == [
        ("conv5", side) for side in ("loop", "published", "recipe")
    ]
    loop, _, recipe = found["sweep_s"]
    for row, costs in zip(found["layers"], found["sweep_s"], strict=True):
        assert row["training_ms"] > 0
        assert row["ratio"] == pytest.approx(found["layers"][0]["training_ms"] / row["training_ms"])
        assert costs["training"] == pytest.approx(row["training_ms"] / 1000 * 12 * 5)
        parts = [value for name, value in costs.items() if name not in ("side", "sum", "ratio")]
        assert costs["sum"] == pytest.approx(sum(parts)) and costs["ratio"] == pytest.approx(loop["sum"] / costs["sum"])
        assert all(part > 0 for part in parts) or costs is loop
    assert {name for name, value in loop.items() if value == 0} == {"decoding", "encoding", "scoring"}
    expected = f"whole sweep: {recipe['sum']:.1f} s against {loop['sum']:.1f} s, {recipe['ratio']:.2f}x"
    assert capsys.readouterr().out.splitlines()[-1] == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["steps=0"], "steps=0 must be at least 1"),
        (["layers=[conv2,conv9]"], "must be a list of some of conv1"),
        (["steps=3"], "need 16 training images in batches of 4, and there are 12"),
    ],
)
def test_what_cant_be_measured(benchmark, quick, arguments, expected, one_line):
    outcome = benchmark(*quick, *arguments)
    assert outcome.code == 1 and expected in one_line(outcome.said)
