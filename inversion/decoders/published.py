"""The published decoders, which work at a resolution that follows from the features."""

from collections.abc import Sequence

from torch import Tensor, nn

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.decoders.base import Decoder, check_number, check_numbers


class PublishedDecoder(Decoder):
    """The published decoders, as their code builds them: 5x5 stride-2 up-convolutions, LeakyReLU after each, the last one too,
    batch normalisation after some, and a nearest-neighbour resize to the input's size. Feature maps first pass through 3x3
    convolutions, vectors through fully connected layers and a reshape to maps of 4x4. The working size follows from the
    features (13 -> 416, 6 -> 192, 4 -> 128), not from `native_size`.

    Args:
        up_channels: output channels of the up-convolutions; the last must be 3.
        batch_norm: the up-convolutions that are followed by batch normalisation, counted from 1.
        last_activation: whether a LeakyReLU follows the last up-convolution, though images lie in [-1, 1].
        nearest: whether the image is resized by nearest neighbour, which draws blocks, or as the originals were.
        channels: output channels of the 3x3 convolutions.
        hidden, start: widths of the fully connected layers, and channels of the map that the last is reshaped to; for vectors.
        kernel, up_kernel, slope: sides of the convolutions' and up-convolutions' kernels, odd; LeakyReLU's negative slope.
    """

    def __init__(
        self,
        feature_shape: Sequence[int],
        native_size: int,
        *,
        up_channels: Sequence[int],
        batch_norm: Sequence[int],
        last_activation: bool,
        nearest: bool,
        channels: Sequence[int] = (),
        hidden: Sequence[int] = (),
        start: int = 256,
        kernel: int = 3,
        up_kernel: int = 5,
        slope: float = 0.2,
    ) -> None:
        super().__init__(feature_shape, native_size)
        lists = {"up_channels": up_channels, "batch_norm": batch_norm, "channels": channels, "hidden": hidden}
        for name, values in lists.items():
            check_numbers(f"decoder.{name}", values)
        check_number("decoder.kernel", kernel, odd=True)
        check_number("decoder.up_kernel", up_kernel, odd=True)
        if not up_channels or up_channels[-1] != 3:
            raise InputError(f"decoder.up_channels={list(up_channels)} must end with 3, the image's colours.")
        if max(batch_norm, default=0) > len(up_channels):
            raise InputError(f"decoder.batch_norm={list(batch_norm)}: there are {len(up_channels)} up-convolutions.")
        layers: list[nn.Module] = []
        width = self.feature_shape[0]
        if len(self.feature_shape) == 1:
            if not hidden or hidden[-1] != start * 16:
                raise InputError(f"decoder.hidden={list(hidden)} must end with 4 x 4 x decoder.start, {start * 16}.")
            for out in hidden:
                layers += [nn.Linear(width, out), nn.LeakyReLU(slope)]
                width = out
            layers.append(nn.Unflatten(1, (start, 4, 4)))
            width = start
        elif hidden:
            raise InputError(f"decoder.hidden={list(hidden)} is for features that are a vector, not for maps: leave it [].")
        for out in channels:
            layers += [nn.Conv2d(width, out, kernel, padding=kernel // 2), nn.LeakyReLU(slope)]
            width = out
        for number, out in enumerate(up_channels, 1):
            layers.append(nn.ConvTranspose2d(width, out, up_kernel, stride=2, padding=up_kernel // 2, output_padding=1))
            layers += [nn.BatchNorm2d(out)] if number in batch_norm else []
            layers.append(nn.LeakyReLU(slope))
            width = out
        self.body = nn.Sequential(*(layers if last_activation else layers[:-1]))
        self.nearest = nearest

    def predict(self, features: Tensor) -> Tensor:
        image = self.body(features)
        return nn.functional.interpolate(image, pixels.INPUT_SIZE, mode="nearest") if self.nearest else image
