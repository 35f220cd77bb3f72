"""How long the published loop, the published decoders in this pipeline, and the default recipe take, side by side.

python experiments/benchmark.py
python experiments/benchmark.py data.archive=PATH encoder.weights=PATH trainer.accelerator=cpu

On the same images, in batches of the same size, in turn within one process:

- a: the published loop, written plainly: every JPEG decoded and resized anew, the encoder run at every step, the published
  decoder, the loss at 227 x 227, float32, Adam as published.
- b: the published decoders as `train.py experiment=published` trains them.
- c: the config's recipe, by default the compact decoders.

The ms per image of b and c are those of Lightning's Trainer with logger and callbacks. Their stages are timed beside it by
calling the same methods by hand; what the Trainer takes beyond their sum is called logging. Files are read from a page cache
that is warm. Features that aren't cached yet are cached first, as train.py does.

The whole sweep is projected from the steps and from what is done once or once an epoch: decoding and encoding (timed on a
sample of the images), the features' statistics, validation, checkpoints (best and last counted in every epoch, an upper
bound), the final scores. The published loop decodes and encodes as it trains; it has no final scores, and no checkpoints are
put to its account.
"""

import gc
import json
import logging
import resource
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning
import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from inversion.core.errors import InputError
from inversion.core.files import write_atomic
from inversion.encoders.alexnet import TAPS
from inversion.launch import command_line
from inversion.studies.timing import (
    STAGES,
    VAL_BATCHES,
    Times,
    encoded_images,
    time_pipeline,
    time_preparation,
    time_published,
)
from inversion.training import checkpoints
from inversion.training.building import build, build_trainer
from inversion.training.provenance import provenance

log = logging.getLogger(__name__)

SIDES = {"a": "the published loop", "b": "the published decoders in this pipeline", "c": "the config's recipe"}


def mean(rounds: Sequence[Times]) -> Times:
    """The mean of what several rounds measured."""
    return {key: fmean(times[key] for times in rounds) for key in rounds[0]}


def shares(times: Times, images: Mapping[str, int]) -> dict[str, float]:
    """Each of `STAGES` as a share of all time spent training and validating, given how many images each part has."""
    seconds = {stage: times[stage] for stage in STAGES[:-2]}
    beyond = max(0.0, times["step"] - sum(seconds.values()))
    seconds |= {"validation": times["validation"] * images["val"] / images["train"], "logging": beyond}
    return {stage: value / sum(seconds.values()) for stage, value in seconds.items()}


def project(
    layers: Sequence[Times], images: Mapping[str, int], epochs: int, decoding: float, encoding: float, encoded: int
) -> Times:
    """The seconds that one side takes for a whole sweep, by cost, and their `sum`.

    Args:
        layers: what each of the sweep's layers takes.
        images: how many are in `train`, `val` and `test`.
        epochs: of each layer.
        decoding: seconds for decoding an image of any part before the training, in the whole sweep.
        encoding: the same for encoding an image.
        encoded: how many are encoded: training (twice where they are also mirrored) and validation images.
    """
    total = {key: sum(times[key] for times in layers) for key in layers[0]}
    scored = images["val"] + images["test"]
    costs = {
        "decoding": decoding * sum(images.values()),
        "features": encoding * encoded + total["statistics"],
        "training": total["step"] * images["train"] * epochs,
        "validation": total["validation"] * images["val"] * epochs,
        "checkpoints": total["checkpoints"] * epochs,
        "scoring": total["scoring"] * scored,
    }
    return costs | {"sum": sum(costs.values())}


def with_decoder(cfg: DictConfig, decoder: DictConfig) -> DictConfig:
    """The config with another decoder, none of whose options are left of the former."""
    changed: DictConfig = OmegaConf.merge(cfg)  # type: ignore[assignment]
    changed.decoder = decoder
    return changed


