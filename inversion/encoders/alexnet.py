"""The encoder: torchvision's AlexNet, frozen, cut after the layer whose features are inverted."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor, nn
from torchvision.models import AlexNet
from torchvision.transforms.v2 import functional as transforms

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.encoders.weights import find_weights, fitting


@dataclass(frozen=True)
class Tap:
    """Where a layer's features are read: after the layer's last processing step, as in the paper."""

    module: str
    """Name of the last module of torchvision's AlexNet that runs."""
    shape: tuple[int, ...]
    """Shape of one image's features at a 227 x 227 input. fc8's is the number of classes, 1000 for ImageNet's weights."""


TAPS = {
    "conv1": Tap("features.2", (64, 27, 27)),
    "conv2": Tap("features.5", (192, 13, 13)),
    "conv3": Tap("features.7", (384, 13, 13)),
    "conv4": Tap("features.9", (256, 13, 13)),
    "conv5": Tap("features.12", (256, 6, 6)),
    "fc6": Tap("classifier.2", (4096,)),
    "fc7": Tap("classifier.5", (4096,)),
    "fc8": Tap("classifier.6", (1000,)),
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
        weights: `imagenet` (torchvision's IMAGENET1K_V1, downloaded once and checked against its hash), `random`
            (Kaiming-initialised with `seed`), or the path of a checkpoint that holds this architecture: nested or wrapped as
            training scripts do, of any number of classes and floating type, and at least as deep as `layer`.
        input_stats: `published` feeds the [-1, 1] pixels straight in, as the published experiment does; `imagenet`
            re-normalises them to ImageNet's mean and standard deviation, which most weights were trained with.
        seed: of the `random` weights.

    Raises:
        InputError: unknown layer or statistics; weights that are missing, damaged, of another architecture or less deep.
    """

    deepest: str
    """The deepest layer that the weights reach; `LAST_LAYER` unless a file lacks the head or more."""

    def __init__(self, layer: str, weights: str = "imagenet", input_stats: str = "published", seed: int = 0) -> None:
        super().__init__()
        if layer not in TAPS:
            raise InputError(f"layer={layer}: AlexNet has no such layer; choose one of {', '.join(TAPS)}.")
        check_input_stats("encoder.input_stats", input_stats)
        self.layer = layer
        self.weights = str(weights)
        self.input_stats = input_stats
        self.deepest = LAST_LAYER
        self._digests: dict[str, str] = {}
        network = random_alexnet(seed) if weights == "random" else self._from_file(str(weights))
        self.network = cut(network, TAPS[layer].module)
        self.requires_grad_(False)
        self.train(False)
        with torch.no_grad():
            self.feature_shape: tuple[int, ...] = tuple(
                self(torch.zeros(1, 3, pixels.INPUT_SIZE, pixels.INPUT_SIZE)).shape[1:]
            )

    def _from_file(self, weights: str) -> AlexNet:
        with torch.device("meta"):
            names = list(AlexNet().state_dict())  # a weight and a bias of each layer
        found = find_weights(weights, names)
        head = found.get(names[-1])
        with torch.device("meta"):
            network = AlexNet(num_classes=1000 if head is None else max(1, head.numel()))
        layers = list(TAPS)
        state = fitting(found, network.state_dict(), names[: 2 * layers.index(self.layer) + 2], weights)
        self.deepest = [layer for i, layer in enumerate(layers) if state.keys() >= set(names[: 2 * i + 2])][-1]
        network.load_state_dict(state, strict=False, assign=True)  # what lies behind the tap is cut off
        return network

    @property
    def is_trained(self) -> bool:
        return self.weights != "random"

    def shape_of(self, layer: str) -> tuple[int, ...]:
        """Shape of one image's features of a layer that is not deeper than the encoder's own."""
        return self.feature_shape if layer == self.layer else TAPS[layer].shape

    @property
    def digest(self) -> str:
        """Tells this encoder from another, whatever its weights' file is called."""
        return self.digest_of(self.layer)

    def digest_of(self, layer: str) -> str:
        """SHA-256 of all that makes this layer's features: the weights up to its tap, and the input's statistics."""
        if layer in self._digests:
            return self._digests[layer]
        digest = sha256(self.input_stats.encode())
        for name, module in self.network.named_children():
            for tensor in module.state_dict().values():
                digest.update(tensor.cpu().numpy().data)
            if name == _name(TAPS[layer].module):
                break
        return self._digests.setdefault(layer, digest.hexdigest())

    def train(self, mode: bool = True) -> "Encoder":
        """Stays in eval mode whatever is asked, or AlexNet's dropout before fc6 and fc7 would blur its features."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, 227, 227) in [-1, 1] -> features (B, C, H, W) or (B, D), see `TAPS`."""
        return self.features(images, [self.layer])[self.layer]

    def features(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """The features of several layers, none deeper than the encoder's own, in one pass. Always in float32, also where
        the decoder trains in mixed precision.

        Args:
            images: (B, 3, 227, 227) in [-1, 1].
        """
        images = with_input_stats(images, self.input_stats)
        taps = {_name(TAPS[layer].module): layer for layer in layers}
        found = {}
        with torch.autocast(images.device.type, enabled=False):
            x = images.float()
            for name, module in self.network.named_children():
                x = module(x)
                if name in taps:
                    found[taps[name]] = x
        return found


def check_input_stats(name: str, value: str) -> None:
    """Raises InputError unless it is one that `with_input_stats` knows."""
    if value not in ("published", "imagenet"):
        raise InputError(f"{name}={value}: choose 'published' (0.5, 0.5) or 'imagenet'.")


def with_input_stats(images: Tensor, input_stats: str) -> Tensor:
    """What an AlexNet is fed: images (B, 3, 227, 227) in [-1, 1] as they are (`published`), or normalised by ImageNet's mean
    and standard deviation (`imagenet`).
    """
    if input_stats == "published":
        return images
    return transforms.normalize(images * 0.5 + 0.5, IMAGENET_MEAN, IMAGENET_STD)


def cut(network: AlexNet, last: str) -> nn.Sequential:
    """The network up to and with the module named `last`, as one sequence. What follows the tap is dropped."""
    sequence = nn.Sequential()
    for name, module in network.named_children():
        if name == "classifier":
            sequence.add_module("flatten", nn.Flatten())
        for child_name, child in list(module.named_children()) or [("0", module)]:
            sequence.add_module(_name(f"{name}.{child_name}"), child)
            if f"{name}.{child_name}" == last:
                return sequence
    raise ValueError(f"AlexNet has no module {last}")


def _name(module: str) -> str:
    """What a module of AlexNet is called in the cut sequence, where names hold no dot."""
    return module.replace(".", "_")


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
