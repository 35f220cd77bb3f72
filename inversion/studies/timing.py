"""What `experiments/benchmark.py` times: each stage of a layer's training, in the published loop and in this pipeline."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from torch.nn.functional import mse_loss
from torchvision import transforms

from inversion.core import pixels
from inversion.data.batches import Batch
from inversion.data.datamodule import ImageDataModule, to_input
from inversion.encoders.alexnet import LAST_LAYER, Encoder
from inversion.training import checkpoints
from inversion.training.building import build, build_decoder, build_module, build_trainer
from inversion.training.evaluation import Evaluation, MeanImage
from inversion.training.module import InversionModule

STAGES = ("reading", "resizing", "encoder", "decoder forward", "backward", "optimiser", "validation", "logging")
"""`resizing` includes normalising, which is all the pipeline does of it; `decoder forward` includes the loss."""
SAMPLE = 200
"""Training images on which decoding and encoding are timed."""
VAL_BATCHES = 3
"""Batches on which validation is timed."""

Times = dict[str, float]
"""What one side takes on one layer, in seconds: `step` and all of `STAGES` but the last two per training image, `validation`
per validation image, `statistics` (of the features) per run, `checkpoints` per epoch, `scoring` per image that is scored
(the mean image's score included)."""


def now(device: torch.device) -> float:
    """A clock's seconds, once the device has done all it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def timed(device: torch.device, work: Callable[[], Any]) -> float:
    """The seconds that the work takes."""
    started = now(device)
    work()
    return now(device) - started


class Laps:
    """Adds up the seconds of each stage, from one lap to the next."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(STAGES[:-2], 0.0)
        self.last = now(device)

    def lap(self, stage: str) -> None:
        before, self.last = self.last, now(self.device)
        self.seconds[stage] += self.last - before

    def per_image(self, images: int) -> Times:
        return {stage: seconds / images for stage, seconds in self.seconds.items()}


class Stopwatch(Callback):
    """Times what the Trainer really takes: before the first step, for all steps but the first, for validation, and for
    saving both checkpoints into the folder.
    """

    def __init__(self, device: torch.device, folder: Path) -> None:
        self.device = device
        self.folder = folder
        self.validated = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = now(self.device)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.preparing = now(self.device) - self.started

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self.started = now(self.device)
        if trainer.is_last_batch:
            self.training = now(self.device) - self.started

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        def save() -> None:
            trainer.save_checkpoint(checkpoints.path_of(self.folder, checkpoints.BEST), weights_only=True)
            trainer.save_checkpoint(checkpoints.path_of(self.folder, checkpoints.LAST))

        self.saving = timed(self.device, save)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = now(self.device)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: int) -> None:
        self.validated += len(batch.images)
        self.validating = now(self.device) - self.started


def time_published(cfg: DictConfig, encoder: Encoder, device: torch.device) -> Times:
    """Side a: a training loop in plain PyTorch, on the images of the pipeline's first batches."""
    datamodule = build("data", cfg.data)
    datamodule.setup("fit")
    split, size = datamodule.split, datamodule.batch_size
    train = [split.path(split.train[i]) for i in datamodule.train_dataloader().sampler]
    val = [split.path(name) for name in split.val[: VAL_BATCHES * size]]
    side = (pixels.INPUT_SIZE, pixels.INPUT_SIZE)
    normalize = transforms.Normalize(pixels.MEAN, pixels.STD)
    prepare = transforms.Compose([transforms.Resize(side), transforms.ToTensor(), normalize])
    encoder.to(device)
    decoder = build_decoder(cfg.decoder, encoder, datamodule.native_size).to(device)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4)

    def loss_of(paths: Sequence[Path], laps: Laps) -> Tensor:
        pictures = [Image.open(path).convert("RGB") for path in paths]
        laps.lap("reading")
        images = torch.stack([prepare(picture) for picture in pictures]).to(device)
        laps.lap("resizing")
        with torch.no_grad():
            features = encoder(images)
        laps.lap("encoder")
        loss = mse_loss(pixels.resize(decoder.predict(features), pixels.INPUT_SIZE), images)
        laps.lap("decoder forward")
        return loss

    def run(steps: range, laps: Laps) -> None:
        for i in steps:
            loss = loss_of(train[i * size : (i + 1) * size], laps)
            optimizer.zero_grad()
            loss.backward()
            laps.lap("backward")
            optimizer.step()
            laps.lap("optimiser")

    @torch.no_grad()
    def validate() -> None:
        for i in range(0, len(val), size):
            loss_of(val[i : i + size], unread)

    unread = Laps(torch.device("cpu"))  # never waits for a GPU
    run(range(1), unread)
    steps, laps = range(1, cfg.steps + 1), Laps(device)
    seconds = timed(device, lambda: run(steps, laps))
    if device.type != "cpu":  # which works on while the next images are read, unless it is waited for at every stage
        seconds = timed(device, lambda: run(steps, unread))
    times = {"step": seconds / (cfg.steps * size), "validation": timed(device, validate) / len(val)}
    encoder.cpu()  # the next layer's peak memory is its own
    return times | laps.per_image(cfg.steps * size) | dict.fromkeys(("statistics", "checkpoints", "scoring"), 0.0)


