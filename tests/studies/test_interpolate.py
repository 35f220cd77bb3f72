"""Features between features, means of classes, random features."""

import pytest
import torch

from inversion.studies import interpolate


def test_from_one_feature_to_another():
    way = interpolate.between(torch.cat([torch.zeros(2, 3), torch.ones(2, 3)]), 5)
    assert way.shape == (2, 5, 3) and way[0, :, 0].tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_the_mean_of_a_class():
    values, labels = torch.tensor([[1.0], [3.0], [10.0]]), torch.tensor([4, 4, 7])
    assert interpolate.class_means(values, labels, [7, 4]).tolist() == [[10], [2]]


def test_a_random_feature_has_each_units_own_values():
    features = torch.stack([torch.arange(5.0), 100 + torch.arange(5.0)], dim=1)[:, :, None, None]
    found = interpolate.random_features(features, 200, torch.Generator().manual_seed(0))
    assert found.shape == (200, 2, 1, 1)
    assert set(found[:, 0].flatten().tolist()) == set(range(5)) and set(found[:, 1].flatten().tolist()) == set(range(100, 105))
    together = torch.corrcoef(found.flatten(1).T)[0, 1]
    assert abs(together) < 0.25  # units are independent, though in the images they are not


def test_detail_is_the_mean_difference_of_neighbours():
    stripes = torch.zeros(1, 3, 100, 100)
    stripes[..., ::2] = 1
    detail = interpolate.detail
    assert detail(stripes) == pytest.approx(0.5, rel=0.02) and detail(torch.ones(2, 3, 9, 9)) == 0
