"""AlexNet learnt as a classifier: for an encoder of one's own where ImageNet's weights can't be had, and as a control."""

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import OneCycleLR
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchvision.models import alexnet
from torchvision.transforms.v2 import RandomResizedCrop

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.data.batches import Batch
from inversion.encoders.alexnet import check_input_stats, with_input_stats


class Classifier(LightningModule):
    """torchvision's AlexNet, trained from scratch by AdamW with one cycle of the learning rate (Smith & Topin 2018). Each
    training batch is cropped at one random place to a random share of the images, and resized to 227 x 227; mirroring is the
    data's (`data.flip`). conf/train_encoder.yaml explains the options; one out of its range raises InputError.
    """

    def __init__(
        self, classes: int, input_stats: str, lr: float, weight_decay: float, label_smoothing: float, smallest_crop: float
    ) -> None:
        super().__init__()
        check_input_stats("input_stats", input_stats)
        if classes < 2:
            raise InputError(f"A classifier needs at least 2 classes, and the data has {classes}: raise data.classes.")
        if not 0 < smallest_crop <= 1:
            raise InputError(f"classifier.smallest_crop={smallest_crop} must lie in (0, 1].")
        if not 0 <= label_smoothing < 1:
            raise InputError(f"classifier.label_smoothing={label_smoothing} must lie in [0, 1).")
        if lr <= 0 or weight_decay < 0:
            raise InputError(f"classifier.lr={lr} must be above 0, and classifier.weight_decay={weight_decay} at least 0.")
        self.network: nn.Module = alexnet(num_classes=classes)
        self.input_stats = input_stats
        self.lr, self.weight_decay, self.label_smoothing = lr, weight_decay, label_smoothing
        self.crop = RandomResizedCrop(pixels.INPUT_SIZE, scale=(smallest_crop, 1))
        top: Any = {f"top{k}": MulticlassAccuracy(classes, top_k=k, average="micro") for k in (1, 5) if k <= classes}
        accuracies = MetricCollection(top, compute_groups=False)
        self.accuracies = nn.ModuleDict({f"of_{stage}": accuracies.clone(f"{stage}/") for stage in ("train", "val", "test")})

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, 227, 227) in [-1, 1] -> logits (B, classes)."""
        return self.network(with_input_stats(images, self.input_stats))

    def _step(self, batch: Batch, stage: str) -> Tensor:
        resize = self.crop if stage == "train" else lambda images: pixels.resize(images, pixels.INPUT_SIZE)
        logits = self(resize(batch.images)).float()
        loss = cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing if stage == "train" else 0.0)
        accuracies = self.accuracies[f"of_{stage}"]
        accuracies.update(logits, batch.labels)  # type: ignore[operator]
        options = {"on_step": False, "on_epoch": True, "batch_size": len(logits)}
        self.log(f"{stage}/loss", loss, prog_bar=True, **options)  # type: ignore[arg-type]
        self.log_dict(accuracies, **options)  # type: ignore[arg-type]
        return loss

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "test")

    def configure_optimizers(self) -> Any:
        fused = not self.trainer.gradient_clip_val or self.trainer.precision == "32-true"  # mixed precision can't clip fused
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=fused)
        cycle = OneCycleLR(optimizer, self.lr, total_steps=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}
