"""The encoder: torchvision's AlexNet, frozen, cut after the layer whose features are inverted."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from pickle import UnpicklingError

import torch
from filelock import FileLock
from torch import Tensor, nn
from torchvision.models import AlexNet, AlexNet_Weights
from torchvision.transforms.v2 import functional as transforms

from inversion.core import pixels
from inversion.core.download import download
from inversion.core.errors import InputError

log = logging.getLogger(__name__)


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
            (Kaiming-initialised with `seed`), or the path of a state dict of this architecture, whatever its number of
            classes and its floating type.
        input_stats: `published` feeds the [-1, 1] pixels straight in, as the published experiment does; `imagenet`
            re-normalises them to ImageNet's mean and standard deviation, which most weights were trained with.
        seed: of the `random` weights.

    Raises:
        InputError: unknown layer or statistics; weights that are missing, damaged or of another architecture.
    """

    def __init__(self, layer: str, weights: str = "imagenet", input_stats: str = "published", seed: int = 0) -> None:
        super().__init__()
        if layer not in TAPS:
            raise InputError(f"layer={layer}: AlexNet has no such layer; choose one of {', '.join(TAPS)}.")
        check_input_stats("encoder.input_stats", input_stats)
        self.layer = layer
        self.weights = str(weights)
        self.input_stats = input_stats
        self._digests: dict[str, str] = {}
        network = random_alexnet(seed) if weights == "random" else alexnet_from(load_weights(str(weights)), str(weights))
        self.network = cut(network, TAPS[layer].module)
        self.requires_grad_(False)
        self.train(False)
        with torch.no_grad():
            self.feature_shape: tuple[int, ...] = tuple(
                self(torch.zeros(1, 3, pixels.INPUT_SIZE, pixels.INPUT_SIZE)).shape[1:]
            )

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


def alexnet_from(state: Mapping[str, Tensor], source: str) -> AlexNet:
    """AlexNet in float32 with these weights.

    Args:
        state: a state dict of torchvision's AlexNet with any number of classes and any floating type.
        source: what to call it in an error.

    Raises:
        InputError: the keys or shapes are not AlexNet's, or a weight is not finite.
    """
    advice = "encoder.weights takes a state dict of torchvision's AlexNet, as torch.save(model.state_dict(), path) writes"
    for key, value in state.items():
        if isinstance(value, Mapping) and "features.0.weight" in value:
            raise InputError(f"{source} holds its weights under the key {key!r}: save that inner state dict alone.")
    if state and all(str(key).startswith("module.") for key in state):
        raise InputError(f"{source} has keys with DataParallel's prefix 'module.': save model.module.state_dict() instead.")
    with torch.device("meta"):
        expected = AlexNet().state_dict()
    if not all(isinstance(value, Tensor) for value in state.values()) or set(state) != set(expected):
        odd = sorted(set(state) ^ set(expected), key=str) or [k for k, v in state.items() if not isinstance(v, Tensor)]
        reason = "is missing or no tensor" if odd[0] in expected else "does not belong to it"
        raise InputError(f"{source} is not AlexNet ({odd[0]!r:.120} {reason}): {advice}.")
    for key, tensor in state.items():
        shape, wanted = list(tensor.shape), list(expected[key].shape)
        if key.startswith("classifier.6."):
            shape, wanted = shape[1:], wanted[1:]
        if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
            raise InputError(f"{source} is not AlexNet ({key} holds no dense floating-point numbers): {advice}.")
        if shape != wanted:
            raise InputError(
                f"{source} is not AlexNet ({key} is {tensor.dtype} {list(tensor.shape)}, not {wanted}): {advice}."
            )
        if not torch.isfinite(tensor.float()).all():
            raise InputError(f"{source} holds values that are not finite in {key}: train or copy these weights again.")
    classes = state["classifier.6.weight"].shape[0]
    if state["classifier.6.bias"].shape != (classes,) or classes < 1:
        raise InputError(f"{source} is not AlexNet (classifier.6's weight and bias differ in length): {advice}.")
    with torch.device("meta"):
        network = AlexNet(num_classes=classes)
    network.load_state_dict({key: tensor.float() for key, tensor in state.items()}, assign=True)
    return network


def load_weights(weights: str) -> Mapping[str, Tensor]:
    """The state dict that `encoder.weights` names: `imagenet`, or a path. Never runs code from the file.

    Raises:
        InputError: no such file, one that can't be read, not a PyTorch file, or the download failed.
    """
    # Path.expanduser raises where there is no such user.
    path = imagenet_weights() if weights == "imagenet" else Path(os.path.expanduser(weights))  # noqa: PTH111
    try:
        if not path.is_file():
            trouble = "a folder" if path.is_dir() else "no such file"
            raise InputError(f"encoder.weights={weights}: {trouble}; give 'imagenet', 'random' or the path of a state dict.")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # torch.load throws anything at garbage, and whatever fails here is the file's fault
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        elif isinstance(error, UnpicklingError):  # its text advises to run the file's code
            reason = "damaged, or more than tensors"
        else:  # the parsers' own words tell of their insides
            reason = "empty" if path.stat().st_size == 0 else "cut off, damaged, or another kind of file"
        raise InputError(
            f"{path} can't be read as PyTorch weights ({reason}): "
            "encoder.weights takes a state dict written by torch.save, holding tensors only."
        ) from error
    if not isinstance(state, Mapping):
        raise InputError(f"{path} holds a {type(state).__name__}, not a state dict: save model.state_dict() instead.")
    return state


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")[:120]


def imagenet_weights() -> Path:
    """torchvision's IMAGENET1K_V1 file in torch's own cache, downloaded if it isn't there, its SHA-256 checked always.

    Raises:
        InputError: no network, no place to download to, or a file that can't be read or has another hash.
    """
    url = AlexNet_Weights.IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    prefix = path.stem.rsplit("-", 1)[1]
    if not os.path.lexists(path):
        log.info(f"Downloading {url} to {path}")
        advice = f"put that file at {path} (the folder follows TORCH_HOME), or give encoder.weights=PATH or =random"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f".{path.name}.lock")):
                if not path.is_file():
                    download(url, path, "AlexNet's ImageNet weights", "sha256", prefix, advice)
        except OSError as error:
            raise InputError(
                f"AlexNet's ImageNet weights can't be downloaded to {path} ({_first_line(error)}): {advice}."
            ) from error
    try:
        digest = sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(
            f"{path} can't be read ({error.strerror}): make it readable, or give another encoder.weights."
        ) from error
    if not digest.startswith(prefix):
        raise InputError(f"{path} is damaged (SHA-256 {digest[:8]}, not {prefix}): delete it to download it again.")
    return path
