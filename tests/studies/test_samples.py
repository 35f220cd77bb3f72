"""decoder=flow from its training to its samples' study, as a user runs them."""

import csv

import pytest
import torch
from conftest import Outcome, run_experiment, run_train
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from inversion.core import pixels
from inversion.decoders.flow import FlowDecoder
from inversion.results.runs import FinishedRun
from inversion.results.trained import load
from inversion.studies import samples

FLOW = ["decoder=flow", "decoder.channels=[8,8]", "decoder.depth=[1,1]", "decoder.condition=8", "decoder.embedding=8"]
FLOW += ["samples=2", "callbacks.grid.images=2", "callbacks.grid.times=1"]


@pytest.fixture(scope="module")
def flows(quick, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flows") / "out"
    assert run_train("-m", "layer=conv5,fc8", *quick, *FLOW, f"hydra.sweep.dir={folder}") == Outcome(0, "")
    return folder


def test_a_sweep_shows_samples_of_each_layer(flows):
    for layer in ("conv5", "fc8"):
        more = FinishedRun.load(flows / layer).samples.more
        assert list(more) == [*(f"Sample {i}" for i in (1, 2, 3, 4)), "Where they differ"]
        assert not torch.equal(more["Sample 1"], more["Sample 2"]) and more["Where they differ"].float().mean() > 0
        events = EventAccumulator(str(flows / layer)).Reload()
        assert {"val/reconstructions", "val/samples"} <= set(events.Tags()["images"])
        assert "val/flow_loss" in events.Tags()["scalars"]
    with Image.open(flows / "samples.png") as figure, Image.open(flows / "fc8" / "samples.png") as own:
        assert figure.width == own.width > 7 * 227 and figure.height == 2 * own.height


def test_a_loaded_run_samples_as_it_did_when_it_was_trained_and_reconstructs_the_mean(flows):
    run, shown = load(flows / "fc8"), FinishedRun.load(flows / "fc8").samples
    images = pixels.normalize(shown.originals)
    found = run.sample(images, 4)
    assert found.shape == (len(images), 4, 3, 227, 227) and found.abs().max() <= 1
    assert torch.equal(found, run.sample(images, 4)) and not torch.equal(found, run.sample(images, 4, seed=1))
    native = run.native_samples(run.encode(images), 4)
    first = pixels.to_display(native[:, 0]).int()
    assert (first - shown.more["Sample 1"].int()).abs().float().mean() < 3  # the originals were rounded to bytes
    assert torch.equal(run.reconstruct(images), run.decode(run.encode(images)))


@pytest.mark.slow
def test_a_resumed_run_ends_as_one_that_was_never_stopped(quick, flows, tmp_path, monkeypatch):
    whole, calls = FlowDecoder.flow_loss, []

    def stopping(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 8:  # in the second epoch
            raise KeyboardInterrupt
        return whole(self, *arguments, **options)

    options = ["layer=fc8", *quick, *FLOW, "callbacks.last.seconds=0", f"hydra.run.dir={tmp_path}"]
    monkeypatch.setattr(FlowDecoder, "flow_loss", stopping)
    assert run_train(*options).code == 130 and not (tmp_path / "metrics.json").exists()
    assert run_train(*options) == Outcome(0, "")
    wanted, found = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (flows / "fc8", tmp_path)
    )
    for key, value in wanted.items():
        assert torch.equal(found[key], value), key


def test_the_study(flows, tmp_path, capsys):
    options = [
        "study=samples",
        "images=4",
        "part=val",
        "study.samples.number=3",
        "study.samples.steps=2",
        "study.samples.shown=2",
    ]
    assert run_experiment("study", f"runs={flows}", *options, f"hydra.run.dir={tmp_path}") == Outcome(0, "")
    rows = list(csv.DictReader((tmp_path / "samples" / "table.csv").open()))
    for title in ("Conv5", "FC8"):
        kinds = {}
        for row in rows:
            if row["run"] == title:
                kinds.setdefault(row["what"], []).append(row)
        assert len(kinds["samples"]) == len(kinds["mean + noise"]) > 8
        assert sum(float(row["value"]) for row in kinds["rank histogram, samples"]) == pytest.approx(1, abs=1e-4)
        assert [row["band"] for row in kinds["open"]] == ["brightness", "colour", "position"]
        assert {row["layer"] for row in kinds["features"]} >= {"conv2", title.lower()}
    said = capsys.readouterr().out
    assert "2 if exact" in said and "beyond the generator" in said
    assert all((tmp_path / "samples" / f"{name}.png").is_file() for name in ("samples", "open", "calibration"))


def test_the_study_and_invert_need_a_decoder_that_samples(sweep, flows, tmp_path, one_line):
    done = run_experiment("study", f"runs={sweep}", "study=samples", f"hydra.run.dir={tmp_path / 'study'}")
    assert done.code == 1 and "decoder=flow" in one_line(done.said)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    given = [f"image={tmp_path / 'red.png'}", "samples=2"]
    done = run_experiment("invert", *given, f"runs={sweep}", f"hydra.run.dir={tmp_path / 'no'}")
    assert done.code == 1 and "decoder=flow" in one_line(done.said)
    assert run_experiment("invert", *given, f"runs={flows / 'fc8'}", f"hydra.run.dir={tmp_path / 'out'}").code == 0
    names = {path.name for path in (tmp_path / "out").glob("*.png")}
    endings = ("original", "fc8", "fc8-sample-1", "fc8-sample-2", "fc8-where-they-differ")
    assert names == {"inversions.png"} | {f"red_{ending}.png" for ending in endings}


def test_what_is_left_open_is_what_varies_between_samples():
    torch.manual_seed(0)
    truth = torch.rand(200, 3, 8, 8)
    grey = truth.mean(1, keepdim=True)
    drawn = truth[:, None] - grey[:, None] + torch.rand(200, 4, 1, 8, 8)
    exact = samples.left_open(truth[torch.randint(200, (200, 4))], truth)
    assert all(share == pytest.approx(1, abs=0.1) for share in exact.values())
    nothing = samples.left_open(truth[:, None].expand(-1, 4, -1, -1, -1), truth)
    assert all(share == pytest.approx(0, abs=1e-6) for share in nothing.values())
    grey_open = samples.left_open(drawn, truth)
    assert grey_open["colour"] == pytest.approx(0, abs=1e-6) and grey_open["brightness"] > 0.5
