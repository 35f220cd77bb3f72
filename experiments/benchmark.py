"""How long the published loop, the published decoders in this pipeline, and the default recipe take, side by side.

python experiments/benchmark.py
python experiments/benchmark.py data.archive=PATH encoder.weights=PATH trainer.accelerator=cpu

On the same sample of the images, in batches of the same size, in turn within one process, from a warm page cache:

- loop: the published loop in plain PyTorch: every JPEG decoded and resized anew, the encoder run at every step, the published
  decoder, the loss at 227 x 227, float32, Adam as published.
- published: the published decoders as `train.py experiment=published` trains them, on cached features.
- recipe: the config's, by default the compact decoders, on cached features too.

The whole sweep is projected from these times: decoding and encoding of all images (the loop does so as it trains), statistics,
training, validation, checkpoints (best and last in every epoch, an upper bound), and final scores (the loop has neither).
"""

import copy
import gc
import json
import logging
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from hydra import compose
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, ListConfig
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
from inversion.launch import command_line
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
    return {"loop": published, "published": published, "recipe": recipe}


def datamodule_of(cfg: DictConfig, split: Split) -> ImageDataModule:
    """The config's datamodule, of these images alone."""
    datamodule = build("data", cfg.data)
    datamodule.find_split = lambda: split
    return datamodule