def time_pipeline(cfg: DictConfig, encoder: Encoder, folder: Path) -> Times:
    """Sides b and c: a short run as train.py does it, then the same steps by hand, stage by stage."""
    datamodule = build("data", cfg.data)
    datamodule.setup("fit")
    model = build_module(InversionModule, cfg, encoder, datamodule.native_size)
    trainer = build_trainer(cfg, folder)
    device = trainer.strategy.root_device
    watch = Stopwatch(device, folder)
    trainer.callbacks.append(watch)  # type: ignore[attr-defined]
    trainer.logger = TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False)
    trainer.fit(model, datamodule=datamodule)

    model.trainer = None  # so that its steps log nothing
    model.to(device).train()
    optimizer = model.configure_optimizers()["optimizer"]
    batches = iter(datamodule.train_dataloader())
    for i in range(cfg.steps + 1):
        if i < 2:  # the first step warms up
            laps = Laps(device)
        batch = datamodule.transfer_batch_to_device(next(batches), device, 0)
        laps.lap("reading")
        batch = datamodule.on_after_batch_transfer(batch, 0)
        laps.lap("resizing")
        with trainer.precision_plugin.train_step_context():
            batch = batch._replace(features=model._features(batch))
            laps.lap("encoder")
            loss = model.training_step(batch, i)
        laps.lap("decoder forward")
        optimizer.zero_grad()
        loss.backward()
        laps.lap("backward")
        optimizer.step()
        laps.lap("optimiser")

    mean_image = MeanImage(pixels.resize(datamodule.mean_image()[None], pixels.INPUT_SIZE)[0])
    decoders = {"decoder": model.reconstructor, "mean image": mean_image}
    network = build("encoder", cfg.encoder, layer=LAST_LAYER)
    evaluation = Evaluation(network, encoder.layer, decoders, datamodule.native_size, mean_distance=1.0).to(device).eval()

    @torch.no_grad()
    def score(native: Tensor) -> None:
        with trainer.precision_plugin.test_step_context():
            evaluation.test_step(Batch(to_input(native.to(device)), None, torch.empty(0)), 0)

    val = datamodule.images("val")[: datamodule.batch_size]
    score(val[:2])  # warms up
    images = cfg.steps * datamodule.batch_size
    scoring = timed(device, lambda: score(val)) / len(val)
    encoder.cpu()  # the next layer's peak memory is its own
    return laps.per_image(images) | {
        "step": watch.training / images,
        "validation": watch.validating / watch.validated,
        "statistics": watch.preparing,
        "checkpoints": watch.saving,
        "scoring": scoring,
    }


def time_preparation(
    cfg: DictConfig, whole: ImageDataModule, encoder: Encoder, layers: Sequence[str], device: torch.device, folder: Path
) -> tuple[float, float]:
    """Seconds per image for decoding, and for encoding for these layers in one pass, into a cache in the folder."""
    cache = None if cfg.data.cache is None else str(folder / "cache")
    sample = build("data", cfg.data, cache=cache, native_size=whole.native_size)
    train, val = whole.split.train, whole.split.val
    sample._split = replace(whole.split, train=train[:: -(-len(train) // SAMPLE)], val=val[: SAMPLE // 10])
    images = len(sample.split.train) + len(sample.split.val)
    decoding = timed(device, lambda: sample.setup("fit"))
    encoding = timed(device, lambda: sample.cache_features(encoder, layers, device)) if layers else 0.0
    return decoding / images, encoding / encoded_images(
        {"train": len(sample.split.train), "val": len(sample.split.val)}, sample.flip
    )


def encoded_images(images: Mapping[str, int], flip: bool) -> int:
    """How many images of these parts have their features cached."""
    return images["train"] * (1 + flip) + images["val"]