def measure(cfg: DictConfig, scratch: Path) -> dict[str, Any]:
    """All that `benchmark.json` holds; the names of times end with their unit."""
    published = {layer: compose("config", [f"layer={layer}", "experiment=published"]) for layer in cfg.layers}
    given = HydraConfig.get().overrides.task
    recipe = {layer: compose("benchmark", [*given, f"layer={layer}"]).decoder for layer in cfg.layers}
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[assignment]
    for name in (checkpoints.BEST, checkpoints.LAST):
        OmegaConf.update(cfg, f"callbacks.{name}.dirpath", str(checkpoints.path_of(scratch, name).parent))
    trainer = build_trainer(cfg, scratch)
    device, epochs = trainer.strategy.root_device, cfg.trainer.max_epochs
    # The runs that are timed last one short epoch.
    cfg.trainer.update({"max_epochs": 1, "limit_train_batches": cfg.steps + 1, "limit_val_batches": VAL_BATCHES})
    as_published: DictConfig = OmegaConf.merge(cfg)  # type: ignore[assignment]
    for group in ("loss", "optimizer", "scheduler"):
        as_published[group] = next(iter(published.values()))[group]
    as_published.data.flip = False

    encoders = {layer: build("encoder", cfg.encoder, layer=layer) for layer in cfg.layers}
    datamodule = build("data", cfg.data)
    datamodule.prepare_data()
    images = {part: len(datamodule.split.files(part)) for part in ("train", "val", "test")}
    batches = images["train"] // cfg.data.batch_size
    if batches <= cfg.steps:
        raise InputError(
            f"steps={cfg.steps} and one to warm up need as many whole batches, and {images['train']} training images make "
            f"{batches} of data.batch_size={cfg.data.batch_size}: lower steps or data.batch_size."
        )
    deepest = encoders[max(cfg.layers, key=list(TAPS).index)].to(device)
    datamodule.cache_features(deepest, cfg.layers, device)
    cached = [layer for layer in cfg.layers if datamodule.has_features(encoders[layer])]
    decoding, encoding = time_preparation(cfg, datamodule, deepest, cached, device, scratch)
    deepest.cpu()
    decodings = 1 if datamodule.cache else len(cfg.layers)
    del datamodule

    rounds: dict[str, dict[str, list[Times]]] = {layer: {side: [] for side in SIDES} for layer in cfg.layers}
    gpu = dict.fromkeys(SIDES, 0.0) if device.type == "cuda" else {}
    for number in range(1, cfg.rounds + 1):
        for layer, side in ((layer, side) for layer in cfg.layers for side in SIDES):
            gc.collect()
            if gpu:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)
            if side == "a":
                times = time_published(with_decoder(as_published, published[layer].decoder), encoders[layer], device)
            elif side == "b":
                times = time_pipeline(with_decoder(as_published, published[layer].decoder), encoders[layer], scratch)
            else:
                times = time_pipeline(with_decoder(cfg, recipe[layer]), encoders[layer], scratch)
            if gpu:
                gpu[side] = max(gpu[side], torch.cuda.max_memory_allocated(device) / 2**20)
            rounds[layer][side].append(times)
            log.info(f"round {number}/{cfg.rounds}  {layer}  {side}  {1000 * times['step']:.2f} ms per image")

    means = {layer: {side: mean(rounds[layer][side]) for side in SIDES} for layer in cfg.layers}
    layers: dict[str, dict[str, Any]] = {layer: {} for layer in cfg.layers}
    for layer, side in ((layer, side) for layer in cfg.layers for side in SIDES):
        times = means[layer][side]
        layers[layer][side] = {
            "ms_per_image": 1000 * times["step"],
            "images_per_s": 1 / times["step"],
            "ratio": means[layer]["a"]["step"] / times["step"],
            "ms_per_image_by_round": [1000 * one["step"] for one in rounds[layer][side]],
            "shares": shares(times, images),
            "seconds": times,
        }
    once = {"a": (0.0, 0.0, 0)} | {
        side: (decodings * decoding, encoding, encoded_images(images, flip))
        for side, flip in (("b", False), ("c", cfg.data.flip))
    }
    sums = {side: project([means[layer][side] for layer in cfg.layers], images, epochs, *once[side]) for side in SIDES}
    unit = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss in a MiB
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        **provenance(device),
        "sides": SIDES,
        "precision": {"a": "32-true", "b": trainer.precision, "c": trainer.precision},
        "images": images,
        "batch_size": cfg.data.batch_size,
        "steps": cfg.steps,
        "epochs": epochs,
        "layers": layers,
        "decoding_ms_per_image": 1000 * decoding,
        "encoding_ms_per_image": 1000 * encoding,
        "peak_mib": {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, "gpu": gpu},
        "projection_s": sums,
        "ratio_training": {side: sums["a"]["training"] / sums[side]["training"] for side in SIDES},
        "ratio_whole_sweep": {side: sums["a"]["sum"] / sums[side]["sum"] for side in SIDES},
    }


