"""What comes back by frequency and colour: images whose answers are known."""

import math

import pytest
import torch

from inversion.core import pixels
from inversion.studies import (
    frequency,
)


def test_the_identity_recovers_every_band_and_the_mean_image_none(images):
    r2 = frequency.r2_by_frequency
    mean = images.mean(0)
    assert torch.allclose(r2(images, images, mean), torch.ones(17, dtype=torch.float64))
    assert torch.allclose(r2(images, mean.expand_as(images), mean), torch.zeros(17, dtype=torch.float64), atol=1e-6)


def test_a_blur_of_gain_h_keeps_one_less_the_square_of_what_it_takes(images):
    frequencies = torch.fft.fftfreq(32, 1 / 32)
    radius = (frequencies[:, None].square() + frequencies[None].square()).sqrt()
    gain = torch.exp(-((radius.round() / 8) ** 2))  # one gain a band
    blurred = torch.fft.ifft2(torch.fft.fft2(images) * gain).real
    expected = 1 - (1 - torch.exp(-((torch.arange(17.0) / 8) ** 2))) ** 2
    found = frequency.r2_by_frequency(images, blurred, torch.zeros(3, 32, 32))
    assert torch.allclose(found, expected.double(), atol=1e-4)


def test_grey_pictures_miss_all_of_chrominance_and_nothing_of_luminance(images):
    grey = (images * frequency.LUMINANCE[:, None, None]).sum(1, keepdim=True).expand_as(images)
    mean = grey.mean(0)
    found = frequency.unexplained_by_colour(images, grey, mean)
    assert found["luminance"] == pytest.approx(0, abs=1e-9) and found["chrominance"] == pytest.approx(1)
    found = frequency.unexplained_by_colour(images, mean.expand_as(images), mean)
    assert found == pytest.approx({"luminance": 1, "chrominance": 1})


@pytest.mark.parametrize("cycles", [12, 48, 96])
def test_a_pattern_that_repeats_is_a_peak(cycles):
    white = torch.fft.fft2(torch.randn(8, 3, 227, 227, generator=torch.Generator().manual_seed(0)))
    radius = torch.fft.fftfreq(227, 1 / 227).square()
    images = torch.fft.ifft2(white / (1 + (radius + radius[:, None]).sqrt())).real  # spectra fall as those of photos do
    coarse = pixels.resize(pixels.resize(images, 64), 227)  # repeats its low frequencies around 64 cycles, which is no peak
    for plain in (images, coarse):
        assert frequency.largest_peak(frequency.spectrum(plain))[0] < 1.25
    pattern = 0.3 * images.std() * torch.cos(2 * math.pi * cycles * torch.arange(227) / 227)
    for patterned in (coarse + pattern, coarse + pattern[:, None]):
        rise, place = frequency.largest_peak(frequency.spectrum(patterned))
        assert rise > 1.3 and place == cycles
