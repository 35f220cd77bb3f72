"""Pixels: the one place where images are normalised, denormalised and resized.

Three forms of an image occur, each a batch of shape (B, 3, height, width):

- *native*: uint8 in [0, 255], at the resolution the data really holds (64 x 64 for Tiny ImageNet);
- *input*: float in [-1, 1], at the encoder's input size (227 x 227), which is what is encoded and reconstructed;
- *display*: [0, 1], which metrics use, or uint8, which pictures do.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as transforms

INPUT_SIZE = 227
MEAN = [0.5, 0.5, 0.5]
STD = [0.5, 0.5, 0.5]


def normalize(images: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [-1, 1], with mean 0.5 and standard deviation 0.5; any (B, 3, H, W)."""
    return transforms.normalize(transforms.to_dtype(images, torch.float32, scale=True), MEAN, STD)


def denormalize(images: Tensor) -> Tensor:
    """Floats around [-1, 1] -> float32 in [0, 1]; what lies outside is clamped. Any (..., 3, H, W)."""
    return images.float().mul(0.5).add_(0.5).clamp_(0, 1).contiguous()


def to_uint8(images: Tensor) -> Tensor:
    """Floats in [0, 1] -> uint8 in [0, 255], rounded."""
    return images.mul(255).round().to(torch.uint8)


def resize(images: Tensor, size: int) -> Tensor:
    """(B, C, H, W) -> (B, C, size, size), bilinear as torchvision's `Resize`: antialiased where it reduces."""
    if images.shape[-2:] == (size, size):
        return images
    if min(images.shape[-2:]) <= size:
        return interpolate(images, (size, size), mode="bilinear")
    # On CPUs antialiasing isn't there in half precision.
    return interpolate(images.float(), (size, size), mode="bilinear", antialias=True).to(images.dtype)


def enlarge(images: Tensor, size: int) -> Tensor:
    """(B, C, s, s) -> (B, C, size, size), s <= size: band-limited interpolation, which keeps the coefficients of the cosine
    transform and adds zeros for finer ones. `resize` would leave traces of the small image's grid in the spectrum.
    """
    small = images.shape[-1]
    if small == size:
        return images
    with torch.autocast(images.device.type, enabled=False):
        coarse, fine = (cosine_basis(side, images.device, torch.float32) for side in (small, size))
        matrix = ((size / small) ** 0.5 * fine[:small].T @ coarse).to(images.dtype)
        return matrix @ images.contiguous() @ matrix.T


def to_input(images: Tensor) -> Tensor:
    """Native uint8 images (B, 3, n, n) -> the encoder's input, float (B, 3, 227, 227) in [-1, 1]."""
    return resize(normalize(images), INPUT_SIZE)


def to_display(images: Tensor) -> Tensor:
    """Floats around [-1, 1] -> uint8 in [0, 255], on the CPU: a picture to show. Any (..., 3, H, W)."""
    return to_uint8(denormalize(images)).cpu()


def to_native(images: Tensor, native_size: int) -> Tensor:
    """(B, C, S, S) -> (B, C, N, N), N <= S: the native images that, resized, come closest to these (least squares).

    `resize` is linear, y = U x U^T per channel; this is x = U^+ y (U^+)^T with U^+ the pseudo-inverse. What was made by
    resizing is given back exactly, so an image and its reconstruction can be compared without the interpolated pixels, which
    flatter every score. The fit may overshoot the images' range.
    """
    if images.shape[-1] == native_size:
        return images
    _, inverse = _gram_and_inverse(native_size, images.shape[-1], images.device, images.dtype)
    return inverse @ images @ inverse.T


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """(B, C, s, s) and (B, C, t, t) -> (B,), float32: the squared distance of each pair once both are resized to 227 x 227.
    Either may be one for all, (1, C, ...).

    Where s = t < 227, no resized image is made: with d = a - b and G = U^T U it is sum(d * G d G), two products of s x s
    matrices. Its gradient is 2 G d G, so none is computed twice for training.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = a.float(), b.float()
        if a.shape[-1] != b.shape[-1] or a.shape[-1] >= INPUT_SIZE:
            return (resize(a, INPUT_SIZE) - resize(b, INPUT_SIZE)).square().sum(dim=(1, 2, 3))
        difference = a - b
        with torch.no_grad():
            gram, _ = _gram_and_inverse(a.shape[-1], INPUT_SIZE, a.device, a.dtype)
            half_gradient = gram @ difference @ gram
        distance = (difference * half_gradient).sum(dim=(1, 2, 3))  # with half of its gradient
        return 2 * distance - distance.detach()


def resize_matrix(native_size: int, size: int) -> Tensor:
    """U, (size, native_size), float64: `resize` of an image x is U x U^T."""
    return interpolate(torch.eye(native_size, dtype=torch.float64)[None, None], (size, native_size), mode="bilinear")[0, 0]


def cosine_basis(n: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64) -> Tensor:
    """The cosine transform's orthonormal rows, (n, n), float32, computed in `dtype`: row k has k / 2 cycles."""
    positions = torch.arange(n, device=device, dtype=dtype)
    basis = torch.cos(torch.pi / n * positions[:, None] * (positions + 0.5))
    return (basis / basis.norm(dim=1, keepdim=True)).float()


@lru_cache
def _gram_and_inverse(native_size: int, size: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """U^T U, and the pseudo-inverse of U."""
    with torch.inference_mode(False):  # it may be validation that asks first, and training needs it in its backward pass
        matrix = resize_matrix(native_size, size)
        return (matrix.T @ matrix).to(dtype).to(device), torch.linalg.pinv(matrix).to(dtype).to(device)