def report(found: Mapping[str, Any]) -> str:
    """What was measured, as text."""
    machine, sums, training = found["hardware"], found["projection_s"], found["ratio_training"]
    speeds = [["", "ms", "images/s", "ratio"]]
    stages = [["", *STAGES]]
    for layer, sides in found["layers"].items():
        for side, one in sides.items():
            name = f"{layer} {side}"
            speeds.append([name, f"{one['ms_per_image']:.2f}", f"{one['images_per_s']:.0f}", f"{one['ratio']:.2f}"])
            stages.append([name, *(f"{share:.1%}" for share in one["shares"].values())])
    costs = [["", *sums["a"], "ratio"]]
    for side, values in sums.items():
        costs.append([side, *(f"{value:.1f}" for value in values.values()), f"{found['ratio_whole_sweep'][side]:.2f}"])
    lines = [
        "",
        *(f"{side}: {words}, {found['precision'][side]}" for side, words in SIDES.items()),
        f"on {machine['device']} ({machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads).",
        "",
        f"Training in batches of {found['batch_size']}: ms per image, images/s, ratio to a",
        aligned(speeds),
        "",
        "Share of the time per stage",
        aligned(stages),
        "",
        f"Projected seconds of {found['epochs']} epochs of all layers; a has no final scores",
        aligned(costs),
        f"Ratio in training alone: b {training['b']:.2f}, c {training['c']:.2f}",
        "",
        f"Peak memory of the whole process: {found['peak_mib']['process']:.0f} MiB",
        *(f"Peak GPU memory of {side}: {peak:.0f} MiB" for side, peak in found["peak_mib"]["gpu"].items()),
        "",
    ]
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines of columns, the first of them flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return "\n".join("  ".join(row) for row in cells)


def benchmark(cfg: DictConfig, folder: Path) -> None:
    """Measures, prints the tables and writes `benchmark.json`.

    Raises:
        InputError: there is nothing to measure, or an option is refused.
    """
    if not isinstance(cfg.layers, ListConfig) or not cfg.layers or not all(layer in list(TAPS) for layer in cfg.layers):
        raise InputError(f"layers={cfg.layers} must be a list of some of {', '.join(TAPS)}, as in layers=[conv2,fc8].")
    for key in ("steps", "rounds"):
        if cfg[key] < 1:
            raise InputError(f"{key}={cfg[key]} must be at least 1.")
    # The short runs' own lines and Lightning's advice are no news here.
    logging.getLogger("inversion").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        found = measure(cfg, Path(scratch).resolve())
    log.info(report(found))
    write_atomic(folder / "benchmark.json", json.dumps(found, indent=2, allow_nan=False).encode())
    log.info(f"Numbers  {folder / 'benchmark.json'}")
    a, c = (found["projection_s"][side]["sum"] for side in "ac")
    log.info(f"whole sweep: {c:.1f} s against {a:.1f} s, {a / c:.2f}x")


def command() -> None:
    """What `python experiments/benchmark.py ...` does."""
    if {"-m", "--multirun"} & set(sys.argv):
        sys.exit("error: The benchmark is one run: leave -m out, and say with layers=[...] which layers to time.")
    command_line.run(benchmark, "benchmark")


if __name__ == "__main__":
    command()
