"""The final scores of a split, for a trained decoder and for always giving the training set's mean image."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from inversion.core import pixels
from inversion.data.datamodule import ImageDataModule
from inversion.encoders.alexnet import LAST_LAYER, Encoder
from inversion.training.metrics import FeatureMetrics, FinalMetrics, mean_pairwise_distance

MEAN_IMAGE = "mean_image"


@torch.no_grad()
def evaluate(
    decoder: nn.Module, layer: str, network: Encoder, datamodule: ImageDataModule, part: str, device: torch.device
) -> dict[str, Any]:
    """Scores on a part (`val` or `test`), in float32 whatever the training's precision was: `FinalMetrics`' and
    `FeatureMetrics`' numbers by name, and those of the training images' mean under `mean_image`.

    The decoder takes the layer's features (B, *feature_shape) to images (B, 3, 227, 227) in [-1, 1], and is put into eval
    mode. The network is the encoder as deep as its weights go; without a head, `top1_agreement` is nan.
    """
    mean_image = pixels.resize(datamodule.mean_image()[None], pixels.INPUT_SIZE).to(device)
    decoders: dict[str, Callable[[Tensor], Tensor]] = {
        "decoder": decoder.to(device).eval(),
        MEAN_IMAGE: lambda features: mean_image.expand(len(features), -1, -1, -1),
    }
    distance = mean_pairwise_distance(datamodule.images(part))
    of_images = {name: FinalMetrics(datamodule.native_size, distance).to(device) for name in decoders}
    of_features = {name: FeatureMetrics().to(device) for name in decoders}
    network.to(device)
    layers = [layer, network.layer]
    for batch in tqdm(datamodule.loader(part), desc=f"Scoring {part} images", unit="batch", leave=False, disable=None):
        images = pixels.to_input(batch.images.to(device))
        features = network.features(images, layers)
        for name, decode in decoders.items():
            reconstructions = decode(features[layer])
            again = network.features(reconstructions[:1] if name == MEAN_IMAGE else reconstructions, layers)
            of_images[name].update(reconstructions, images)
            of_features[name].update(*(found[layer] for layer in layers for found in (again, features)))
    scores = {name: {**of_images[name].compute(), **of_features[name].compute()} for name in decoders}
    if network.layer != LAST_LAYER:
        for numbers in scores.values():
            numbers["top1_agreement"] = math.nan
    return {**scores["decoder"], MEAN_IMAGE: scores[MEAN_IMAGE]}
