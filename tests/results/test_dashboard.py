"""What TensorBoard gets to see: read from the event files, and once through a real server."""

import json
import time
import urllib.request

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SCALARS = {
    "train/loss",
    "val/loss",
    "val/mse",
    "val/psnr",
    *("val_best/mse", "val_best/psnr", "val_best/ssim"),
    "train/images_per_second",
    "train/lr",
}


@pytest.mark.parametrize("layer", ["conv5", "fc8"])
def test_the_events_hold_the_promised_tags(sweep, layer):
    folder = sweep / layer
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    assert set(tags["scalars"]) == SCALARS
    assert [event.step for event in events.Scalars("val/mse")] == sorted({e.step for e in events.Scalars("val/mse")})
    assert len(events.Scalars("val/mse")) == 2  # one an epoch
    assert f"layer: {layer}" in (folder / "hparams.yaml").read_text()
    (best,) = events.Scalars("val_best/mse")
    assert best.value == pytest.approx(json.loads((folder / "metrics.json").read_text())["val"]["mse"])
    assert tags["images"] == ["val/reconstructions"]
    assert len(events.Images("val/reconstructions")) == 2
    (text,) = events.Tensors("config/text_summary")
    assert f"name: {layer}".encode() in text.tensor_proto.string_val[0]
    assert sum(file.stat().st_size for file in folder.glob("events*")) < 20e6


def test_a_real_server_shows_all_runs_at_once(sweep):
    from tensorboard import program

    server = program.TensorBoard()
    server.configure(argv=["tensorboard", "--logdir", str(sweep), "--port", "0", "--load_fast=false", "--reload_interval=0"])
    address = server.launch()

    def get(path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(address + path, data, headers), timeout=30) as response:
            return json.load(response)

    for _ in range(50):
        names = set(get("data/runs"))
        if names >= {"conv5", "fc8"}:
            break
        time.sleep(0.1)
    assert names >= {"conv5", "fc8"}
    tags = get("data/plugin/scalars/tags")
    for layer in ("conv5", "fc8"):
        assert set(tags[layer]) >= SCALARS
    experiment = get("data/plugin/hparams/experiment", {"experimentName": "", "hparamsLimit": 0})
    assert {info["name"] for info in experiment["hparamInfos"]} >= {
        *("layer", "decoder", "loss", "lr", "seed", "trained_epochs", "test_mse")
    }
    assert {info["name"]["tag"] for info in experiment["metricInfos"]} == {"val_best/mse", "val_best/psnr", "val_best/ssim"}
