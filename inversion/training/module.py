"""The LightningModule: a frozen encoder, a decoder trained to give its input back."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from inversion.core import pixels
from inversion.data.batches import Batch
from inversion.data.datamodule import ImageDataModule
from inversion.decoders.base import Decoder
from inversion.decoders.standardize import Standardize
from inversion.encoders.alexnet import Encoder
from inversion.training import checkpoints
from inversion.training.metrics import mean_squared_errors, quick_metrics

FROZEN = ("encoder.", "loss.")
"""Prefixes of weights that never change."""


class InversionModule(LightningModule):
    """Trains `decoder(standardize(encoder(x)))` towards x; only the decoder learns.

    Args:
        encoder: frozen; its weights are in no checkpoint.
        decoder: built for the encoder's feature shape.
        loss: (prediction, target) -> scalar, see `inversion.decoders.losses`.
        optimizer: takes the decoder's parameters.
        scheduler: takes the optimiser; stepped once an epoch.
        standardize: what features pass through before the decoder: nothing, or `Standardize`, which takes its statistics
            before the first epoch.
        metadata: what its checkpoints say of their run, see `checkpoints.metadata`.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler],
        standardize: Standardize | nn.Identity,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.metadata = metadata
        self.encoder = encoder
        self.decoder = decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss = loss
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.standardize = standardize
        self.val_metrics = quick_metrics("val/")

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, 227, 227) in [-1, 1] -> their reconstructions, same shape and range."""
        return self.reconstructor(self.encoder(images))

    @property
    def reconstructor(self) -> nn.Module:
        """Features (B, *feature_shape) -> reconstructions (B, 3, 227, 227) in [-1, 1]."""
        return nn.Sequential(self.standardize, self.decoder)

    def on_fit_start(self) -> None:
        """Has the features cached, takes their statistics, and moves to a GPU what fits there."""
        datamodule: ImageDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        datamodule.cache_features(self.encoder, [self.encoder.layer], self.device)
        if isinstance(self.standardize, Standardize) and not self.standardize.fitted:
            with torch.no_grad():
                self.standardize.fit(datamodule.feature_batches(self.encoder, self.device))
        datamodule.move_to(self.device)

    def _features(self, batch: Batch) -> Tensor:
        if batch.features is not None:
            return batch.features.float()
        return self.encoder(pixels.resize(batch.images, pixels.INPUT_SIZE))

    def _loss(self, drawn: Tensor, target: Tensor) -> Tensor:
        if not len(target):  # DDP may leave no share of a last batch; gradients of zero take part in its sums
            return drawn.sum()
        if getattr(self.loss, "resizes", False):
            return self.loss(drawn, target)
        return self.loss(pixels.resize(drawn, pixels.INPUT_SIZE), pixels.resize(target, pixels.INPUT_SIZE))

    def _log_loss(self, stage: str, loss: Tensor, batch: Batch) -> None:
        number = len(batch.images)
        self.log(f"{stage}/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=number, sync_dist=True)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean of the losses of the decoder's drawings; `validation_step` takes the loss of their mean."""
        drawings = self.decoder.predictions(self.standardize(self._features(batch)))
        loss = torch.stack([self._loss(drawn.float(), batch.images) for drawn in drawings]).mean()
        self._log_loss("train", loss, batch)
        if distributed.is_available() and distributed.is_initialized():  # DDP takes the mean over shares, which may differ
            loss = loss * self.trainer.datamodule.weight_of_share(len(batch.images), batch_idx)  # type: ignore[attr-defined]
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        drawn = self.decoder.predict(self.standardize(self._features(batch))).float()
        self._log_loss("val", self._loss(drawn, batch.images), batch)
        self.val_metrics.update(mean_squared_errors(drawn, batch.images))
        self.log_dict(self.val_metrics, on_step=False, on_epoch=True, batch_size=len(batch.images))

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.decoder.parameters())
        scheduler = {"scheduler": self.scheduler(optimizer), "interval": "epoch", "monitor": "val/loss"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the run's metadata."""
        checkpoint[checkpoints.METADATA] = self.metadata

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Without the frozen encoder, which has a file of its own, and without what a loss compares with."""
        state = super().state_dict(*args, **kwargs)
        return {key: value for key, value in state.items() if not key.startswith(FROZEN)}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Expects the decoder's every key; what is frozen stays as it is."""
        own = {key: value for key, value in super().state_dict().items() if key.startswith(FROZEN)}
        return super().load_state_dict({**state_dict, **own}, strict=strict, assign=assign)
