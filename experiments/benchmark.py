"""How long the published loop, the published decoders in this pipeline, and the default recipe take, side by side.

python experiments/benchmark.py
python experiments/benchmark.py data.archive=PATH encoder.weights=PATH trainer.accelerator=cpu

On the same sample of the images, in batches of the same size, in turn within one process:

- loop: the published loop, written plainly: every JPEG decoded and resized anew, the encoder run at every step, the published
  decoder, the loss at 227 x 227, float32, Adam as published.
- published: the published decoders as `train.py experiment=published` trains them.
- recipe: the config's, by default the compact decoders.

The last two are short runs of Lightning's Trainer with logger and callbacks, on cached features. Files are read from a warm
page cache. The whole sweep is projected from these times: decoding and encoding of all images (the loop does so as it trains),
the features' statistics, training, validation, checkpoints (best and last in every epoch, an upper bound), and final scores
(the loop saves and scores nothing). For the stages of one run see `python train.py +trainer.profiler=simple`.
"""

import copy
import gc
import json
import logging
import resource
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from hydra import compose
from omegaconf import DictConfig, ListConfig

from inversion.core.errors import InputError
from inversion.core.files import write_atomic
from inversion.core.tables import aligned
from inversion.data.split import Split
from inversion.encoders.alexnet import TAPS
from inversion.launch import command_line
from inversion.studies.speed import Times, datamodule_of, time_pipeline, time_published, timed
from inversion.training.building import build, build_trainer
from inversion.training.provenance import provenance

log = logging.getLogger(__name__)

SIDES = ("loop", "published", "recipe")

Row = dict[str, Any]


def configs_of(cfg: DictConfig, layer: str) -> dict[str, DictConfig]:
    """Each side's config for a layer."""
    experiment = compose("config", [f"layer={layer}", "experiment=published"])
    recipe, published = copy.deepcopy(cfg), copy.deepcopy(cfg)
    recipe.layer = published.layer = experiment.layer
    for group in ("decoder", "loss", "optimizer", "scheduler"):
        published[group] = experiment[group]
    published.data.flip = False
    return {"loop": published, "published": published, "recipe": recipe}


def sample_of(split: Split, steps: int, size: int) -> Split:
    """As many of the images as these steps, one before them, and a short validation take, in batches of this size."""
    number = (steps + 1) * size
    if len(split.train) < number:
        raise InputError(
            f"steps={steps} and one to warm up need {number} training images in batches of {size}, and there are "
            f"{len(split.train)}: lower steps or data.batch_size."
        )
    return replace(split, train=split.train[:: len(split.train) // number][:number], val=split.val[: 3 * size])


def time_preparation(cfg: DictConfig, split: Split, device: torch.device) -> tuple[float, float]:
    """Seconds for decoding an image, and for encoding one for all layers in a single pass."""
    datamodule, train, val = datamodule_of(cfg, split), len(split.train), len(split.val)
    encoder = build("encoder", cfg.encoder, layer=max(cfg.layers, key=list(TAPS).index)).to(device)
    decoding = timed(device, lambda: datamodule.setup("fit"))
    encoding = timed(device, lambda: datamodule.use_features(encoder, list(cfg.layers), device))
    return decoding / (train + val), encoding / (train * (1 + cfg.data.flip) + val)


def time_layers(cfg: DictConfig, split: Split, device: torch.device, scratch: Path) -> dict[tuple[str, str], Times]:
    """What each layer takes on each side, and its peak memory on a GPU: means of all rounds."""
    rounds: dict[tuple[str, str], list[Times]] = {(layer, side): [] for layer in cfg.layers for side in SIDES}
    for turn in range(1, cfg.rounds + 1):
        for layer, side in rounds:
            gc.collect()
            torch.accelerator.reset_peak_memory_stats()
            config = configs_of(cfg, layer)[side]
            times = time_published(config, split, device) if side == "loop" else time_pipeline(config, split, scratch)
            rounds[layer, side].append({**times, "gpu_mib": torch.accelerator.max_memory_allocated() / 2**20})
            log.info(f"round {turn}/{cfg.rounds}  {layer}  {side}  {1000 * times['training']:.2f} ms per image")
    return {key: {name: fmean(one[name] for one in times) for name in times[0]} for key, times in rounds.items()}


def measure(cfg: DictConfig, scratch: Path) -> Row:
    """All that `benchmark.json` holds: a row per layer and side, and one per side of the seconds of a whole sweep.

    Raises:
        InputError: there are too few images, or an option is refused.
    """
    whole, epochs, flip = build("data", cfg.data), cfg.trainer.max_epochs, cfg.data.flip
    whole.prepare_data()
    train, val, test = (len(whole.split.files(part)) for part in ("train", "val", "test"))
    split = sample_of(whole.split, cfg.steps, cfg.data.batch_size)
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
    before = {
        "loop": (0.0, 0.0),
        "published": (decoding * decoded, encoding * (train + val)),
        "recipe": (decoding * decoded, encoding * (train * (1 + flip) + val)),
    }
    sweeps: list[Row] = []
    for side in SIDES:
        costs = dict(zip(("decoding", "encoding"), before[side], strict=True))
        costs |= {cost: n * sum(layers[layer, side][cost] for layer in cfg.layers) for cost, n in numbers.items()}
        costs["sum"] = sum(costs.values())
        sweeps.append({"side": side, **costs, "ratio": (sweeps or [costs])[0]["sum"] / costs["sum"]})
    unit = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss in a MiB
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    images = {"train": train, "val": val, "test": test}
    return {**provenance(device), "images": images, "layers": speeds, "sweep_s": sweeps, "process_mib": memory}


def table(rows: Sequence[Row]) -> str:
    """Rows with the same keys, as text."""
    cells = [[value if isinstance(value, str) else f"{value:.2f}" for value in row.values()] for row in rows]
    return aligned([list(rows[0]), *cells])


def benchmark(cfg: DictConfig, folder: Path) -> None:
    """Measures, prints the tables and writes `benchmark.json`.

    Raises:
        InputError: there is nothing to measure, or an option is refused.
    """
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
