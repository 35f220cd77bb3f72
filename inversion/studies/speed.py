"""How long one layer's training takes, in the published loop and in this pipeline."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from torch.nn.functional import mse_loss
from torchvision import transforms

from inversion.core import pixels
from inversion.data.datamodule import ImageDataModule
from inversion.data.split import Split
from inversion.encoders.alexnet import LAST_LAYER
from inversion.training.building import build, build_decoder, build_module, build_trainer
from inversion.training.evaluation import evaluate
from inversion.training.module import InversionModule

Times = dict[str, float]
"""Seconds for one layer: `statistics` (of the features) and `training` per training image, `validation` per validation image,
`checkpoints` per epoch, `scoring` per scored image.
"""


def now(device: torch.device) -> float:
    """Seconds on a clock, once the device has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def timed(device: torch.device, work: Callable[[], Any]) -> float:
    """The seconds that this work takes."""
    started = now(device)
    work()
    return now(device) - started


def datamodule_of(cfg: DictConfig, split: Split) -> ImageDataModule:
    """The config's datamodule, of these images alone."""
    datamodule = build("data", cfg.data)
    datamodule.find_split = lambda: split
    return datamodule


def time_published(cfg: DictConfig, split: Split, device: torch.device) -> Times:
    """One epoch and its validation as a loop in plain PyTorch. The first step warms up and isn't counted."""
    datamodule, side = datamodule_of(cfg, split), (pixels.INPUT_SIZE, pixels.INPUT_SIZE)
    size = datamodule.batch_size
    train = [datamodule.files_of_batch(0, i) for i in range(len(split.train) // size)]
    val = [split.val[i : i + size] for i in range(0, len(split.val), size)]
    prepare = transforms.Compose(
        [transforms.Resize(side), transforms.ToTensor(), transforms.Normalize(pixels.MEAN, pixels.STD)]
    )
    encoder = build("encoder", cfg.encoder).to(device)
    decoder = build_decoder(cfg.decoder, encoder, datamodule.native_size).to(device)
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
    training = timed(device, lambda: fit(train[1:])) / (len(train) - 1) / size
    with torch.no_grad():
        validation = timed(device, lambda: [loss_of(files) for files in val]) / len(split.val)
    return {"statistics": 0.0, "training": training, "validation": validation, "checkpoints": 0.0, "scoring": 0.0}


class Stopwatch(Callback):
    """Notes when a fit of one epoch comes to which hook; `first_step` is when its first step is done."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.at: dict[str, float] = {}

    def on_fit_start(self, *_: Any) -> None:
        self.at["fit_start"] = now(self.device)

    def on_train_start(self, *_: Any) -> None:
        self.at["train_start"] = now(self.device)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 1:
            self.at["first_step"] = now(self.device)

    def on_validation_start(self, *_: Any) -> None:
        self.at["validation_start"] = now(self.device)

    def on_validation_epoch_end(self, *_: Any) -> None:
        self.at["validation_end"] = now(self.device)


def time_pipeline(cfg: DictConfig, split: Split, folder: Path) -> Times:
    """One epoch as train.py runs it, and the scores of its validation images. The first step warms up and isn't counted."""
    datamodule, encoder = datamodule_of(cfg, split), build("encoder", cfg.encoder)
    module, trainer = build_module(InversionModule, cfg, encoder, datamodule.native_size), build_trainer(cfg, folder)
    device = trainer.strategy.root_device
    watch = Stopwatch(device)
    trainer.callbacks.insert(0, watch)  # type: ignore[attr-defined]
    trainer.logger = TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False)
    trainer.fit(module, datamodule=datamodule)

    def save() -> None:
        for weights_only in (True, False):
            trainer.save_checkpoint(folder / "timed.ckpt", weights_only)

    def score() -> None:
        evaluate(module.reconstructor, encoder.layer, network, datamodule, "val", device)

    at, network = watch.at, build("encoder", cfg.encoder, layer=LAST_LAYER)
    return {
        "statistics": (at["train_start"] - at["fit_start"]) / len(split.train),
        "training": (at["validation_start"] - at["first_step"]) / (len(split.train) - datamodule.batch_size),
        "validation": (at["validation_end"] - at["validation_start"]) / len(split.val),
        "checkpoints": timed(device, save),
        "scoring": timed(device, score) / len(split.val),
    }
