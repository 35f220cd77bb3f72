"""The final numbers of a split, for a trained decoder or for always giving the training set's mean image."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from inversion import pixels
from inversion.datamodule import Batch, ImageDataModule, to_input
from inversion.metrics import FinalMetrics, mean_pairwise_distance


class MeanImage(nn.Module):
    """The floor of every score: gives the training set's mean image whatever it sees.

    Args:
        image: (3, 227, 227) in [-1, 1].
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.register_buffer("image", image)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 227, 227) -> the mean image B times."""
        return self.image.expand_as(images)  # type: ignore[operator]


class Evaluation(LightningModule):
    """Runs a model of images -> reconstructions over a loader and collects `FinalMetrics`."""

    def __init__(self, model: nn.Module, metrics: FinalMetrics) -> None:
        super().__init__()
        self.model = model
        self.metrics = metrics

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return batch._replace(images=to_input(batch.images))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.metrics.update(self.model(batch.images), batch.images)


_mean_image_scores: dict[tuple[str, str, str, int], dict[str, float]] = {}


def evaluate(model: nn.Module, datamodule: ImageDataModule, part: str, trainer: Trainer) -> dict[str, Any]:
    """Scores `model` and the mean image on the part (`val` or `test`).

    The mean image's scores depend on the split alone, so within a process they are computed once per split.

    Args:
        model: images (B, 3, 227, 227) in [-1, 1] -> reconstructions of that shape.
        datamodule: its training images make the mean image.
        part: `val` or `test`.
        trainer: on one device, without a logger.

    Returns:
        `FinalMetrics`' numbers by name, and the mean image's under `mean_image`.
    """
    native = datamodule.images(part)
    distance = mean_pairwise_distance(native)

    def scores(model: nn.Module) -> dict[str, float]:
        metrics = FinalMetrics(datamodule.native_size, distance)
        evaluation = Evaluation(model, metrics)
        with torch.no_grad():
            trainer.test(evaluation, datamodule.loader(part), verbose=False)
        return metrics.compute()

    key = (str(datamodule.split.root), datamodule.split.digest, part, datamodule.native_size)
    if key not in _mean_image_scores:
        _mean_image_scores[key] = scores(MeanImage(pixels.resize(datamodule.mean_image()[None], pixels.INPUT_SIZE)[0]))
    return {**scores(model), "mean_image": dict(_mean_image_scores[key])}
