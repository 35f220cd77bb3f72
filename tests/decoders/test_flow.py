"""The decoder that samples: its integrator, its whitening, and what it does on errors that are exactly Gaussian."""

import math

import pytest
import torch
from test_decoders import configured

from inversion.core import pixels
from inversion.decoders.flow import Whitening, integrate
from inversion.encoders.alexnet import TAPS

SMALL = ["decoder.channels=[16,16,16]", "decoder.condition=8", "decoder.embedding=16"]


def flow(layer="conv5", native_size=64):
    torch.manual_seed(0)
    return configured("flow", layer, native_size, *SMALL)


def test_the_integrator_is_of_second_order():
    """dz/da = -2 a z / q^2 has the solution z exp(-a^2 / q^2), taken at a quarter circle, a = q."""
    start, quarter = torch.tensor([1.0, -2.0]), math.pi / 2
    wanted = start * math.exp(-1)
    errors = [float((integrate(lambda z, a: -2 * a / quarter**2 * z, start, n) - wanted).abs().max()) for n in (8, 16)]
    assert errors[1] < 1e-3 and 3.5 < errors[0] / errors[1] < 4.5


def test_whitened_errors_have_unit_variance_at_every_frequency_and_come_back():
    torch.manual_seed(0)
    whitening = Whitening(16)
    errors = torch.nn.functional.avg_pool2d(torch.randn(2000, 3, 18, 18), 3, stride=1) * torch.tensor([1.0, 2.0, 0.5]).view(
        3, 1, 1
    )
    whitening.update(errors, first=True)
    white = whitening.filter(errors, 1 / whitening.scale)
    torch.testing.assert_close(whitening.spectrum(white).square().mean(0), torch.ones(3, 16, 16))
    torch.testing.assert_close(whitening.filter(white, whitening.scale), errors, rtol=1e-3, atol=1e-4)


def test_lower_precision_of_the_networks_is_not_that_of_the_whitening():
    whitening, errors = Whitening(16), torch.randn(4, 3, 16, 16)
    whitening.train_variance.copy_(torch.logspace(0, -6, 16).outer(torch.ones(16)).expand(3, -1, -1))
    wanted = whitening.filter(errors, 1 / whitening.scale)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(whitening.filter(errors, 1 / whitening.scale), wanted)


def test_what_a_validation_asked_for_first_takes_part_in_gradients():
    whitening, errors = Whitening(17), torch.randn(2, 3, 17, 17, requires_grad=True)
    with torch.inference_mode():
        whitening.filter(errors, whitening.scale)
    whitening.filter(errors, whitening.scale).sum().backward()
    assert errors.grad is not None and errors.grad.abs().sum() > 0


def test_in_eval_mode_the_validation_images_spectrum_counts_and_each_validation_begins_anew():
    whitening = Whitening(8)
    whitening.update(torch.randn(500, 3, 8, 8), first=True)
    whitening.eval()
    for size in (5.0, 2.0):
        for first in (True, False):
            whitening.update(size * torch.randn(500, 3, 8, 8), first)
        assert float(whitening.scale.mean()) == pytest.approx(size, rel=0.02)
    assert float(whitening.train().scale.mean()) == pytest.approx(1, rel=0.02)


def test_images_of_a_short_last_batch_count_no_more_than_others():
    whitening = Whitening(8).eval()
    whitening.update(torch.ones(63, 3, 8, 8), first=True)
    whitening.update(torch.full((1, 3, 8, 8), 9.0), first=False)
    mean = whitening.spectrum(torch.cat([torch.ones(63, 3, 8, 8), torch.full((1, 3, 8, 8), 9.0)])).square().mean(0)
    torch.testing.assert_close(whitening.val_variance, mean)


@pytest.mark.parametrize(
    ("layer", "native_size"), [*((layer, 64) for layer in TAPS), ("conv5", 16), ("fc6", 50), ("conv2", 101)]
)
def test_every_layer_and_size_trains_and_samples(layer, native_size):
    decoder = flow(layer, native_size)
    features, images = torch.randn(3, *TAPS[layer].shape), torch.rand(3, 3, native_size, native_size) * 2 - 1
    loss = decoder.flow_loss(features, images, first=True)
    loss.backward()
    assert loss > 0 and not any(weight.grad is not None for weight in decoder.mean.parameters())
    assert all(weight.grad is not None for weight in decoder.network.leave.parameters())
    samples = decoder.eval().samples(features, 2, seed=0, steps=1)
    assert samples.shape == (3, 2, 3, native_size, native_size) and samples.abs().max() <= 1


def test_the_same_seed_gives_the_same_samples_and_another_others():
    decoder, features = flow().eval(), torch.randn(2, 256, 6, 6)
    samples = decoder.samples(features, 3, seed=1, steps=2)
    assert torch.equal(samples, decoder.samples(features, 3, seed=1, steps=2))
    assert not torch.equal(samples, decoder.samples(features, 3, seed=2, steps=2))
    assert not torch.equal(samples[:, 0], samples[:, 1])


