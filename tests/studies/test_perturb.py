"""Changed features are changed as asked."""

import math

import pytest
import torch

from inversion.studies import (
    perturb,
)


def test_signs_keep_the_norm():
    features = torch.tensor([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0], [-1.0, 1.0, 1.0]])
    binarised = perturb.binarised
    found = binarised(features)
    assert torch.allclose(found[0], torch.tensor([5.0, 0.0, 5.0]) / math.sqrt(2))
    assert torch.equal(found[1], features[1]) and torch.allclose(found[2], features[2])
    maps = torch.rand(2, 4, 3, 3)
    assert torch.allclose(binarised(maps).flatten(1).norm(dim=1), maps.flatten(1).norm(dim=1))


def test_the_top_outputs_and_all_others():
    features, mean = torch.tensor([[1.0, 9.0, 5.0]]), torch.tensor([0.1, 0.2, 0.3])
    only_top = perturb.only_top
    assert torch.equal(only_top(features, 1, mean), torch.tensor([[0.1, 9.0, 0.3]]))
    assert torch.equal(only_top(features, 1, mean, others=True), torch.tensor([[1.0, 0.2, 5.0]]))


def test_dropping_and_noise_are_as_large_as_asked():
    ones = torch.ones(100, 100)
    generator = torch.Generator().manual_seed(0)
    features = 2 * torch.randn(1000, 100, generator=generator)

    def changed(layer, drop):
        return perturb.changes(layer, features, top=[], noise=[0.5], drop=drop)

    assert changed("fc6", 0.3)["dropped", 0.3](ones).mean() == pytest.approx(0.7, abs=0.02)
    assert torch.equal(changed("fc6", 0.0)["dropped", 0.0](ones), ones)
    noisy = changed("fc6", 0.0)["noise", 0.5]
    assert torch.equal(noisy(ones), noisy(ones))  # whatever was changed before
    assert torch.equal(changed("fc8", 1.0)["dropped", 1.0](ones)[7], features.mean(0))
    assert (changed("fc6", 0.0)["noise", 0.5](ones) - ones).std() == pytest.approx(1, abs=0.03)
