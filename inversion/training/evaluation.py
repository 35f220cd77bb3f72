"""The final scores of a split, for a trained decoder and for always giving the training set's mean image."""

import math
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from inversion.core import pixels
from inversion.data.datamodule import ImageDataModule
from inversion.encoders.alexnet import LAST_LAYER, Encoder
from inversion.training.metrics import FeatureMetrics, FinalMetrics, mean_pairwise_distance, similarities

DECODER, MEAN_IMAGE = "decoder", "mean_image"


@torch.no_grad()
def evaluate(
    decoder: nn.Module, layer: str, network: Encoder, datamodule: ImageDataModule, part: str, device: torch.device
) -> dict[str, Any]:
    """Scores on a part (`val` or `test`), in float32 whatever the training's precision was: `FinalMetrics`' and
    `FeatureMetrics`' numbers by name, and those of the training images' mean under `mean_image`.

    The decoder takes the layer's features (B, *feature_shape) to images (B, 3, 227, 227) in [-1, 1], and is put into eval
    mode. The network is the encoder as deep as its weights go; without a head, `top1_agreement` is nan.
    """
    network.to(device)
    decoder.to(device).eval()
    layers = [layer, network.layer]
    mean_image = pixels.resize(datamodule.mean_image()[None], pixels.INPUT_SIZE).to(device)
    of_mean_image = network.features(mean_image, layers)
    distance = mean_pairwise_distance(datamodule.images(part))
    of_images = {name: FinalMetrics(datamodule.native_size, distance).to(device) for name in (DECODER, MEAN_IMAGE)}
    of_features = {name: FeatureMetrics().to(device) for name in of_images}
    for batch in tqdm(datamodule.loader(part), desc=f"Scoring {part} images", unit="batch", leave=False, disable=None):
        images = pixels.to_input(batch.images.to(device))
        features = network.features(images, layers)
        reconstructions = decoder(features[layer])
        given = {
            DECODER: (reconstructions, network.features(reconstructions, layers)),
            MEAN_IMAGE: (mean_image.expand(len(images), -1, -1, -1), of_mean_image),
        }
        ssim = similarities([pixels.denormalize(some) for some in (reconstructions, mean_image)], pixels.denormalize(images))
        for (name, (found, seen)), similarity in zip(given.items(), ssim, strict=True):
            of_images[name].update(found, images, similarity)
            of_features[name].update(*(each[one] for one in layers for each in (seen, features)))
    scores = {name: {**of_images[name].compute(), **of_features[name].compute()} for name in of_images}
    if network.layer != LAST_LAYER:
        for numbers in scores.values():
            numbers["top1_agreement"] = math.nan
    return {**scores[DECODER], MEAN_IMAGE: scores[MEAN_IMAGE]}
