"""The decoder that samples: other images that the features could have come from."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from inversion.core import pixels
from inversion.decoders.base import Decoder
from inversion.decoders.unet import UNet

COLOURS = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
COLOURS = COLOURS / COLOURS.norm(dim=1, keepdim=True)
"""Red, green and blue to brightness (their sum) and two opponent colours: orthonormal."""

STEPS = 6
"""Of the midpoint method, from noise to a sample; two evaluations of the network each."""


@cache
def constants(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The cosine basis (n, n) and opponent colours (3, 3). No buffers: an average of weights would round them."""
    with torch.inference_mode(False):  # the first to ask may be a validation, and gradients need them later
        return pixels.cosine_basis(n).to(device), COLOURS.to(device)


class Whitening(nn.Module):
    """Between images' errors (B, 3, n, n) and the same with unit variance at each frequency of each opponent colour.

    `train_variance` is that of the training images' errors, a running mean over the last hundred or so batches; `val_variance`
    that of validation images', which are larger, since the mean decoder has seen the former; (3, n, n) both. `gain`, (n, n),
    is what whitened samples are multiplied by, see `FlowDecoder.calibrate`.
    """

    train_variance: Tensor
    val_variance: Tensor
    gain: Tensor
    batches: Tensor

    def __init__(self, native_size: int) -> None:
        super().__init__()
        for name in ("train_variance", "val_variance"):
            self.register_buffer(name, torch.ones(3, native_size, native_size))
        self.register_buffer("gain", torch.ones(native_size, native_size))
        self.register_buffer("batches", torch.zeros(2))  # seen of training, and images of this validation

    def update(self, errors: Tensor, first: bool) -> None:
        """Takes a batch's errors into account; in eval mode, `val_variance` starts afresh with the `first` batch."""
        power = self.spectrum(errors).square().mean(0)
        if self.training:
            self.batches[0] += 1
            self.train_variance.lerp_(power, (1 / self.batches[0]).clamp_min(0.01))
        else:
            self.batches[1] = len(errors) + (0 if first else self.batches[1])
            self.val_variance.lerp_(power, len(errors) / self.batches[1])

    def spectrum(self, images: Tensor) -> Tensor:
        """Cosine coefficients of opponent colours, the same shape. In float32, as variances differ by a million."""
        basis, colours = constants(images.shape[-1], images.device)
        with torch.autocast(images.device.type, enabled=False):
            return basis @ torch.einsum("oc,bchw->bohw", colours, images.float()) @ basis.T

    def filter(self, images: Tensor, gain: Tensor) -> Tensor:
        """The images with each frequency of each opponent colour multiplied by its gain, (3, n, n)."""
        basis, colours = constants(images.shape[-1], images.device)
        filtered = self.spectrum(images) * gain
        with torch.autocast(images.device.type, enabled=False):
            return torch.einsum("oc,bohw->bchw", colours, basis.T @ filtered @ basis)

    @property
    def scale(self) -> Tensor:
        """The standard deviation of errors, by frequency and opponent colour: (3, n, n)."""
        return (self.train_variance if self.training or not self.batches[1] else self.val_variance).clamp_min(1e-10).sqrt()


