"""How long the published loop, the published decoders in this pipeline, and the default recipe take, side by side.

On the same sample of the images, in turn within one process, from a warm page cache: `loop`, the published loop in plain
PyTorch (every JPEG decoded and resized anew, the encoder run at every step, the published decoder, the loss at 227 x 227,
float32, Adam as published); `published`, as `train.py experiment=published` trains, on cached features; `recipe`, the
config's, by default the compact decoders, on cached features too. The whole sweep is projected from these times: decoding and
encoding of all images (the loop does so as it trains), training, validation, and final scores (which the loop hasn't).
"""

from inversion.launch import command_line  # isort: skip - before torch

import copy
import gc
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra import compose
from omegaconf import DictConfig, ListConfig, OmegaConf
from PIL import Image
from torch import Tensor
from torch.nn.functional import mse_loss
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.core.files import write_atomic
from inversion.core.tables import aligned
from inversion.data.datamodule import ImageDataModule
from inversion.data.split import Split
from inversion.encoders.alexnet import TAPS
from inversion.training.building import build, build_decoder, build_module, build_trainer
from inversion.training.evaluation import evaluate
from inversion.training.module import InversionModule
from inversion.training.provenance import provenance

log = logging.getLogger(__name__)

SIDES = ("loop", "published", "recipe")
Row = dict[str, Any]


def configs_of(cfg: DictConfig, layer: str) -> dict[str, DictConfig]:
    experiment = compose("config", [f"layer={layer}", "experiment=published"])
    recipe, published = copy.deepcopy(cfg), copy.deepcopy(cfg)
    recipe.layer = published.layer = experiment.layer
    for group in ("decoder", "loss", "optimizer", "scheduler"):
        published[group] = experiment[group]
    published.data.flip = False
    if OmegaConf.is_interpolation(cfg.data, "batch_size"):  # it isn't given by the user
        published.data.batch_size = experiment.data.batch_size
    return {"loop": published, "published": published, "recipe": recipe}


def datamodule_of(cfg: DictConfig, split: Split) -> ImageDataModule:
    """The config's datamodule, of these images alone."""
    datamodule = build("data", cfg.data)
    datamodule.find_split = lambda: split
    return datamodule


def timed(device: torch.device, work: Callable[[], Any]) -> float:
    """Seconds until the device has finished the work."""

    def now() -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()

    started = now()
    work()
    return now() - started


def time_preparation(cfg: DictConfig, split: Split, device: torch.device) -> tuple[float, float]:
    """Seconds for decoding an image, and for encoding one for all layers in a single pass."""
    datamodule, train, val = datamodule_of(cfg, split), len(split.train), len(split.val)
    encoder = build("encoder", cfg.encoder, layer=max(cfg.layers, key=list(TAPS).index)).to(device)
    decoding = timed(device, lambda: datamodule.setup("fit"))
    encoding = timed(device, lambda: datamodule.use_features(encoder, list(cfg.layers), device))
    return decoding / (train + val), encoding / (train * (1 + cfg.data.flip) + val)


def time_loop(cfg: DictConfig, split: Split, device: torch.device) -> Row:
    """Seconds per image of an epoch and its validation, as a loop in plain PyTorch."""
    size, side = cfg.data.batch_size, (pixels.INPUT_SIZE, pixels.INPUT_SIZE)
    train, val = ([files[i : i + size] for i in range(0, len(files), size)] for files in (split.train, split.val))
    prepare = Compose([Resize(side), ToTensor(), Normalize(pixels.MEAN, pixels.STD)])
    encoder = build("encoder", cfg.encoder).to(device, memory_format=torch.contiguous_format)  # as plain PyTorch has it
    decoder = build_decoder(cfg.decoder, encoder, cfg.data.native_size).to(device)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4)

    def loss_of(files: Sequence[str]) -> Tensor:
        images = torch.stack([prepare(Image.open(split.path(name)).convert("RGB")) for name in files]).to(device)
        with torch.no_grad():
            features = encoder(images)
        return mse_loss(pixels.resize(decoder.predict(features), pixels.INPUT_SIZE), images)

    def fit(batches: Sequence[Sequence[str]]) -> None:
        for files in batches:
            optimizer.zero_grad()
            loss_of(files).backward()
            optimizer.step()

    fit(train[:1])
    training = timed(device, lambda: fit(train[1:])) / (len(split.train) - size)
    with torch.no_grad():
        validation = timed(device, lambda: [loss_of(files) for files in val]) / len(split.val)
    return {"training": training, "validation": validation}


