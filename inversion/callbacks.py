"""What is shown while a decoder trains: a bar and a line per epoch, a grid of reconstructions, the speed."""

import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from inversion import pixels
from inversion.datamodule import Batch
from inversion.errors import InputError
from inversion.figures import pairs_grid

log = logging.getLogger(__name__)


@torch.no_grad()
def reconstruct(model: LightningModule, images: Tensor) -> Tensor:
    """Images (B, 3, 227, 227) in [-1, 1] -> their reconstructions as pictures, uint8, on the CPU. Leaves the model's
    mode as it was.
    """
    was_training = model.training
    model.eval()
    pictures = pixels.to_uint8(pixels.denormalize(model(images.to(model.device)))).cpu()
    model.train(was_training)
    return pictures


class ReconstructionGrid(Callback):
    """Shows the same validation images, original beside reconstruction, in TensorBoard as training goes on.

    Args:
        images: how many.
        times: at how many epochs of the run at most, evenly spaced, the last among them.
    """

    def __init__(self, images: int = 8, times: int = 10) -> None:
        if images < 1 or times < 1:
            raise InputError(f"callbacks.grid.images={images} and callbacks.grid.times={times} must be at least 1.")
        self.images = images
        self.times = times

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        every = -(-(trainer.max_epochs or 1) // self.times)
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.sanity_checking or not (last or (trainer.current_epoch + 1) % every == 0):
            return
        if isinstance(trainer.logger, TensorBoardLogger):
            _, originals = trainer.datamodule.samples("val", self.images)  # type: ignore[attr-defined]
            pictures = pixels.to_uint8(pixels.denormalize(originals))
            grid = pairs_grid(pictures, reconstruct(pl_module, originals))
            trainer.logger.experiment.add_image("val/reconstructions", grid, trainer.global_step)


class MovableCheckpoint(ModelCheckpoint):
    """A checkpoint of a run whose folder may be moved: it goes on knowing which epoch was best. `ModelCheckpoint` alone
    would forget it, and put the next epoch in its place.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return str(Path(self.dirpath or "") / Path(path).name) if path else path

        moved = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        kept = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": kept, "dirpath": self.dirpath})


class LastCheckpoint(MovableCheckpoint):
    """The state after a whole epoch, from which a run can go on: after the first, the last, and any that ends at least
    `seconds` after the one saved before, so that short epochs don't spend their time on writing.

    Args:
        seconds: see above.
        **options: `ModelCheckpoint`'s.
    """

    def __init__(self, seconds: float = 20, **options: Any) -> None:
        super().__init__(save_on_train_epoch_end=True, **options)
        self.seconds = seconds
        self.saved = -math.inf

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        is_last = trainer.current_epoch + 1 == trainer.max_epochs
        if is_last or time.monotonic() - self.saved >= self.seconds:
            super().on_train_epoch_end(trainer, pl_module)
            self.saved = time.monotonic()


class ImagesPerSecond(Callback):
    """Logs `train/images_per_second`: training images over the wall time of the epoch's training part."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.images = 0
        self.started = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds, self.images = 0.0, 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.images += len(batch.images)
        if trainer.is_last_batch:
            if pl_module.device.type != "cpu":
                torch.accelerator.synchronize()
            self.seconds = time.perf_counter() - self.started

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.seconds:
            pl_module.log("train/images_per_second", self.images / self.seconds)


SHOWN = {
    "train/loss": "train loss {:.5f}",
    "val/loss": "val loss {:.5f}",
    "val/psnr": "val PSNR {:.2f} dB",
    "val/top1": "val top-1 {:.1%}",
    "train/images_per_second": "{:.0f} images/s",
}
"""What the line per epoch says, where it was logged."""


class Progress(TQDMProgressBar):
    """A bar where a person looks on, and in any case one line per epoch, which the run's log keeps.

    Args:
        refresh_rate: batches between two updates of the bar.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate if sys.stderr.isatty() else 0, leave=False)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Without Lightning's `v_num`, which here is no number."""
        return {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        values = trainer.callback_metrics
        shown = [label.format(float(values[name])) for name, label in SHOWN.items() if name in values]
        log.info("  ".join([f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", *shown]))
