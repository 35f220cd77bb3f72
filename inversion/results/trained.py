"""A trained run, loaded: images in, reconstructions out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from lightning import LightningDataModule
from omegaconf import OmegaConf
from torch import Tensor, nn

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.core.files import expand
from inversion.core.images import decode
from inversion.decoders.base import Decoder
from inversion.decoders.flow import STEPS, FlowDecoder
from inversion.decoders.standardize import Standardize
from inversion.encoders.alexnet import Encoder
from inversion.training import checkpoints
from inversion.training.building import build, build_decoder


class TrainedRun(nn.Module):
    """The frozen encoder of a run with its best decoder, in eval mode, on any device. What it is given may lie elsewhere, and
    what it gives back lies there too. `metadata` is what the checkpoint says of its run, see `checkpoints.metadata`.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, standardize: nn.Module, metadata: Mapping[str, Any]) -> None:
        super().__init__()
        self.encoder, self.decoder, self.standardize, self.metadata = encoder, decoder, standardize, metadata
        self.requires_grad_(False)
        self.eval()

    @property
    def layer(self) -> str:
        return self.encoder.layer

    @property
    def native_size(self) -> int:
        """Side in pixels of the images it was trained on, before they were resized."""
        return self.decoder.native_size

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, 227, 227) in [-1, 1] -> features (B, *feature_shape), not standardised."""
        return self.encoder(images.to(self.device)).to(images.device)

    @torch.no_grad()
    def predict(self, features: Tensor) -> Tensor:
        """Features (B, *feature_shape), not standardised -> images (B, 3, s, s) as the decoder predicts them, unclamped."""
        return self.decoder.predict(self.standardize(features.to(self.device))).to(features.device)

    @torch.no_grad()
    def decode(self, features: Tensor) -> Tensor:
        """Features (B, *feature_shape), not standardised -> images (B, 3, 227, 227) in [-1, 1]."""
        return self.decoder(self.standardize(features.to(self.device))).to(features.device)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images (B, 3, 227, 227) in [-1, 1] -> their reconstructions, same shape and range."""
        return self.decode(self.encode(images))

    forward = reconstruct

    def native_samples(self, features: Tensor, number: int = 1, seed: int = 0, steps: int = STEPS) -> Tensor:
        """Features (B, *feature_shape), not standardised -> images (B, number, 3, n, n) in [-1, 1] that they could have come
        from, at the native size, by `steps` steps of the flow. Raises InputError for a decoder that gives one image only.
        """
        if not isinstance(self.decoder, FlowDecoder):
            raise InputError(f"This {self.layer} run's decoder gives one image and no samples: train one with decoder=flow.")
        return self.decoder.samples(self.standardize(features.to(self.device)), number, seed, steps).to(features.device)

    def sample_features(self, features: Tensor, number: int = 1, seed: int = 0, steps: int = STEPS) -> Tensor:
        """`native_samples` as `decode` gives images: (B, number, 3, 227, 227)."""
        images = self.native_samples(features, number, seed, steps)
        return pixels.resize(images.flatten(0, 1), pixels.INPUT_SIZE).unflatten(0, images.shape[:2])

    def sample(self, images: Tensor, number: int = 1, seed: int = 0, steps: int = STEPS) -> Tensor:
        """Images (B, 3, 227, 227) in [-1, 1] -> (B, number, 3, 227, 227): others with such features, see `sample_features`."""
        return self.sample_features(self.encode(images), number, seed, steps)


def load(folder: str | Path, weights: str | None = None, any_weights: bool = False) -> TrainedRun:
    """Loads the best checkpoint of a run's folder, and the encoder that it was trained for, onto the CPU. Runs no code from
    either file.

    `weights` are the encoder's if they have moved since, as `encoder.weights`; with `any_weights` their hash isn't checked.
    Raises InputError: the checkpoint is missing or damaged, or the encoder's weights are missing or are not those of the run.
    """
    path = checkpoints.path_of(expand(folder), checkpoints.BEST)
    if not path.is_file():
        raise InputError(f"{folder} holds no trained run ({path} is missing): give the folder of one.")
    content = checkpoints.read(path)
    metadata = content[checkpoints.METADATA]
    try:
        config = OmegaConf.create(metadata["config"])
        for name in ("encoder", "decoder", "data"):
            _check_classes(OmegaConf.to_container(config[name], resolve=True))
    except ImportError as error:
        reason = str(error).partition("\n")[0].rstrip(".:")
        raise InputError(f"{path}: {reason}: set PYTHONPATH to the folder of your own code, as in training.") from error
    except Exception as error:  # a config that was tampered with can make them raise anything
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise InputError(f"{path} doesn't say what run it is of ({reason:.120}): train the run anew.") from error
    encoder = build("encoder", config.encoder, **({} if weights is None else {"weights": weights}))
    if encoder.digest != metadata.get("encoder") and not any_weights:
        raise InputError(
            f"{path} was trained for other encoder weights than {encoder.weights} holds now: give those it was trained for, "
            "or any_weights=True to load()."
        )
    decoder = build_decoder(config.decoder, encoder, metadata["native_size"])
    state: dict[str, Tensor] = content["state_dict"]
    standardize: nn.Module = nn.Identity()
    if any(key.startswith("standardize.") for key in state):
        standardize = Standardize(encoder.feature_shape, whiten="standardize.whitening" in state)
    run = TrainedRun(encoder, decoder, standardize, metadata)
    try:
        run.load_state_dict({**state, **{f"encoder.{key}": value for key, value in encoder.state_dict().items()}})
    except (RuntimeError, AttributeError) as error:
        raise InputError(f"{path} doesn't fit the decoder that its config describes: train the run anew.") from error
    return run


def _check_classes(config: object) -> None:
    """Raises an error if a `_target_` is neither network nor source of images: it could be a function that runs a command."""
    if isinstance(config, dict):
        if "_target_" in config and not issubclass(get_class(config["_target_"]), (nn.Module, LightningDataModule)):
            raise ValueError(f"{config['_target_']} is no network and no data")
        config = [*config.values()]
    for value in config if isinstance(config, list) else ():
        _check_classes(value)


def read_images(paths: str | Path | Sequence[str | Path], size: int) -> Tensor:
    """An image file or several, of any size and mode -> (N, 3, 227, 227) in [-1, 1], as the encoder is fed.

    Each is turned as its EXIF data says, its transparent parts laid on white, its first frame taken; its shorter side is
    brought to `size`, the middle square cut out, and that resized to 227. With `TrainedRun.native_size` images are as sharp as
    those trained on; 227 keeps all that the encoder can see. Raises InputError, which names files that are no images.
    """
    paths = [paths] if isinstance(paths, str | Path) else paths
    images = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
    decode([expand(path) for path in paths], images.numpy(), f"Reading {len(paths)} images")
    return pixels.to_input(images)