def time_pipeline(cfg: DictConfig, split: Split, folder: Path) -> Row:
    """Seconds per image of an epoch, its validation and the final scores, as train.py runs them."""
    datamodule, encoder = datamodule_of(cfg, split), build("encoder", cfg.encoder)
    module, trainer = build_module(InversionModule, cfg, encoder, datamodule.native_size), build_trainer(cfg, folder)
    device = trainer.strategy.root_device
    trainer.fit(module, datamodule=datamodule)  # two epochs, the second of which tells the speed
    speed = float(trainer.callback_metrics["train/images_per_second"])
    validation = timed(device, lambda: trainer.validate(module, datamodule, verbose=False))
    network = build("encoder", cfg.encoder, layer=encoder.deepest)
    scoring = timed(device, lambda: evaluate(module.reconstructor, encoder.layer, network, datamodule, "val", device))
    return {"training": 1 / speed, "validation": validation / len(split.val), "scoring": scoring / len(split.val)}


def measure(cfg: DictConfig, scratch: Path) -> Row:
    """All that `benchmark.json` holds: a row per layer and side, and one per side of the seconds of a whole sweep."""
    whole, epochs = build("data", cfg.data), cfg.trainer.max_epochs
    size = max(config.data.batch_size for layer in cfg.layers for config in configs_of(cfg, layer).values())
    whole.prepare_data()
    images = {part: len(whole.split.files(part)) for part in ("train", "val", "test")}
    train, val, test = images.values()
    needed = (cfg.steps + 1) * size
    if train < needed:
        raise InputError(
            f"steps={cfg.steps} and one to warm up need {needed} training images in batches of {size}, and there are {train}: "
            "lower steps or data.batch_size."
        )
    split = replace(whole.split, train=whole.split.train[:: train // needed][:needed], val=whole.split.val[: 3 * size])
    cfg.trainer.max_epochs, cfg.data.native_size, cfg.callbacks.learning_rate = 2, whole.native_size, None
    cfg.data.cache = cfg.data.cache and str(scratch / "cache")
    device = build_trainer(cfg, scratch).strategy.root_device
    decoding, encoding = time_preparation(cfg, split, device)
    layers: list[Row] = []
    for layer in cfg.layers:
        for side, config in configs_of(cfg, layer).items():
            gc.collect()
            times = time_loop(config, split, device) if side == "loop" else time_pipeline(config, split, scratch)
            log.info(f"{layer}  {side}  {1000 * times['training']:.2f} ms per image")
            layers.append({"layer": layer, "side": side, **{f"{name}_ms": 1000 * value for name, value in times.items()}})
            layers[-1]["ratio"] = layers[-1 - SIDES.index(side)]["training_ms"] / layers[-1]["training_ms"]
    numbers = {"training": train * epochs, "validation": val * epochs, "scoring": val + test}
    decoded = (train + val + test) * (1 if cfg.data.cache else len(cfg.layers))
    encoded = {"published": train + val + test, "recipe": train * (1 + cfg.data.flip) + val + test}
    sweeps: list[Row] = []
    for side in SIDES:
        own = [row for row in layers if row["side"] == side]
        costs = {"decoding": decoding * decoded if side in encoded else 0.0, "encoding": encoding * encoded.get(side, 0)}
        costs |= {cost: n * sum(row.get(f"{cost}_ms", 0.0) / 1000 for row in own) for cost, n in numbers.items()}
        costs["sum"] = sum(costs.values())
        sweeps.append({"side": side, **costs, "ratio": (sweeps or [costs])[0]["sum"] / costs["sum"]})
    return {**provenance(device), "images": images, "layers": layers, "sweep_s": sweeps}


def table(rows: Sequence[Row]) -> str:
    cells = [[str(row.get(name, "")) for name in rows[-1]] for row in rows]
    return aligned([list(rows[-1]), *([f"{float(c):.2f}" if "." in c else c for c in line] for line in cells)])


def benchmark(cfg: DictConfig, folder: Path) -> None:
    """Measures, prints the tables and writes `benchmark.json`."""
    if not isinstance(cfg.layers, ListConfig) or not cfg.layers or not set(cfg.layers) <= set(TAPS):
        raise InputError(f"layers={cfg.layers} must be a list of some of {', '.join(TAPS)}, as in layers=[conv2,fc8].")
    if cfg.steps < 1:
        raise InputError(f"steps={cfg.steps} must be at least 1.")
    for name in ("inversion", "lightning.pytorch"):  # what the short runs say
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        found = measure(copy.deepcopy(cfg), Path(scratch).resolve())
    write_atomic(folder / "benchmark.json", json.dumps(found, indent=2, allow_nan=False).encode())
    log.info(f"\nPer image, on {found['hardware']['device']}\n{table(found['layers'])}\n")
    log.info(f"Seconds of a whole sweep of {cfg.trainer.max_epochs} epochs\n{table(found['sweep_s'])}\n")
    log.info(f"Numbers: {folder / 'benchmark.json'}")
    loop, _, recipe = found["sweep_s"]
    log.info(f"whole sweep: {recipe['sum']:.1f} s against {loop['sum']:.1f} s, {recipe['ratio']:.2f}x")


if __name__ == "__main__":
    command_line.run(benchmark, "benchmark")
