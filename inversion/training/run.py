"""One run: from its config to its scores, its figure and its curves."""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig
from tqdm import tqdm

from inversion.core import pixels
from inversion.core.drawing import layers_figure
from inversion.core.errors import InputError
from inversion.core.files import SWEPT_LAYERS, atomic_file, expand, save_atomic
from inversion.data.datamodule import ImageDataModule
from inversion.decoders.flow import FlowDecoder
from inversion.decoders.standardize import Standardize
from inversion.encoders.alexnet import TAPS
from inversion.training import checkpoints, outcome
from inversion.training.building import build, build_module
from inversion.training.callbacks import columns_of
from inversion.training.checkpoints import BEST, path_of
from inversion.training.evaluation import MEAN_IMAGE, evaluate
from inversion.training.fit import Fitted, fit, start
from inversion.training.module import InversionModule
from inversion.training.provenance import command_line

log = logging.getLogger(__name__)

MAY_DIFFER = ("trainer.max_epochs", "test", "samples")
"""Options that may change when an unfinished run is resumed. A scheduler's own may not, even if they follow the epochs."""


def train(cfg: DictConfig, folder: Path) -> dict[str, Any] | None:
    """Trains the decoder of one layer in the folder, or resumes it there, scores it, and writes the files that docs/running.md
    lists. `cfg` is `conf/config.yaml`, composed by Hydra: by a program, or in a notebook by `hydra.compose`.

    Returns the content of `metrics.json`; None if the folder holds the finished run already, and after
    `+trainer.fast_dev_run=true`. Raises InputError for a mistake of the user's.
    """
    folder = Path(folder).absolute()
    fitted = fit_decoder(cfg, folder)
    if fitted is None or fitted.trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    metrics = description(cfg, fitted)
    module, device = cast(InversionModule, fitted.module), fitted.trainer.strategy.root_device
    module.to(device).eval()  # Lightning leaves it on the CPU
    if isinstance(module.decoder, FlowDecoder):
        calibrate(module, fitted.datamodule, path_of(folder, BEST), device)
    network = build("encoder", cfg.encoder, layer=module.encoder.deepest)
    for part in outcome.PARTS if cfg.test else outcome.PARTS[:1]:
        metrics[part] = evaluate(module.reconstructor, cfg.layer.name, network, fitted.datamodule, part, device)
    metrics |= {"seconds": round(fitted.seconds, 1), **fitted.provenance}
    publish(cfg, folder, fitted, metrics)
    return metrics


def fit_decoder(cfg: DictConfig, folder: Path, kind: type[InversionModule] = InversionModule) -> Fitted | None:
    """The first half of `train`, for any kind of module, returned with its best weights; None if the run is finished."""
    if cfg.samples < 1:
        raise InputError(f"samples={cfg.samples} must be at least 1.")
    if cfg.encoder.layer != cfg.layer.name:
        raise InputError(f"encoder.layer={cfg.encoder.layer}: leave it out, layer={cfg.layer.name} says it.")
    start(cfg.seed)
    log.info(f"{cfg.layer.name}: {folder}")
    datamodule = build("data", cfg.data)
    encoder = build("encoder", cfg.encoder)

    def module_of(trainer: Trainer) -> InversionModule:
        clips = bool(trainer.gradient_clip_val) and trainer.precision != "32-true"
        module = build_module(kind, cfg, encoder, datamodule.native_size, clips)
        weights = sum(parameter.numel() for parameter in module.decoder.parameters())
        log.info(
            f"{type(module.decoder).__name__} of {weights:,} weights for features of shape {list(encoder.feature_shape)}, "
            f"trained in {trainer.precision} on {trainer.strategy.root_device.type}"
        )
        return module

    def encode_once(trainer: Trainer, module: LightningModule) -> None:
        """Caches the features of all layers of a sweep in one pass."""
        own, device = cfg.layer.name, trainer.strategy.root_device
        others = [layer for layer in os.environ.get(SWEPT_LAYERS, "").split() if layer in TAPS and layer != own]
        if others and datamodule.lacks_features(encoder):
            with suppress(InputError):  # another layer's, which its own job tells
                deepest = build("encoder", cfg.encoder, layer=max([own, *others], key=list(TAPS).index))
                datamodule.use_features(deepest.to(device), [own, *others], device, test=cfg.test)

    fitted = fit(
        cfg, folder, datamodule, module_of, program="train.py", test=cfg.test, before=encode_once, may_differ=MAY_DIFFER
    )
    if fitted and fitted.best_epoch is None and not fitted.trainer.fast_dev_run:  # type: ignore
        log.info("No best epoch was saved: the last weights stand for it.")
        fitted.trainer.save_checkpoint(path_of(folder, BEST))
    return fitted


