from types import SimpleNamespace

import pytest
import torch

from inversion.core.errors import InputError
from inversion.decoders.standardize import Standardize
from inversion.training.building import build_standardize


def test_maps_are_standardised_per_channel():
    features = torch.randn(50, 3, 4, 4) * torch.tensor([1.0, 5.0, 0.05])[:, None, None] + 0.5
    standardize = Standardize((3, 4, 4))
    standardize.fit(features.split(7))
    result = standardize(features)
    assert torch.allclose(result.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(result.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4)


def test_vectors_are_standardised_per_unit_even_if_they_hardly_vary():
    features = 0.01 + 0.0004 * torch.randn(200, 5)
    standardize = Standardize((5,))
    standardize.fit([features[:1], features[1:]])
    assert torch.allclose(standardize(features).std(0, correction=0), torch.ones(5), atol=1e-3)


def test_nearly_dead_units_are_divided_by_a_hundredth_of_the_median():
    signs = torch.tensor([-1.0, 1.0])[:, None]
    features = 2 + signs * torch.tensor([0.0, 0.0, 1e-5, 1.0, 4.0])  # the deviations; the median of those above 0 is 1
    standardize = Standardize((5,))
    standardize.fit([features])
    assert torch.allclose(standardize.std, torch.tensor([1.0, 1.0, 0.01, 1.0, 4.0]))
    moved = standardize(features + torch.tensor([0.0, 0.0, 0.5, 0.0, 0.0]))
    assert torch.allclose(moved[:, 2], torch.full((2,), 50.0), atol=0.1)


def test_a_dead_unit_stays_finite():
    features = torch.randn(20, 2)
    features[:, 0] = 3.7
    standardize = Standardize((2,))
    standardize.fit([features])
    result = standardize(features)
    assert torch.allclose(result[:, 0], torch.zeros(20), atol=1e-5)


def test_statistics_travel_in_the_state_dict():
    fitted, fresh = Standardize((4,)), Standardize((4,))
    fitted.fit([torch.randn(9, 4)])
    fresh.load_state_dict(fitted.state_dict())
    assert fresh.fitted and torch.equal(fresh.std, fitted.std)


def test_features_that_are_all_dead_keep_their_scale():
    standardize = Standardize((3,))
    standardize.fit([torch.full((4, 3), 2.5)])
    assert torch.equal(standardize.std, torch.ones(3))


def test_whitened_units_are_uncorrelated_and_stay_near_themselves():
    mixing = torch.tensor([[3.0, 0.1, 0.0], [3.0, 0.0, 0.3], [3.0, 0.5, -1.0]])
    features = 2 + torch.randn(4000, 3) @ mixing.T
    standardize = Standardize((3,), whiten=True)
    standardize.fit(features.split(700))
    result = standardize(features)
    found = torch.cov(result.T)
    directions = torch.linalg.eigh(torch.corrcoef(features.T))
    shrunk = directions.eigenvalues / (directions.eigenvalues + 0.01)
    wanted = directions.eigenvectors @ torch.diag(shrunk) @ directions.eigenvectors.T
    assert torch.allclose(found, wanted, atol=1e-2)
    assert torch.allclose(standardize.whitening, standardize.whitening.T, atol=1e-5)


def test_maps_are_whitened_per_channel():
    features = torch.randn(40, 2, 5, 5)
    features[:, 1] += 2 * features[:, 0]
    standardize = Standardize((2, 5, 5), whiten=True)
    standardize.fit([features])
    result = standardize(features).transpose(0, 1).flatten(1)
    assert standardize(features).shape == features.shape
    assert abs(float(torch.corrcoef(features.transpose(0, 1).flatten(1))[0, 1])) > 0.8
    assert torch.allclose(torch.cov(result), torch.eye(2), atol=0.1)


def test_whitening_is_computed_in_float32_whatever_the_precision():
    standardize = Standardize((4,), whiten=True)
    standardize.fit([torch.randn(50, 4)])
    features = torch.randn(3, 4)
    plain = standardize(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(standardize(features), plain)


def test_a_dead_unit_does_not_spoil_the_whitening():
    features = torch.randn(60, 3)
    features[:, 1] = 3.7
    standardize = Standardize((3,), whiten=True)
    standardize.fit([features])
    assert torch.allclose(standardize(features)[:, 1], torch.zeros(60), atol=1e-4)


@pytest.mark.parametrize(
    ("option", "wanted", "weights", "result"),
    [
        ("auto", "whiten", "imagenet", "whiten"),
        ("auto", "whiten", "random", True),  # its features vary in one direction, and little else but rounding
        ("auto", False, "imagenet", False),
        ("auto", False, "random", True),
        ("auto", True, "imagenet", True),
        (False, "whiten", "imagenet", False),
        (True, "whiten", "imagenet", True),
        ("whiten", False, "random", "whiten"),
    ],
)
def test_what_features_pass_through(option, wanted, weights, result):
    encoder = SimpleNamespace(feature_shape=(5,), weights=weights)
    built = build_standardize(SimpleNamespace(standardize=option, decoder={"standardized": wanted}), encoder)
    assert isinstance(built, Standardize) is bool(result)
    assert getattr(built, "whiten", False) is (result == "whiten")


@pytest.mark.parametrize(
    ("option", "wanted", "expected"), [("zca", True, "standardize=zca"), ("auto", "zca", "decoder.standardized=zca")]
)
def test_no_other_way_to_standardise_is_taken(option, wanted, expected, one_line):
    with pytest.raises(InputError, match=expected) as error:
        config = SimpleNamespace(standardize=option, decoder={"standardized": wanted})
        build_standardize(config, SimpleNamespace(feature_shape=(5,), weights="imagenet"))
    one_line(str(error.value))