class FlowDecoder(Decoder):
    """Samples from p(image | features), beside a decoder `mean` that gives the single best image, the conditional mean.

    A sample is the mean image plus an error that a flow makes from noise (Lipman et al. 2023, arXiv 2210.02747; Liu et al.
    2023, arXiv 2209.03003; around a regression's mean: Mardani et al. 2023, arXiv 2309.15214). Errors are whitened first, so
    noise n and error e have unit variance at every frequency, and the noise's image has the errors' spectrum. The way from one
    to the other is a quarter circle, z = n cos a + e sin a (the straight (1 - t) n + t e of tan a = t / (1 - t), brought to
    unit variance: Albergo and Vanden-Eijnden 2023, arXiv 2209.15571), since then z is uncorrelated with the velocity
    e cos a - n sin a: a network that adds nothing gives the noise. It predicts the velocity as an image plus z times
    a gate per pixel, to quench noise where an image is smooth without redrawing it.

    Args:
        mean: makes the mean decoder from (feature_shape, native_size).
        time_mean, time_std: in training, times t are the logistic function of a normal variable with these.
        detail, network: how much fine detail counts, from 0 (as in squared error) to 1 (as all else); the options of `UNet`.
    """

    def __init__(
        self,
        feature_shape: Sequence[int],
        native_size: int,
        *,
        mean: Callable[..., Decoder],
        time_mean: float,
        time_std: float,
        detail: float,
        **network: Any,
    ) -> None:
        super().__init__(feature_shape, native_size)
        self.mean = mean(feature_shape, native_size)
        self.whitening = Whitening(native_size)
        self.time_mean, self.time_std, self.detail = time_mean, time_std, detail
        self.network = UNet(9, 6, native_size, self.feature_shape, **network)

    def predict(self, features: Tensor) -> Tensor:
        return self.mean.predict(features)

    def predictions(self, features: Tensor) -> list[Tensor]:
        return self.mean.predictions(features)

    def flow_loss(self, features: Tensor, images: Tensor, first: bool) -> Tensor:
        """The flow-matching loss of a batch: features, the images (B, 3, n, n) in [-1, 1], whether it is an epoch's `first`.
        Errors are those of the mean decoder in eval mode, as in sampling. Validations have all the same times and noise.
        """
        with torch.no_grad():
            self.mean.eval()
            mean = pixels.resize(self.mean.predict(features).float(), self.native_size)
            self.mean.train(self.training)
            self.whitening.update(images - mean, first)
            scale = self.whitening.scale
            error = self.whitening.filter(images - mean, 1 / scale)
            generator = None if self.training else torch.Generator(images.device).manual_seed(len(images))
            places = torch.arange(len(images), device=images.device)  # times are evenly spread over a batch
            quantiles = (torch.rand(len(images), generator=generator, device=images.device) + places) / len(images)
            odds = torch.special.ndtri(quantiles.clamp(1e-4, 1 - 1e-4)).mul(self.time_std).add(self.time_mean).exp()
            noise = torch.randn(images.shape, generator=generator, device=images.device)
            angle = odds.atan()[:, None, None, None]
            z, velocity = angle.cos() * noise + angle.sin() * error, angle.cos() * error - angle.sin() * noise
        predicted = self.velocity(z, angle, mean, self.network.condition(features), scale)
        weight = (scale / scale.square().mean().sqrt()) ** (1 - self.detail)
        return self.whitening.filter(predicted - velocity, weight).square().mean()

    def velocity(self, z: Tensor, angle: Tensor, mean: Tensor, condition: tuple[Tensor, Tensor], scale: Tensor) -> Tensor:
        """dz/da at z, (B, 3, n, n), and the angles, (B, 1, 1, 1), of whitened errors around the mean images."""
        image = mean + self.whitening.filter(angle.sin() * z, scale)
        time = angle.sin() / (angle.sin() + angle.cos())
        velocity, gate = self.network(torch.cat([z, image, mean], 1), time.flatten(), condition).float().chunk(2, dim=1)
        return velocity + gate * z

    def samples(self, features: Tensor, number: int, seed: int, steps: int = STEPS) -> Tensor:
        """Features (B, *feature_shape) -> native images (B, number, 3, n, n) in [-1, 1]; noise by seed, number and place."""
        shape = (len(features) * number, 3, self.native_size, self.native_size)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        batches = zip(features.repeat_interleave(number, 0).split(64), noise.split(64), strict=True)
        images = torch.cat([self.sample(some, few.to(features.device), steps) for some, few in batches])
        return images.clamp(-1, 1).unflatten(0, (len(features), number))

    @torch.no_grad()
    def sample(self, features: Tensor, noise: Tensor, steps: int) -> Tensor:
        """Features (B, *feature_shape) and noise (B, 3, n, n) -> images (B, 3, n, n) around [-1, 1]."""
        mean = pixels.resize(self.predict(features).float(), self.native_size)
        return self._image(mean, self._drawn(features, mean, noise, steps))

    @torch.no_grad()
    def calibrate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Has samples of validation images vary by as much as the mean of infinitely many of them errs, in each band of one
        cycle an image: those of a small network vary too little, and where an image is white or black they are clamped. Takes
        features (B, *feature_shape) and images (B, 3, n, n) in [-1, 1], and holds four times the size of all of these images.
        From two samples of each image, with errors s and s', and the image's own error e, both are known without bias:
        E (s - s')^2 / 2, and E (s - e)(s' - e). Colours and frequencies of a band count by their power.
        """
        held = []
        for number, (features, images) in enumerate(batches):
            mean = pixels.resize(self.predict(features).float(), self.native_size)
            noise = torch.randn((2, *images.shape), generator=torch.Generator().manual_seed(number)).to(images.device)
            held.append((images, mean, [self._drawn(features, mean, one, STEPS) for one in noise]))
        cycles = torch.arange(self.native_size, device=mean.device) / 2
        bands = torch.hypot(cycles[:, None], cycles).long().flatten()
        self.whitening.gain.fill_(1)
        for _ in range(3):  # a larger gain is clamped more
            spread, error = torch.zeros(2, self.native_size, self.native_size, device=mean.device)
            for images, mean, drawn in held:
                a, b = (self.whitening.spectrum(self._image(mean, one).clamp(-1, 1) - images) for one in drawn)
                spread += (a - b).square().sum((0, 1)) / 2
                error += (a * b).sum((0, 1))
            ratio = (torch.bincount(bands, error.flatten()) / torch.bincount(bands, spread.flatten())).nan_to_num(1)
            self.whitening.gain.mul_(ratio.clamp_min(0.25).sqrt()[bands].view_as(spread)).clamp_(0.5, 2)

    def _image(self, mean: Tensor, drawn: Tensor) -> Tensor:
        """The sample that a whitened error makes of the mean image, not clamped; all (B, 3, n, n)."""
        return mean + self.whitening.filter(drawn, self.whitening.scale * self.whitening.gain)

    def _drawn(self, features: Tensor, mean: Tensor, noise: Tensor, steps: int) -> Tensor:
        """Whitened errors from noise, both (B, 3, n, n)."""
        condition, scale = self.network.condition(features), self.whitening.scale
        return integrate(lambda z, a: self.velocity(z, a.expand(len(z), 1, 1, 1), mean, condition, scale), noise, steps)


def integrate(velocity: Callable[[Tensor, Tensor], Tensor], z: Tensor, steps: int) -> Tensor:
    """z at a quarter circle, a = pi / 2, of dz/da = velocity(z, a) from z at a = 0, in equal steps of the midpoint method."""
    step = math.pi / 2 / steps
    for middle in torch.arange(steps, device=z.device) * step + step / 2:
        z = z + step * velocity(z + step / 2 * velocity(z, middle - step / 2), middle)
    return z