def calibrate(module: InversionModule, datamodule: ImageDataModule, best: Path, device: torch.device) -> None:
    """Calibrates the flow's samples on validation images, at most 1,000, in the module and in its best checkpoint."""
    encoder, decoder, held = module.encoder.to(device), cast(FlowDecoder, module.decoder), datamodule.images("val")
    chosen = held[torch.linspace(0, len(held) - 1, min(1000, len(held))).long()].split(64)
    progress = tqdm(chosen, desc="Calibrating samples", unit="batch", leave=False, disable=None)
    natives = (pixels.normalize(some.to(device)) for some in progress)
    decoder.calibrate((module.standardize(encoder(pixels.resize(images, pixels.INPUT_SIZE))), images) for images in natives)
    save_atomic(best, checkpoints.read(best) | {"state_dict": module.state_dict()})


def description(cfg: DictConfig, fitted: Fitted) -> dict[str, Any]:
    """What `metrics.json` says of a run beside its scores."""
    module: Any = fitted.module
    standardized = isinstance(module.standardize, Standardize)
    return {
        "layer": cfg.layer.name,
        **{name: cfg[name]._target_.rpartition(".")[2] for name in ("decoder", "loss", "data")},
        "data_seed": cfg.data.get("seed"),
        "encoder": expand(cfg.encoder.weights).name,
        "input_stats": cfg.encoder.input_stats,
        "standardize": "whiten" if standardized and module.standardize.whiten else standardized,
        "precision": fitted.trainer.precision,
        "parameters": sum(parameter.numel() for parameter in module.decoder.parameters()),
        "native_size": fitted.datamodule.native_size,
        "seed": cfg.seed,
        "lr": cfg.optimizer.get("lr"),
        "batch_size": cfg.data.batch_size,
        "command": command_line("train.py"),
        "epochs": fitted.trainer.current_epoch,
        "best_epoch": fitted.best_epoch,
    }


HPARAMS = ("layer", "decoder", "loss", "lr", "seed")
"""What the hparams table says of a run beside its scores: TensorBoard shows the first five, by name, and hides the others."""


def publish(cfg: DictConfig, folder: Path, fitted: Fitted, metrics: dict[str, Any]) -> None:
    """Writes the samples and their figure, the loggers' hyperparameters, and last `metrics.json`; says what came out."""
    files, originals = fitted.datamodule.examples("val", cfg.samples)
    columns = columns_of(fitted.module, originals)
    samples = outcome.Samples(files, pixels.to_display(originals), columns.pop("Mean"), columns)
    save_atomic(folder / outcome.SAMPLES_FILE, vars(samples))
    with atomic_file(folder / "samples.png") as file:
        layers_figure(samples.originals, {outcome.title_of(metrics["layer"]): samples.columns}).save(file, "PNG")
    hparams = {name: metrics[name] for name in HPARAMS} | {"trained_epochs": metrics["epochs"]}
    hparams["test_mse"] = metrics.get("test", {}).get("mse", float("nan"))
    scores = {f"val_best/{name}": metrics["val"][name] for name in ("mse", "psnr", "ssim")}  # val/... ends with the last's
    for logger in fitted.trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            (folder / logger.NAME_HPARAMS_FILE).unlink(missing_ok=True)  # empty, from the first epoch on; written anew
            logger.log_hyperparams(hparams, scores, step=fitted.trainer.global_step - 1)
        else:
            logger.log_hyperparams({**hparams, **scores})
        logger.finalize("success")
    outcome.write_metrics(folder, metrics)
    line = "MSE {mse:.5f} PSNR {psnr:.2f} dB SSIM {ssim:.4f}".format_map
    parts = {part: metrics[part] for part in outcome.PARTS if part in metrics}
    said = [f"{part} {line(scores)} (mean image {line(scores[MEAN_IMAGE])})" for part, scores in parts.items()]
    log.info(" | ".join([metrics["layer"], *said, f"{metrics['seconds']:.0f} s", str(folder)]))
