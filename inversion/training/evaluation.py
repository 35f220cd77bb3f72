"""The final numbers of a split, for a trained decoder and for always giving the training set's mean image."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from inversion.core import pixels
from inversion.data.batches import Batch
from inversion.data.datamodule import ImageDataModule, to_input
from inversion.encoders.alexnet import LAST_LAYER, Encoder
from inversion.training.metrics import FeatureMetrics, FinalMetrics, mean_pairwise_distance

MEAN_IMAGE = "mean_image"


class MeanImage(nn.Module):
    """The floor of every score: gives the training set's mean image whatever it is fed.

    Args:
        image: (3, 227, 227) in [-1, 1].
    """

    image: Tensor

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.register_buffer("image", image)

    def forward(self, features: Tensor) -> Tensor:
        """(B, ...) -> the mean image B times, all of them the same memory."""
        return self.image.expand(len(features), -1, -1, -1)


class Evaluation(LightningModule):
    """Runs decoders of one layer over a loader of images, and collects their metrics.

    Args:
        network: the whole encoder, to its last layer.
        layer: whose features are decoded.
        decoders: name -> features (B, *feature_shape) to images (B, 3, 227, 227) in [-1, 1].
        native_size, mean_distance: see `FinalMetrics`.
    """

    def __init__(
        self, network: Encoder, layer: str, decoders: Mapping[str, nn.Module], native_size: int, mean_distance: float
    ) -> None:
        super().__init__()
        self.network = network
        self.layer = layer
        self.decoders = nn.ModuleDict(decoders)
        self.of_images = nn.ModuleDict({name: FinalMetrics(native_size, mean_distance) for name in decoders})
        self.of_features = nn.ModuleDict({name: FeatureMetrics() for name in decoders})

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return batch._replace(images=to_input(batch.images))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        layers = [self.layer, LAST_LAYER]
        seen = self.network.features(batch.images, layers)
        for name, decoder in self.decoders.items():
            images = decoder(seen[self.layer])
            again = self.network.features(images[:1] if images.stride(0) == 0 else images, layers)  # the mean image once
            self.of_images[name].update(images, batch.images)  # type: ignore[operator]
            self.of_features[name].update(*(found[layer] for layer in layers for found in (again, seen)))  # type: ignore[operator]

    def scores(self) -> dict[str, Any]:
        """name -> number, of each decoder."""
        groups = (self.of_images, self.of_features)
        return {name: {k: v for group in groups for k, v in group[name].compute().items()} for name in self.decoders}  # type: ignore


def evaluate(
    decoder: nn.Module, layer: str, network: Encoder, datamodule: ImageDataModule, part: str, trainer: Trainer
) -> dict[str, Any]:
    """Scores the decoder and the mean image on the part (`val` or `test`).

    Args:
        decoder: features of the layer (B, *feature_shape) -> images (B, 3, 227, 227) in [-1, 1].
        layer: whose features are decoded.
        network: the whole encoder, to its last layer.
        datamodule: its training images make the mean image.
        part: `val` or `test`.
        trainer: on one device, without a logger.

    Returns:
        `FinalMetrics`' and `FeatureMetrics`' numbers by name, and the mean image's under `mean_image`.
    """
    mean_image = MeanImage(pixels.resize(datamodule.mean_image()[None], pixels.INPUT_SIZE)[0])
    decoders = {"decoder": decoder, MEAN_IMAGE: mean_image}
    distance = mean_pairwise_distance(datamodule.images(part))
    evaluation = Evaluation(network, layer, decoders, datamodule.native_size, distance)
    with torch.no_grad():
        trainer.test(evaluation, datamodule.loader(part), verbose=False)
    scores = evaluation.scores()
    return {**scores["decoder"], MEAN_IMAGE: scores[MEAN_IMAGE]}
