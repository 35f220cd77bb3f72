"""The encoder: torchvision's AlexNet, frozen, cut after the layer whose features are inverted."""

from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import AlexNet
from torchvision.transforms.v2 import functional as transforms

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.encoders.weights import find_weights, fitting


class Tap(NamedTuple):
    """Where a layer's features are read: after the layer's last processing step, as in the paper."""

    modules: int
    """How many of the modules of `flat` run."""
    shape: tuple[int, ...]
    """Shape of one image's features at a 227 x 227 input. fc8's is the number of classes, 1000 for ImageNet's weights."""


TAPS = {
    "conv1": Tap(3, (64, 27, 27)),
    "conv2": Tap(6, (192, 13, 13)),
    "conv3": Tap(8, (384, 13, 13)),
    "conv4": Tap(10, (256, 13, 13)),
    "conv5": Tap(13, (256, 6, 6)),
    "fc6": Tap(18, (4096,)),
    "fc7": Tap(21, (4096,)),
    "fc8": Tap(22, (1000,)),
}
"""Every layer that can be inverted, in the network's order."""
LAST_LAYER = list(TAPS)[-1]
"""Whose features are the logits."""

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]


class Encoder(nn.Module):
    """AlexNet up to one layer's tap. Frozen: no gradients reach its weights, and it never leaves eval mode.

    Args:
        layer: a key of `TAPS`.
        weights: `imagenet` (torchvision's IMAGENET1K_V1, downloaded once), `random` (Kaiming-initialised with `seed`), or the
            path of a checkpoint that holds this architecture: nested or wrapped as training scripts do, of any number of
            classes and floating type, and at least as deep as `layer`.
        input_stats: `published` feeds the [-1, 1] pixels straight in, as the published experiment does; `imagenet`
            re-normalises them to ImageNet's mean and standard deviation, which most weights were trained with.
        seed: of the `random` weights.
        dropout: whether a decoder is trained on features `with_dropout`.

    Raises InputError: unknown layer or statistics; weights that are missing, damaged, of another architecture or less deep.
    """

    mixed = False
    """Whether it computes in mixed precision where a training around it does. A frozen one stays in float32."""
    deepest = LAST_LAYER
    """The deepest layer that the weights reach; another than `LAST_LAYER` if a file lacks the head or more."""

    def __init__(
        self, layer: str, weights: str = "imagenet", input_stats: str = "published", seed: int = 0, dropout: bool = False
    ) -> None:
        super().__init__()
        if layer not in TAPS:
            raise InputError(f"layer={layer}: AlexNet has no such layer; choose one of {', '.join(TAPS)}.")
        check_input_stats("encoder.input_stats", input_stats)
        self.layer = layer
        self.weights = str(weights)
        self.input_stats, self.dropout = input_stats, dropout and layer.startswith("fc")
        self._digests: dict[str, str] = {}
        network = random_alexnet(seed) if weights == "random" else self._from_file()
        self.network = flat(network)[: TAPS[layer].modules].to(memory_format=torch.channels_last)  # quicker on CPUs
        self.feature_shape = TAPS[layer].shape if layer != LAST_LAYER else (network.classifier[-1].out_features,)
        self.requires_grad_(False)
        self.train(False)

    def _from_file(self) -> AlexNet:
        with torch.device("meta"):
            network = AlexNet()
        layers, names = list(TAPS), list(network.state_dict())  # a weight and a bias of each layer
        found = find_weights(self.weights, names)
        if names[-1] in found:
            network.classifier[-1] = nn.Linear(4096, max(1, found[names[-1]].numel()), device="meta")
        state = fitting(found, network.state_dict(), names[: 2 * layers.index(self.layer) + 2], self.weights)
        self.deepest = [layer for i, layer in enumerate(layers) if state.keys() >= set(names[: 2 * i + 2])][-1]
        network.load_state_dict(state, strict=False, assign=True)  # what lies behind the tap is cut off
        return network

    def shape_of(self, layer: str) -> tuple[int, ...]:
        """Shape of one image's features of a layer that is not deeper than the encoder's own."""
        return self.feature_shape if layer == self.layer else TAPS[layer].shape

    @property
    def digest(self) -> str:
        return self.digest_of(self.layer)

    def digest_of(self, layer: str) -> str:
        """SHA-256 of all that makes this layer's features: the weights up to its tap, and the input's statistics."""
        if layer not in self._digests:
            digest = sha256(self.input_stats.encode())
            for tensor in self.network[: TAPS[layer].modules].state_dict().values():
                digest.update(tensor.cpu().contiguous().numpy().data)
            self._digests[layer] = digest.hexdigest()
        return self._digests[layer]

    def train(self, mode: bool = True) -> "Encoder":
        """Stays in eval mode whatever is asked, or AlexNet's dropout before fc6 and fc7 would blur its features."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, 227, 227) in [-1, 1] -> features (B, C, H, W) or (B, D), see `TAPS`."""
        return self.features(images, [self.layer])[self.layer]

    def with_dropout(self, images: Tensor) -> Tensor:
        """As `forward`, but with AlexNet's dropout on: half of what fc6 and fc7 are computed from, and of fc6 itself. So the
        published code's decoders were trained, its encoder having been left in training mode.
        """
        features = self.features(images, [self.layer], dropout=True)[self.layer]
        return torch.dropout(features, 0.5, True) if self.layer == "fc6" else features

    def features(self, images: Tensor, layers: Sequence[str], dropout: bool = False) -> dict[str, Tensor]:
        """Features of several layers, none deeper than its own, in one pass: layer -> features. `mixed` is their precision."""
        features: dict[str, Tensor] = {}
        device = images.device.type
        with torch.autocast(device, enabled=self.mixed and torch.is_autocast_enabled(device)):
            x = with_input_stats(images, self.input_stats).float()
            for number, module in enumerate(self.network, 1):
                x = torch.dropout(x, module.p, True) if dropout and isinstance(module, nn.Dropout) else module(x)
                features |= {layer: x for layer in layers if TAPS[layer].modules == number}
        return features


