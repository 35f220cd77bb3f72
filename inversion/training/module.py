"""The LightningModule: a frozen encoder, a decoder trained to give its input back."""

from collections.abc import Callable
from hashlib import sha256
from typing import Any, NoReturn

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.data.batches import Batch
from inversion.data.datamodule import ImageDataModule
from inversion.decoders.base import Decoder
from inversion.decoders.flow import FlowDecoder
from inversion.decoders.standardize import Standardize
from inversion.encoders.alexnet import Encoder
from inversion.training.metrics import mean_squared_errors, psnr


class InversionModule(LightningModule):
    """Trains `decoder(standardize(encoder(x)))` towards x; only the decoder learns. The standardisation is fitted before the
    first epoch, the scheduler is stepped once an epoch, and the loss is called as `inversion.decoders.losses` says.
    """

    encoder: Encoder
    loss: Callable[[Tensor, Tensor], Tensor]

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler],
        standardize: Standardize | nn.Identity,
    ) -> None:
        super().__init__()
        # Not registered as submodules: what never changes needs no place in checkpoints or averages of weights.
        self.__dict__["encoder"] = encoder
        self.__dict__["loss"] = loss
        self.decoder = decoder
        self.optimizer, self.scheduler, self.standardize = optimizer, scheduler, standardize

    @property
    def fingerprints(self) -> dict[str, str]:
        """Hashes of what is frozen."""
        digest = sha256()
        for tensor in self.loss.state_dict().values() if isinstance(self.loss, nn.Module) else ():
            digest.update(tensor.cpu().contiguous().numpy().data)
        return {"encoder": self.encoder.digest, "loss": digest.hexdigest()}

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, 227, 227) in [-1, 1] -> their reconstructions, same shape and range."""
        return self.reconstructor(self.encoder.to(images.device)(images))

    @property
    def reconstructor(self) -> nn.Module:
        """Features (B, *feature_shape) -> reconstructions (B, 3, 227, 227) in [-1, 1]."""
        return nn.Sequential(self.standardize, self.decoder)

    def on_fit_start(self) -> None:
        """Has the features cached, fits the standardisation to them, and moves images to a GPU if they fit there."""
        self.encoder.to(self.device)
        if isinstance(self.loss, nn.Module):
            self.loss.to(self.device)
        datamodule: ImageDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        datamodule.use_features(self.encoder, device=self.device)
        if isinstance(self.standardize, Standardize) and not self.standardize.fitted:
            layer, doing = self.encoder.layer, "Measuring the features' statistics"
            with torch.no_grad():
                batches = datamodule.encoded("train", self.encoder, [layer], self.device, doing)
                self.standardize.fit(features[layer] for _, features in batches)
        datamodule.move_to(self.device)

    def _features(self, batch: Batch) -> Tensor:
        noisy = self.training and self.encoder.dropout
        if batch.features is not None and not noisy:
            return batch.features.float()
        return (self.encoder.with_dropout if noisy else self.encoder)(pixels.resize(batch.images, pixels.INPUT_SIZE))

    def _loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        if getattr(self.loss, "resizes", False):
            return self.loss(prediction, target)
        return self.loss(pixels.resize(prediction, pixels.INPUT_SIZE), pixels.resize(target, pixels.INPUT_SIZE))

    def _logged(self, stage: str, loss: Tensor, features: Tensor, batch: Batch, batch_idx: int) -> Tensor:
        """The loss, to which that of a flow is added, if the decoder is one. Logs both."""
        options: Any = {"on_step": False, "on_epoch": True, "batch_size": len(batch.images)}
        if isinstance(self.decoder, FlowDecoder):
            flow_loss = self.decoder.flow_loss(features, batch.images, batch_idx == 0)
            self.log(f"{stage}/flow_loss", flow_loss, **options)
            loss = loss + flow_loss
        self.log(f"{stage}/loss", loss, prog_bar=True, **options)
        return loss

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean of the losses of the predictions (`validation_step` takes the loss of their mean), plus a flow's loss."""
        features = self.standardize(self._features(batch))
        predictions = self.decoder.predictions(features)
        loss = torch.stack([self._loss(prediction.float(), batch.images) for prediction in predictions]).mean()
        return self._logged("train", loss, features, batch, batch_idx)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        features = self.standardize(self._features(batch))
        prediction = self.decoder.predict(features).float()
        self._logged("val", self._loss(prediction, batch.images), features, batch, batch_idx)
        mse = mean_squared_errors(prediction, batch.images)
        self.log_dict({"val/mse": mse.mean(), "val/psnr": psnr(mse).mean()}, on_step=False, on_epoch=True, batch_size=len(mse))

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        scheduler = {"scheduler": self.scheduler(optimizer), "interval": "epoch", "monitor": "val/loss", "name": "train/lr"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *_: Any, **__: Any) -> NoReturn:  # type: ignore[override]
        """Lightning's way, which would need the encoder. Raises InputError, which names the way that works."""
        raise InputError(f"{checkpoint_path} holds no encoder: load it with its run, by inversion.load(RUN'S FOLDER).")
