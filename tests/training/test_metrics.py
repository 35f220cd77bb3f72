import math

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from inversion.core import pixels
from inversion.training.metrics import (
    MAX_PSNR,
    FeatureMetrics,
    FinalMetrics,
    image_scores,
    mean_pairwise_distance,
    mean_squared_errors,
    psnr,
    ssim,
)


def native_images(number=12, size=64):
    return torch.randint(0, 256, (number, 3, size, size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def at_input(native):
    return pixels.resize(pixels.normalize(native), pixels.INPUT_SIZE)


def score(metrics, prediction, target):
    shown = [pixels.denormalize(images) for images in (prediction, target)]
    native = [pixels.to_native(images, metrics.native_size).clamp(0, 1) for images in shown]
    metrics.update(*(image_scores([found], truth)[0] for found, truth in (shown, native)))


def test_an_offset_of_a_tenth_has_mse_a_hundredth_and_20_db():
    target = torch.zeros(4, 3, 32, 32)
    errors = mean_squared_errors(target + 0.2, target)  # a tenth of the range of [-1, 1]
    torch.testing.assert_close(errors, torch.full((4,), 0.01), rtol=1e-4, atol=0)
    torch.testing.assert_close(psnr(errors), torch.full((4,), 20.0), rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [64, 128, 227, 416])
def test_errors_are_those_of_the_resized_images(size):
    """Whatever size the decoder draws at."""
    target = pixels.normalize(native_images())
    prediction = 2 * torch.randn(len(target), 3, size, size)
    shown = pixels.denormalize(pixels.resize(prediction.clamp(-1, 1), pixels.INPUT_SIZE))
    by_hand = (shown - pixels.denormalize(pixels.resize(target, pixels.INPUT_SIZE))).square().mean(dim=(1, 2, 3))
    assert torch.allclose(mean_squared_errors(prediction, target), by_hand, rtol=1e-4)


def test_psnr_is_each_images_own():
    torch.testing.assert_close(psnr(torch.tensor([1e-2, 1e-6, 0])), torch.tensor([20, 60, MAX_PSNR]))


def test_an_exact_reconstruction_scores_best():
    target = at_input(native_images())
    metrics = FinalMetrics(64, mean_distance=10.0)
    score(metrics, target, target)
    result = metrics.compute()
    assert result["mse"] == 0 and result["mse_64"] == 0 and result["normalized_error"] == 0
    assert result["ssim"] == pytest.approx(1) and result["ssim_64"] == pytest.approx(1)
    assert result["psnr"] == MAX_PSNR


def test_each_images_scores():
    images = pixels.denormalize(pixels.normalize(native_images(6)))
    (scores,) = image_scores([images], images)
    assert torch.equal(scores["mse"], torch.zeros(6)) and torch.equal(scores["psnr"], torch.full((6,), 100.0))
    assert torch.allclose(scores["ssim"], torch.ones(6))
    grey, lighter = torch.full((2, 3, 32, 32), 0.5), torch.stack([torch.full((3, 32, 32), value) for value in (0.6, 0.7)])
    (scores,) = image_scores([lighter], grey)
    assert torch.allclose(scores["mse"], torch.tensor([0.01, 0.04]))


def test_ssim_is_torchmetrics():
    truth, other = (pixels.denormalize(at_input(native_images(5, size))) for size in (64, 20))
    expected = [
        structural_similarity_index_measure(images.expand_as(truth), truth, data_range=1.0, reduction="none")
        for images in (other, truth, other[:1])
    ]
    torch.testing.assert_close(ssim([other, truth, other[:1]], truth), expected, rtol=0, atol=1e-5)
    native = [pixels.to_native(images, 64) for images in (other, truth)]
    expected = structural_similarity_index_measure(*native, data_range=1.0, reduction="none")
    torch.testing.assert_close(ssim(native[:1], native[1])[0], expected, rtol=0, atol=1e-5)


def test_what_lies_outside_the_range_is_clamped():
    white = torch.ones(2, 3, 227, 227)
    metrics = FinalMetrics(64, 1.0)
    score(metrics, white * 5, white)
    assert metrics.compute()["mse"] == 0


def test_native_mse_is_the_native_images_own():
    target, other = native_images(), native_images().flip(0)
    metrics = FinalMetrics(64, 1.0)
    score(metrics, at_input(other), at_input(target))
    by_hand = ((target.double() - other.double()) / 255).square().mean().item()
    result = metrics.compute()
    assert result["mse_64"] == pytest.approx(by_hand, rel=1e-3)
    assert result["mse"] < result["mse_64"]  # interpolation smooths: 227 px flatter


def test_pairwise_distance_is_that_of_the_resized_images():
    native = native_images(6, 32)
    large = pixels.denormalize(at_input(native)).flatten(1).double()
    assert mean_pairwise_distance(native) == pytest.approx(torch.pdist(large).mean().item(), rel=1e-4)


def test_the_mean_image_scores_one_over_root_two():
    native = native_images(80, 16)
    target = at_input(native)
    metrics = FinalMetrics(16, mean_pairwise_distance(native))
    score(metrics, target.mean(0, keepdim=True).expand_as(target), target)
    assert metrics.compute()["normalized_error"] == pytest.approx(1 / math.sqrt(2), abs=0.01)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_images_of_one_colour_break_nothing(value):
    native = torch.full((3, 3, 16, 16), value, dtype=torch.uint8)
    metrics = FinalMetrics(16, mean_pairwise_distance(native))
    score(metrics, at_input(native), at_input(native))
    result = metrics.compute()
    assert math.isnan(result.pop("normalized_error"))  # all images are the same: there is no distance to divide by
    assert all(math.isfinite(number) for number in result.values())


def feature_metrics(features, truth, logits=None, true_logits=None, size=4):
    metrics = FeatureMetrics()
    true_logits = torch.eye(len(truth)) if true_logits is None else true_logits
    logits = true_logits if logits is None else logits
    for batch in zip(*(tensor.split(size) for tensor in (features, truth, logits, true_logits)), strict=True):
        metrics.update(*batch)
    return metrics.compute()


def test_feature_error_is_the_distance_beside_the_features_spread():
    generator = torch.Generator().manual_seed(0)
    # As those of an untrained network's fc8: they vary little around a common value.
    truth = 0.01 + 0.0004 * torch.randn(12, 5, 2, 2, generator=generator)
    features = truth + 0.0002 * torch.randn(truth.shape, generator=generator)
    spread = (truth - truth.mean(0)).square().sum()
    expected = math.sqrt((features - truth).square().sum() / spread)
    assert feature_metrics(features, truth)["feature_error"] == pytest.approx(expected, rel=1e-3)
    assert feature_metrics(truth, truth)["feature_error"] == 0
    assert feature_metrics(truth.mean(0).expand_as(truth), truth)["feature_error"] == pytest.approx(1, rel=1e-3)


def test_one_reconstruction_may_stand_for_all_images():
    truth, one = torch.rand(4, 6), torch.rand(1, 6)
    logits, true_logits = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0], [1.0, 5.0]])
    metrics = FeatureMetrics()
    metrics.update(one, truth, logits, true_logits)
    assert metrics.compute()["top1_agreement"] == 0.75
    expanded = feature_metrics(one.expand(4, -1), truth, logits.expand(4, -1), true_logits)
    assert metrics.compute() == pytest.approx(expanded)


def test_a_single_image_has_no_spread():
    assert math.isnan(feature_metrics(torch.ones(1, 3), torch.zeros(1, 3))["feature_error"])
