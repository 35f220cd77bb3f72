"""What every decoder is: from one layer's features back to the image."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from inversion.core import pixels
from inversion.core.errors import InputError


class Decoder(nn.Module, ABC):
    """A network that predicts images of any size. Calling it clamps them and resizes them as the originals were.

    One of your own defines `predict`, and takes the shape of an image's features, (C, H, W) or (D,), the side in pixels of the
    images as the data holds them, and its options, of which those that don't fit together raise InputError.
    """

    def __init__(self, feature_shape: Sequence[int], native_size: int) -> None:
        super().__init__()
        self.feature_shape = tuple(feature_shape)
        self.native_size = native_size

    @abstractmethod
    def predict(self, features: Tensor) -> Tensor:
        """Features (B, *feature_shape) -> images (B, 3, s, s) of any size s, around [-1, 1] and not clamped."""

    def predictions(self, features: Tensor) -> list[Tensor]:
        """The images whose mean `predict` gives, each (B, 3, s, s). Training minimises the mean of their losses."""
        return [self.predict(features)]

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, *feature_shape) -> images (B, 3, 227, 227) in [-1, 1]: what is scored and shown."""
        return pixels.resize(self.predict(features).float().clamp(-1, 1), pixels.INPUT_SIZE)


def check_numbers(name: str, values: object, least: int = 1) -> None:
    """Raises InputError unless this is a list of whole numbers of at least `least`."""
    if not isinstance(values, list | tuple) or not all(isinstance(value, int) and value >= least for value in values):
        raise InputError(f"{name}={values} must be a list of whole numbers, at least {least}, as in {name}=[64,32].")


def check_number(name: str, value: object, odd: bool = False) -> int:
    """Gives back this positive, and if so wanted odd, whole number. Raises InputError if it is none."""
    if not isinstance(value, int) or value < 1 or (odd and value % 2 == 0):
        raise InputError(f"{name}={value} must be {'an odd' if odd else 'a'} whole number, at least 1.")
    return value