def check_input_stats(name: str, value: str) -> None:
    """Raises InputError unless it is one that `with_input_stats` knows."""
    if value not in ("published", "imagenet"):
        raise InputError(f"{name}={value}: choose 'published' (0.5, 0.5) or 'imagenet'.")


def with_input_stats(images: Tensor, input_stats: str) -> Tensor:
    """What an AlexNet is fed: images in [-1, 1] as they are, or normalised by ImageNet's mean and standard deviation."""
    if input_stats == "published":
        return images
    return transforms.normalize(images * 0.5 + 0.5, IMAGENET_MEAN, IMAGENET_STD)


def flat(network: AlexNet) -> nn.Sequential:
    """The network as one sequence of modules."""
    return nn.Sequential(*network.features, network.avgpool, nn.Flatten(), *network.classifier)


def place(maps: Tensor, size: int, extent: float = pixels.INPUT_SIZE) -> Tensor:
    """Feature maps in a ring of one cell, n cells a side with it, (B, C, n, n) -> the image's first `extent` pixels of 227, as
    (B, C, size, size), bilinear, each cell where the network saw it: kernels, strides and paddings put the cells' centres
    224 / (n - 1) pixels apart, from -0.5 to 223.5. Maps stretched over the image would be up to 17 pixels off (conv5).
    """
    cells = maps.shape[-1]
    spacing, pixel = 224 / (cells - 1), extent / size
    places = ((torch.arange(size, device=maps.device) + 0.5) * pixel + 0.5) / spacing
    distances = places.clamp(max=cells - 1)[:, None] - torch.arange(cells, device=maps.device)
    weights = (1 - distances.abs() / max(1, pixel / spacing)).clamp_min(0)  # wider where it reduces, against aliasing
    matrix = (weights / weights.sum(1, keepdim=True)).to(maps.dtype)
    return (matrix @ maps @ matrix.T).contiguous(memory_format=torch.channels_last)


def random_alexnet(seed: int) -> AlexNet:
    """An untrained AlexNet whose signal keeps its scale from layer to layer (Kaiming-normal weights, zero biases)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):  # torchvision's own initialisation would take a second, and move torch's random numbers on
        network = AlexNet()
    network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            module.bias.data.zero_()  # type: ignore[union-attr]
    return network
