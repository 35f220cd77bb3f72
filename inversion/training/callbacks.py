"""Callbacks: checkpoints that resume exactly, the guard against losses that are not finite, and what is shown meanwhile."""

import logging
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from inversion.core import pixels
from inversion.core.drawing import images_grid, sample_columns
from inversion.core.errors import InputError
from inversion.data.batches import Batch, hashed_seed
from inversion.decoders.flow import FlowDecoder

log = logging.getLogger(__name__)


class MovableCheckpoint(ModelCheckpoint):
    """A checkpoint in the run's folder, which may be moved: `ModelCheckpoint` alone would then forget which epoch was best."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return str(Path(self.dirpath or "") / Path(path).name) if path else path

        moved: dict[str, Any] = {key: here(path) for key, path in state_dict.items() if key.endswith("_model_path")}
        moved["best_k_models"] = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "dirpath": self.dirpath})


class LastCheckpoint(MovableCheckpoint):
    """The state at the end of an epoch, from which a run can be resumed: after the first, the last, and any that ends at least
    `seconds` after the one saved before. It is written at the next epoch's start, since Lightning steps schedulers and writes
    curves after an epoch's end. The options are `ModelCheckpoint`'s.
    """

    def __init__(self, seconds: float = 20, **options: Any) -> None:
        super().__init__(save_on_train_epoch_end=True, **options)
        self.seconds, self.saved = seconds, -math.inf
        self.ended: dict[str, Any] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ended = {"epoch": trainer.current_epoch, "loop": trainer.fit_loop.state_dict()}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if time.monotonic() - self.saved >= self.seconds:
            self._save(trainer, pl_module)
        self.ended = {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, pl_module)

    def _save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.ended:
            for logger in trainer.loggers:
                logger.save()
            super().on_train_epoch_end(trainer, pl_module)
            self.saved = time.monotonic()
            self.ended = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Dates it back to the end of the epoch, since when no step was taken."""
        if self.ended:
            checkpoint["epoch"] = self.ended["epoch"]
            checkpoint["loops"]["fit_loop"] = self.ended["loop"]


class SeededEpochs(Callback):
    """Random numbers in training follow seed and epoch alone, so a resumed run repeats them. Counts a run's seconds."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.started, self.before = time.perf_counter(), 0.0

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = state_dict["seconds"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seed_everything(hashed_seed(self.seed, trainer.current_epoch), verbose=False)


class FiniteLoss(Callback):
    """Ends a run whose losses or weights are no longer finite after an epoch, before they reach a checkpoint."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._check(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer, pl_module)

    def _check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        losses = [value for name, value in trainer.callback_metrics.items() if name.endswith("loss")]
        if all(value.isfinite().all() for value in (*losses, *pl_module.parameters())):
            return
        saved = [Path(one.dirpath or "") / f"{one.filename}.ckpt" for one in trainer.checkpoint_callbacks[::-1]]  # type: ignore
        good = next((str(path) for path in saved if path.is_file()), "none yet")
        raise InputError(
            f"The loss or a weight is not finite after epoch {trainer.current_epoch + 1}: lower optimizer.lr or look at the "
            f"images; the last good checkpoint is {good}."
        )


class ReconstructionGrid(Callback):
    """Logs `images` validation images beside their reconstructions, at most `times` times, evenly spaced, at the end too."""

    def __init__(self, images: int = 8, times: int = 10) -> None:
        if images < 1 or times < 1:
            raise InputError(f"callbacks.grid.images={images} and callbacks.grid.times={times} must be at least 1.")
        self.images, self.times = images, times

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs or 1
        is_due = epoch == epochs or epoch % math.ceil(epochs / self.times) == 0
        if trainer.sanity_checking or not is_due or not trainer.loggers:
            return
        _, originals = trainer.datamodule.examples("val", self.images)  # type: ignore[attr-defined]
        columns = [pixels.to_display(originals), *columns_of(pl_module, originals).values()]
        grids = {"val/reconstructions": images_grid(columns[:2], pairs=2)}
        if len(columns) > 2:
            grids["val/samples"] = images_grid(columns)
        step = trainer.global_step - 1  # at which Lightning logs an epoch's numbers
        for logger in trainer.loggers:
            for name, grid in grids.items():
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image(name, grid, step)
                elif isinstance(logger, WandbLogger):
                    logger.log_image(name, [to_pil_image(grid)], step)


@torch.no_grad()
def columns_of(model: LightningModule, images: Tensor) -> dict[str, Tensor]:
    """Images (B, 3, 227, 227) in [-1, 1] -> uint8 columns by title: `Mean`, and samples. The model's mode stays."""
    was_training, decoder, images = model.training, model.decoder, images.to(model.device)
    model.eval()
    columns = {"Mean": pixels.to_display(model(images))}
    if isinstance(decoder, FlowDecoder):
        columns |= sample_columns(decoder.samples(model.standardize(model.encoder(images)), number=4, seed=0))  # type: ignore
    model.train(was_training)
    return columns


class Curves(TensorBoardLogger):
    """TensorBoard's curves without that of the epoch's number, which would come first. The options are its own."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)


class ImagesPerSecond(Callback):
    """Logs `train/images_per_second`: training images over the seconds from an epoch's first batch to its last."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.started, self.images = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.images += len(batch.images)
        if trainer.is_last_batch:
            if pl_module.device.type != "cpu":
                torch.accelerator.synchronize()
            rate = self.images / (time.perf_counter() - self.started)
            pl_module.log("train/images_per_second", rate, on_step=False, on_epoch=True, batch_size=1)


class Progress(TQDMProgressBar):
    """A bar on a terminal, updated every `refresh_rate` batches, and in any case one line per epoch in the run's log."""

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate if sys.stderr.isatty() else 0, leave=False)
        self.validated = -1  # the last epoch that was

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        self.validated = trainer.current_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        labels = {
            "train/loss": "train loss {:.5f}",
            "val/loss": "val loss {:.5f}",
            "val/psnr": "val PSNR {:.2f} dB",
            "val/top1": "val top-1 {:.1%}",
            "train/images_per_second": "{:.0f} images/s",
        }
        values, is_new = trainer.callback_metrics, self.validated == trainer.current_epoch  # else val/... are an earlier one's
        shown = [label.format(float(values[n])) for n, label in labels.items() if n in values and (is_new or "train" in n)]
        log.info("  ".join([f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", *shown]))