def now(device: torch.device) -> float:
    """Seconds on a clock, once the device has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def timed(device: torch.device, work: Callable[[], Any]) -> float:
    started = now(device)
    work()
    return now(device) - started


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
    encoder = build("encoder", cfg.encoder).to(device)
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
    """Seconds of an epoch as train.py runs it: per image, but for `checkpoints`; and of scoring, per scored image."""
    datamodule, encoder = datamodule_of(cfg, split), build("encoder", cfg.encoder)
    module, trainer = build_module(InversionModule, cfg, encoder, datamodule.native_size), build_trainer(cfg, folder)
    device = trainer.strategy.root_device
    at: dict[str, float] = {}

    def note(hook: str, *_: Any) -> None:
        if hook not in at:  # of the steps only the first, since looking at the clock waits for the device
            at[hook] = now(device)

    hooks = ("on_fit_start", "on_train_start", "on_train_batch_end", "on_validation_start", "on_validation_epoch_end")
    trainer.callbacks.insert(0, LambdaCallback(**{hook: partial(note, hook) for hook in hooks}))  # type: ignore[attr-defined]
    trainer.logger = TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False)
    trainer.fit(module, datamodule=datamodule)
    fit_start, train_start, first_step, validation_start, validation_end = (at[hook] for hook in hooks)
    network = build("encoder", cfg.encoder, layer=encoder.deepest)
    savings = [partial(trainer.save_checkpoint, folder / "timed.ckpt", weights_only) for weights_only in (True, False)]
    scoring = timed(device, lambda: evaluate(module.reconstructor, encoder.layer, network, datamodule, "val", device))
    return {
        "statistics": (train_start - fit_start) / len(split.train),
        "training": (validation_start - first_step) / (len(split.train) - datamodule.batch_size),
        "validation": (validation_end - validation_start) / len(split.val),
        "checkpoints": sum(timed(device, save) for save in savings),
        "scoring": scoring / len(split.val),
    }


def time_layers(cfg: DictConfig, split: Split, device: torch.device, scratch: Path) -> dict[tuple[str, str], Row]:
    """What each layer takes on each side, and its peak memory on a GPU: means of all rounds."""
    rounds: dict[tuple[str, str], list[Row]] = {(layer, side): [] for layer in cfg.layers for side in SIDES}
    for turn in range(1, cfg.rounds + 1):
        for layer, side in rounds:
            gc.collect()
            torch.accelerator.reset_peak_memory_stats()
            config = configs_of(cfg, layer)[side]
            times = time_loop(config, split, device) if side == "loop" else time_pipeline(config, split, scratch)
            rounds[layer, side].append({**times, "gpu_mib": torch.accelerator.max_memory_allocated() / 2**20})
            log.info(f"round {turn}/{cfg.rounds}  {layer}  {side}  {1000 * times['training']:.2f} ms per image")
    return {key: {name: fmean(one[name] for one in times) for name in times[0]} for key, times in rounds.items()}


def measure(cfg: DictConfig, scratch: Path) -> Row:
    """All that `benchmark.json` holds: a row per layer and side, and one per side of the seconds of a whole sweep."""
    whole, epochs, size = build("data", cfg.data), cfg.trainer.max_epochs, cfg.data.batch_size
    whole.prepare_data()
    images = {part: len(whole.split.files(part)) for part in ("train", "val", "test")}
    train, val, test = images.values()
    needed = (cfg.steps + 1) * size
    if train < needed:
        raise InputError(
            f"steps={cfg.steps} and one to warm up need {needed} training images in batches of {size}, and there are {train}: "
            "lower steps or data.batch_size."
        )
    sample = whole.split.train[:: train // needed][:needed]
    split = replace(whole.split, train=sample, val=whole.split.val[: 3 * size])
    cfg.trainer.max_epochs, cfg.data.native_size = 1, whole.native_size
    cfg.data.cache = cfg.data.cache and str(scratch / "cache")
    device = build_trainer(cfg, scratch).strategy.root_device
    decoding, encoding = time_preparation(cfg, split, device)
    layers = time_layers(cfg, split, device, scratch)

    speeds: list[Row] = []
    for (layer, side), times in layers.items():
        rate = {"ms_per_image": 1000 * times["training"], "images_per_s": 1 / times["training"]}
        ratio = layers[layer, "loop"]["training"] / times["training"]
        speeds.append({"layer": layer, "side": side, **rate, "ratio": ratio, "gpu_mib": times["gpu_mib"]})
    numbers = {"statistics": train, "training": train * epochs, "validation": val * epochs, "checkpoints": epochs}
    numbers["scoring"] = val + test
    decoded = (train + val + test) * (1 if cfg.data.cache else len(cfg.layers))
    encoded = {"published": train + val, "recipe": train * (1 + cfg.data.flip) + val}
    sweeps: list[Row] = []
    for side in SIDES:
        costs = {"decoding": decoding * decoded if side in encoded else 0.0, "encoding": encoding * encoded.get(side, 0)}
        costs |= {cost: n * sum(layers[layer, side].get(cost, 0.0) for layer in cfg.layers) for cost, n in numbers.items()}
        costs["sum"] = sum(costs.values())
        sweeps.append({"side": side, **costs, "ratio": (sweeps or [costs])[0]["sum"] / costs["sum"]})
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)  # MiB
    return {**provenance(device), "images": images, "layers": speeds, "sweep_s": sweeps, "process_mib": memory}


def table(rows: Sequence[Row]) -> str:
    cells = [[value if isinstance(value, str) else f"{value:.2f}" for value in row.values()] for row in rows]
    return aligned([list(rows[0]), *cells])


def benchmark(cfg: DictConfig, folder: Path) -> None:
    """Measures, prints the tables and writes `benchmark.json`."""
    if not isinstance(cfg.layers, ListConfig) or not cfg.layers or not set(cfg.layers) <= set(TAPS):
        raise InputError(f"layers={cfg.layers} must be a list of some of {', '.join(TAPS)}, as in layers=[conv2,fc8].")
    if min(cfg.steps, cfg.rounds) < 1:
        raise InputError(f"steps={cfg.steps} and rounds={cfg.rounds} must be at least 1.")
    for name in ("inversion", "lightning.pytorch"):  # what the short runs say
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        found = measure(copy.deepcopy(cfg), Path(scratch).resolve())
    write_atomic(folder / "benchmark.json", json.dumps(found, indent=2, allow_nan=False).encode())
    log.info(f"\nTraining steps, on {found['hardware']['device']}\n{table(found['layers'])}\n")
    log.info(f"Seconds of a whole sweep of {cfg.trainer.max_epochs} epochs\n{table(found['sweep_s'])}\n")
    log.info(f"Peak memory of the process: {found['process_mib']:.0f} MiB\nNumbers: {folder / 'benchmark.json'}")
    loop, _, recipe = found["sweep_s"]
    log.info(f"whole sweep: {recipe['sum']:.1f} s against {loop['sum']:.1f} s, {recipe['ratio']:.2f}x")


if __name__ == "__main__":
    command_line.run(benchmark, "benchmark")
