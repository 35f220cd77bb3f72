"""The final scores of a split, for a trained decoder and for always giving the training set's mean image."""

import math
from typing import Any

import torch
from torch import nn

from inversion.core import pixels
from inversion.data.datamodule import ImageDataModule
from inversion.encoders.alexnet import LAST_LAYER, Encoder
from inversion.training.metrics import FeatureMetrics, FinalMetrics, image_scores, mean_pairwise_distance

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
    layers = list(dict.fromkeys([layer, network.layer]))
    size = datamodule.native_size
    mean_image = pixels.resize(datamodule.mean_image()[None], pixels.INPUT_SIZE).to(device)
    of_mean_image = network.features(mean_image, layers)
    distance = mean_pairwise_distance(datamodule.images(part))
    of_images = {name: FinalMetrics(size, distance).to(device) for name in (DECODER, MEAN_IMAGE)}
    of_features = {name: FeatureMetrics().to(device) for name in of_images}
    for natives, features in datamodule.encoded(part, network, layers, device, f"Scoring {part} images"):
        images, reconstructions = pixels.to_input(natives), decoder(features[layer])
        *shown, truth = (pixels.denormalize(some) for some in (reconstructions, mean_image, images))
        *native, native_truth = (pixels.to_native(some, size).clamp_(0, 1) for some in (*shown, truth))
        scores = zip(image_scores(shown, truth), image_scores(native, native_truth), strict=True)
        for metric, both in zip(of_images.values(), scores, strict=True):
            metric.update(*both)
        for error, seen in zip(of_features.values(), (network.features(reconstructions, layers), of_mean_image), strict=True):
            error.update(seen[layer], features[layer], seen[network.layer], features[network.layer])
    found = {name: {**of_images[name].compute(), **of_features[name].compute()} for name in of_images}
    if network.layer != LAST_LAYER:
        for numbers in found.values():
            numbers["top1_agreement"] = math.nan
    return {**found[DECODER], MEAN_IMAGE: found[MEAN_IMAGE]}