def test_before_it_has_learnt_samples_are_the_mean_with_noise_of_the_errors_spectrum():
    decoder, features = flow("conv5", 16).eval(), torch.randn(200, 256, 6, 6)
    mean = pixels.resize(decoder.predict(features), 16).detach()
    errors = 0.02 * torch.nn.functional.avg_pool2d(torch.randn(200, 3, 18, 18), 3, stride=1)
    decoder.whitening.update(errors, first=True)
    found = decoder.sample(features, torch.randn(200, 3, 16, 16), steps=10) - mean
    ratio = decoder.whitening.spectrum(found).square().mean(0) / decoder.whitening.val_variance
    assert float(ratio.mean()) == pytest.approx(1, abs=0.03)


@pytest.mark.slow
def test_samples_are_calibrated_to_vary_by_as_much_as_their_mean_errs():
    """Where errors of 6 cycles and more are larger than those that the whitening knows, and others smaller."""
    decoder, features = flow("conv5", 16).eval(), torch.randn(600, 256, 6, 6)
    mean = pixels.resize(decoder.predict(features), 16).detach()
    errors = 0.1 * torch.randn(600, 3, 16, 16)
    decoder.whitening.update(errors, first=True)
    fine = torch.hypot(torch.arange(16)[:, None] / 2, torch.arange(16) / 2) >= 6
    amplitude = torch.where(fine, 1.3, 0.8)
    images = mean + decoder.whitening.filter(errors, amplitude)
    decoder.calibrate(zip(features.split(100), images.split(100), strict=True))
    torch.testing.assert_close(decoder.whitening.gain, amplitude, rtol=0.05, atol=0)
    samples = decoder.sample(features, torch.randn(600, 3, 16, 16), steps=10)
    ratio = decoder.whitening.spectrum(samples - mean).square().mean((0, 1)) / (0.1 * amplitude).square()
    assert float(ratio[fine].mean()) == pytest.approx(1, abs=0.05) == float(ratio[~fine].mean())


def test_calibration_minds_that_samples_are_clamped():
    """Of images that are nearly white."""
    decoder, features = flow("conv5", 16).eval(), torch.randn(300, 256, 6, 6)
    decoder.mean.predict = lambda features: torch.full((len(features), 3, 16, 16), 0.9)
    images = (0.9 + 0.2 * torch.randn(300, 3, 16, 16)).clamp(-1, 1)
    decoder.whitening.update(images - 0.9, first=True)
    decoder.calibrate(zip(features.split(100), images.split(100), strict=True))
    a, b = (sample - images for sample in decoder.samples(features, 2, seed=0).unbind(1))
    assert float((a - b).square().mean() / 2 / (a * b).mean()) == pytest.approx(1, abs=0.03)


def test_calibration_weighs_colours_by_their_power():
    """Luminance's errors, a hundred times as strong as colour's, are larger than the whitening knows, colour's smaller."""
    decoder, features = flow("conv5", 16).eval(), torch.randn(200, 256, 6, 6)
    mean = pixels.resize(decoder.predict(features), 16).detach()
    errors = decoder.whitening.filter(torch.randn(200, 3, 16, 16), torch.tensor([0.2, 0.02, 0.02])[:, None, None])
    decoder.whitening.update(errors, first=True)
    images = mean + decoder.whitening.filter(errors, torch.tensor([1.2, 0.8, 0.8])[:, None, None])
    decoder.calibrate(zip(features.split(100), images.split(100), strict=True))
    assert float(decoder.whitening.gain.mean()) == pytest.approx(1.2, abs=0.05)


def test_a_flow_learns_what_is_not_gaussian():
    """Errors each of which is one of two, never their mean."""
    decoder = flow("conv5", 16).train()
    decoder.mean.predict = lambda features: torch.zeros(len(features), 3, 16, 16)
    optimizer = torch.optim.Adam(decoder.network.parameters(), 1e-2)
    pattern = 0.3 * torch.randn(3, 16, 16)

    def errors(number):
        return (torch.randint(0, 2, (number, 1, 1, 1)) * 2 - 1) * pattern + 0.01 * torch.randn(number, 3, 16, 16)

    for _ in range(200):
        loss = decoder.flow_loss(torch.zeros(16, 256, 6, 6), errors(16), first=False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    decoder.eval()
    decoder.whitening.update(errors(500), first=True)
    found = decoder.sample(torch.zeros(100, 256, 6, 6), torch.randn(100, 3, 16, 16), 10)
    sides = (found * pattern).sum((1, 2, 3)) / pattern.square().sum()
    assert 0.25 < float((sides > 0).float().mean()) < 0.75
    assert float(((sides.abs() - 1).abs() < 0.5).float().mean()) > 0.85  # 0.48 of a normal variable's
