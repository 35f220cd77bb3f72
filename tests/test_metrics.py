import math

import pytest
import torch

from inversion import pixels
from inversion.metrics import MAX_PSNR, FinalMetrics, mean_pairwise_distance, quick_metrics


def native_images(number=12, size=64):
    return torch.randint(0, 256, (number, 3, size, size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def at_input(native):
    return pixels.resize(pixels.normalize(native), pixels.INPUT_SIZE)


def test_an_offset_of_a_tenth_has_mse_a_hundredth_and_20_db():
    metrics = quick_metrics("val/")
    target = torch.full((4, 3, 32, 32), 0.5)
    metrics.update(target + 0.1, target)
    result = metrics.compute()
    assert result["val/mse"] == pytest.approx(0.01, rel=1e-4)
    assert result["val/psnr"] == pytest.approx(20, abs=1e-3)


def test_psnr_is_the_mean_over_images_not_of_the_pooled_error():
    metrics = quick_metrics("")
    target = torch.full((2, 3, 8, 8), 0.2)
    error = torch.tensor([0.1, 0.001]).view(2, 1, 1, 1)  # 20 and 60 dB
    metrics.update(target + error, target)
    assert metrics.compute()["psnr"] == pytest.approx(40, abs=0.01)


def test_an_exact_reconstruction_scores_best():
    target = at_input(native_images())
    metrics = FinalMetrics(64, mean_distance=10.0)
    metrics.update(target, target)
    result = metrics.compute()
    assert result["mse"] == 0 and result["mse_64"] == 0 and result["normalized_error"] == 0
    assert result["ssim"] == pytest.approx(1) and result["ssim_64"] == pytest.approx(1)
    assert result["psnr"] == MAX_PSNR


def test_what_lies_outside_the_range_is_clamped():
    white = torch.ones(2, 3, 227, 227)
    metrics = FinalMetrics(64, 1.0)
    metrics.update(white * 5, white)
    assert metrics.compute()["mse"] == 0


def test_native_mse_is_the_native_images_own():
    target, other = native_images(), native_images().flip(0)
    metrics = FinalMetrics(64, 1.0)
    metrics.update(at_input(other), at_input(target))
    by_hand = ((target.double() - other.double()) / 255).square().mean().item()
    result = metrics.compute()
    assert result["mse_64"] == pytest.approx(by_hand, rel=1e-3)
    assert result["mse"] < result["mse_64"]  # interpolation smooths: 227 px flatter


def test_mixed_precision_changes_no_score():
    target, other = at_input(native_images()), at_input(native_images().flip(0))
    results = []
    for mixed in (False, True):
        metrics = FinalMetrics(64, 1.0)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            metrics.update(other, target)
        results.append(metrics.compute())
    assert results[0] == results[1]


def test_pairwise_distance_is_that_of_the_resized_images():
    native = native_images(6, 32)
    large = pixels.denormalize(at_input(native)).flatten(1).double()
    assert mean_pairwise_distance(native) == pytest.approx(torch.pdist(large).mean().item(), rel=1e-4)


def test_the_mean_image_scores_one_over_root_two():
    native = native_images(80, 16)
    target = at_input(native)
    metrics = FinalMetrics(16, mean_pairwise_distance(native))
    metrics.update(target.mean(0, keepdim=True).expand_as(target), target)
    assert metrics.compute()["normalized_error"] == pytest.approx(1 / math.sqrt(2), abs=0.01)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_images_of_one_colour_break_nothing(value):
    native = torch.full((3, 3, 16, 16), value, dtype=torch.uint8)
    metrics = FinalMetrics(16, mean_pairwise_distance(native))
    metrics.update(at_input(native), at_input(native))
    result = metrics.compute()
    assert math.isnan(result.pop("normalized_error"))  # all images are the same: there is no distance to divide by
    assert all(math.isfinite(number) for number in result.values())
