"""Exact samples of a Gaussian posterior pass every measure; too narrow and too wide ones fail."""

import math

import pytest
import torch

from inversion.studies import calibration

NUMBER, IMAGES = 16, 20_000


def drawn(width=1.0, shift=0.0):
    """Truth x = f + e of a feature f that is known and an error e of unit variance; samples f + shift + width e'."""
    generator = torch.Generator().manual_seed(0)
    known = 3 * torch.randn(IMAGES, 2, generator=generator)
    truth = known + torch.randn(IMAGES, 2, generator=generator)
    return truth, known[:, None] + shift + width * torch.randn(IMAGES, NUMBER, 2, generator=generator)


def test_exact_samples_pass():
    truth, samples = drawn()
    of_sample, of_many, spread = calibration.errors(truth, samples)
    assert of_sample == pytest.approx(2, rel=0.02)
    assert of_many == pytest.approx(1, rel=0.03) and spread == pytest.approx(1, rel=0.02)
    histogram = calibration.rank_histogram(truth, samples)
    assert len(histogram) == NUMBER + 1 and float((histogram * (NUMBER + 1) - 1).abs().max()) < 0.1
    for share in (0.5, 0.9):
        assert calibration.coverage(histogram, share) == pytest.approx(share, abs=0.01)
    assert calibration.fair_crps(truth, samples) == pytest.approx(1 / math.sqrt(math.pi), rel=0.02)  # E|e - e'| / 2


def test_exact_samples_pass_where_they_are_clamped():
    truth, samples = (some.clamp(-2, 2) for some in drawn())
    histogram = calibration.rank_histogram(truth, samples)
    assert (truth.abs() == 2).float().mean() > 0.4
    assert float((histogram * (NUMBER + 1) - 1).abs().max()) < 0.1
    assert calibration.coverage(histogram, 0.9) == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize(("width", "shift"), [(0.5, 0), (2, 0), (1, 1)])
def test_samples_that_are_too_narrow_too_wide_or_beside_the_truth_fail(width, shift):
    truth, samples = drawn(width, shift)
    of_sample, of_many, spread = calibration.errors(truth, samples)
    assert of_sample == pytest.approx(1 + width**2 + shift**2, rel=0.03)
    assert of_many == pytest.approx(1 + shift**2, rel=0.05) and spread == pytest.approx(width**2, rel=0.02)
    histogram = calibration.rank_histogram(truth, samples)
    assert (calibration.coverage(histogram, 0.5) > 0.6) == (width > 1)
    assert (calibration.coverage(histogram, 0.9) < 0.8) == (width < 1 or shift > 0)
    assert calibration.fair_crps(truth, samples) > 1.05 / math.sqrt(math.pi)


def test_crps_is_that_of_all_pairs():
    truth, samples = torch.randn(5, 3), torch.randn(5, 4, 3)
    pairs = [(samples[:, i] - samples[:, j]).abs() for i in range(4) for j in range(4) if i != j]
    expected = (samples - truth[:, None]).abs().mean() - torch.stack(pairs).mean() / 2
    assert calibration.fair_crps(truth, samples) == pytest.approx(float(expected), rel=1e-5)


def test_ranks_among_features():
    wanted = torch.tensor([[0.0], [1.0], [5.0]])
    assert calibration.reciprocal_ranks(torch.tensor([[0.2], [0.4], [0.3]]), wanted).tolist() == pytest.approx(
        [1, 1 / 2, 1 / 3]
    )


def test_the_interval_of_a_mean_holds_it():
    low, high = calibration.bootstrap(torch.randn(1000, generator=torch.Generator().manual_seed(0)))
    assert low < 0 < high and high - low == pytest.approx(2 * 1.96 / math.sqrt(1000), rel=0.1)
