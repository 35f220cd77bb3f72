import pytest
import torch
from torchvision.transforms import v2

from inversion.core import pixels


def test_normalize_maps_bytes_to_minus_one_to_one_and_back():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    normalized = pixels.normalize(images)
    assert normalized.min() == -1 and normalized.max() == 1
    assert torch.equal(pixels.to_uint8(pixels.denormalize(normalized)), images)


def test_denormalize_clamps():
    assert pixels.denormalize(torch.full((1, 3, 2, 2), 7.0)).max() == 1
    assert pixels.denormalize(torch.full((1, 3, 2, 2), -7.0)).min() == 0


@pytest.mark.parametrize("size", [227, 64, 20])
def test_resize_is_torchvisions(size):
    images = torch.rand(2, 3, 64, 64)
    assert torch.allclose(pixels.resize(images, size), v2.Resize((size, size), antialias=True)(images), atol=1e-6)


@pytest.mark.parametrize("size", [227, 20])
def test_resize_keeps_half_precision(size):
    images = torch.rand(2, 3, 64, 64)
    resized = pixels.resize(images.bfloat16(), size)
    assert resized.dtype == torch.bfloat16
    assert torch.allclose(resized.float(), pixels.resize(images, size), atol=0.02)


def test_resize_is_the_matrix_product():
    image = torch.rand(1, 1, 64, 64, dtype=torch.float64)
    matrix = pixels.resize_matrix(64, 227)
    assert torch.allclose(matrix @ image @ matrix.T, pixels.resize(image, 227), atol=1e-12)


@pytest.mark.parametrize(("native", "size"), [(16, 64), (24, 64), (64, 64), (57, 227)])
def test_enlarge_gives_what_the_small_image_holds_on_the_large_grid(native, size):
    """Waves with as many half-periods across as the small image has pixels, less one, and their products."""

    def waves(side):
        places = (torch.arange(side)[:, None] + 0.5) / side * torch.pi
        return (places * torch.arange(native)).cos()

    coefficients = torch.randn(2, 3, native, native) / native
    small, large = (waves(side) @ coefficients @ waves(side).T for side in (native, size))
    torch.testing.assert_close(pixels.enlarge(small, size), large, rtol=0, atol=1e-4)
    assert pixels.enlarge(small.bfloat16(), size).dtype == torch.bfloat16


@pytest.mark.parametrize("native", [16, 64, 100, 227])
def test_to_native_undoes_the_resize(native):
    images = torch.rand(2, 3, native, native)
    assert torch.allclose(pixels.to_native(pixels.resize(images, 227), native), images, atol=1e-4)


def test_to_native_is_the_closest_native_image():
    image = torch.rand(1, 1, 227, 227, dtype=torch.float64)
    fitted = pixels.to_native(image, 64)
    error = (pixels.resize(fitted, 227) - image).square().sum()
    for _ in range(5):
        other = fitted + 1e-3 * torch.randn_like(fitted)
        assert (pixels.resize(other, 227) - image).square().sum() > error
