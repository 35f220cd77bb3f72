"""Trains the decoder of one layer: compose, build, fit, score, one line of result.

python train.py layer=conv5                        one layer
python train.py -m layer=conv2,conv5,fc6,fc8       a sweep
python train.py experiment=published               the published experiment
"""

import logging
import os
import shlex
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from inversion.core.errors import InputError
from inversion.launch import command_line
from inversion.training import SWEPT_LAYERS

if TYPE_CHECKING:
    import torch

    from inversion.data.datamodule import ImageDataModule
    from inversion.encoders.alexnet import Encoder

log = logging.getLogger(__name__)


def train(cfg: DictConfig, folder: Path) -> dict[str, Any] | None:
    """One run, from its config to its `metrics.json`, which it returns; None if the folder holds a finished run, or in a
    process beside the first of `trainer=ddp`.
    """
    # Imported here, so that --help and a mistyped option are answered at once.
    import lightning

    from inversion.core import pixels
    from inversion.decoders.standardize import Standardize
    from inversion.encoders.alexnet import LAST_LAYER
    from inversion.results import runs
    from inversion.training import checkpoints
    from inversion.training.building import (
        build,
        build_logger,
        build_module,
        build_scorer,
        build_trainer,
        check_disk_space,
    )
    from inversion.training.callbacks import reconstruct
    from inversion.training.evaluation import evaluate
    from inversion.training.module import InversionModule
    from inversion.training.processes import fit
    from inversion.training.provenance import provenance, write_provenance

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The encoder is meant to be in eval mode, and the images are in memory, so loading needs no workers.
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # a run that goes on
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")

    started = time.perf_counter()
    log.info(f"{cfg.layer.name}: {folder}")
    if not 0 <= cfg.seed < 2**32:
        raise InputError(f"seed={cfg.seed} must lie between 0 and {2**32 - 1}.")
    if cfg.samples < 1:
        raise InputError(f"samples={cfg.samples} must be at least 1.")
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)

    trainer = build_trainer(cfg, folder, may_share=True)
    scorer = build_scorer(cfg, trainer.strategy.root_device)
    encoder = build("encoder", cfg.encoder)
    datamodule = build("data", cfg.data)
    datamodule.prepare_data()
    metadata = checkpoints.metadata(cfg, trainer.precision, datamodule.split, datamodule.native_size, encoder)
    if runs.is_finished(folder):
        must_match = (*checkpoints.MUST_MATCH_FINISHED, *checkpoints.MUST_MATCH)
        checkpoints.check_resumes(checkpoints.path_of(folder, checkpoints.BEST), metadata, must_match)
        log.info(f"{folder} holds this run, finished: give another hydra.run.dir, or delete it to run again.")
        return None
    last = checkpoints.path_of(folder, checkpoints.LAST)
    resumed = checkpoints.check_resumes(last, metadata) if last.is_file() else None
    datamodule.setup("fit")
    if cfg.test:  # a broken test image is better found now than after the training
        datamodule.images("test")
    model = build_module(InversionModule, cfg, encoder, datamodule.native_size, metadata)
    decoder, standardize = model.decoder, model.standardize
    if resumed:
        checkpoints.check_fits(last, resumed, model)
    check_disk_space(folder, decoder)
    parameters = sum(parameter.numel() for parameter in decoder.parameters())
    split = datamodule.split
    log.info(f"{len(split.train)} train, {len(split.val)} val, {len(split.test)} test images of {len(split.classes)} classes")
    log.info(
        f"{type(decoder).__name__} of {parameters:,} weights for features of shape {list(encoder.feature_shape)}, trained in "
        f"{trainer.precision} on {trainer.strategy.root_device}"
        + (f" and {trainer.world_size - 1} more" if trainer.world_size > 1 else "")
    )

    command = shlex.join(["python", "train.py", *HydraConfig.get().overrides.task])
    parts = ("train", "val", "test") if cfg.test else ("train", "val")
    if trainer.is_global_zero:
        split.save(folder / "split.json")
        write_provenance(folder, command, metadata, datamodule, parts, trainer.strategy.root_device, resumed=bool(resumed))
    if resumed:
        log.info(f"Going on from {last}")
    trainer.logger = logger = build_logger(folder, metadata["config"], resumed)
    encode_once(cfg, encoder, datamodule, trainer.strategy.root_device)
    if trainer.world_size > 1:  # by the first process alone, before it starts the others
        datamodule.cache_features(encoder.to(trainer.strategy.root_device), [cfg.layer.name], trainer.strategy.root_device)
    fit(trainer, model, datamodule=datamodule, ckpt_path=last if resumed else None, weights_only=True)
    if not trainer.is_global_zero:
        return None

    best = checkpoints.read(checkpoints.path_of(folder, checkpoints.BEST))
    model.load_state_dict(best["state_dict"])
    choices: Any = HydraConfig.get().runtime.choices
    metrics: dict[str, Any] = {
        "layer": cfg.layer.name,
        "decoder": choices.decoder,
        "loss": choices.loss,
        "data": choices.data,
        "data_seed": cfg.data.seed,
        "encoder": Path(cfg.encoder.weights).name,
        "input_stats": cfg.encoder.input_stats,
        "standardize": "whiten" if getattr(standardize, "whiten", False) else isinstance(standardize, Standardize),
        "precision": trainer.precision,
        "parameters": parameters,
        "native_size": datamodule.native_size,
        "seed": cfg.seed,
        "command": command,
        "epochs": trainer.current_epoch,
        "best_epoch": best["epoch"] + 1,
    }
    network = build("encoder", cfg.encoder, layer=LAST_LAYER)
    for part in parts[1:]:
        metrics[part] = evaluate(model.reconstructor, cfg.layer.name, network, datamodule, part, scorer)
    metrics["seconds"] = round(time.perf_counter() - started, 1)
    metrics |= provenance(trainer.strategy.root_device)

    files, originals = datamodule.samples("val", cfg.samples)
    pictures = pixels.to_uint8(pixels.denormalize(originals))
    samples = runs.Samples(files, pictures, reconstruct(model, originals))
    samples.save(folder / runs.SAMPLES_FILE)
    told_elsewhere = ("command", "commit", "best_epoch", "seconds")
    hparams = {key: value for key, value in metrics.items() if not isinstance(value, dict) and key not in told_elsewhere}
    hparams |= {"lr": cfg.optimizer.get("lr"), "batch_size": cfg.data.batch_size}
    logger.log_hyperparams(hparams, runs.hparam_metrics(metrics), step=trainer.global_step)
    logger.finalize("success")
    runs.write_figures(folder, [runs.FinishedRun(folder, metrics, samples)])
    runs.write_metrics(folder, metrics)
    log.info(runs.result_line(metrics, folder))
    return metrics


def encode_once(cfg: DictConfig, encoder: "Encoder", datamodule: "ImageDataModule", device: "torch.device") -> None:
    """In a sweep over layers, fills the cache with the features of all of them in one pass of the deepest's encoder."""
    from inversion.encoders.alexnet import TAPS
    from inversion.training.building import build

    layers = [layer for layer in os.environ.get(SWEPT_LAYERS, "").split() if layer in TAPS and layer != cfg.layer.name]
    if layers and datamodule.can_cache(encoder) and not datamodule.has_features(encoder):
        deepest = max([cfg.layer.name, *layers], key=list(TAPS).index)
        whole = build("encoder", cfg.encoder, layer=deepest).to(device)
        datamodule.cache_features(whole, [cfg.layer.name, *layers], device)


def command() -> None:
    """What `python train.py ...` does."""
    command_line.run(train)


if __name__ == "__main__":
    command()
