"""Images optimised towards features."""

import pytest
import torch

from inversion.core import pixels
from inversion.encoders.alexnet import Encoder
from inversion.studies import optimise


def test_priors_have_the_values_they_should():
    ramp = torch.arange(10.0).expand(1, 3, 10, 10)
    assert optimise.total_variation(ramp, 2).item() == pytest.approx(1) and optimise.total_variation(2 * ramp, 1).item() == 2
    features = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    assert optimise.distances(torch.zeros(2, 2), features).tolist() == [1, 1]
    assert optimise.distances(features, features).tolist() == [0, 0]


def test_optimisation_comes_closer_whoever_is_in_the_batch():
    encoder = Encoder("conv1", "random")
    native = pixels.resize(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1, 64)
    wanted = encoder(pixels.resize(native, 227))
    noise = optimise.starting_noise(2, 64)
    assert not torch.equal(noise[0], noise[1])
    options = {"steps": 15, "lr": 0.1, "tv": 0.01, "beta": 2.0, "alpha": 6, "bound": 0.01}
    found = optimise.invert(encoder, wanted, noise, **options)
    assert found.shape == (2, 3, 227, 227)
    before = optimise.distances(encoder(pixels.resize(noise, 227)), wanted)
    assert (optimise.distances(encoder(found), wanted) < 0.5 * before).all()
    alone = optimise.invert(encoder, wanted[1:], noise[1:], **options)
    assert torch.allclose(alone[0], found[1], atol=1e-3)


def test_a_search_that_is_repeated_finds_the_same(subject, tmp_path):
    options = {"steps": 2, "lr": 0.05, "tv": 3.0, "beta": 2.0, "alpha": 6, "bound": 0.02}
    first, again = (optimise.optimise(subject, tmp_path, shown=2, **options) for _ in range(2))
    assert [row["mse"] for row in again.rows] == [row["mse"] for row in first.rows]
    assert {row["method"] for row in first.rows} == {"decoder", "optimisation"}
    assert len(first.rows) == 2 * 2 * len(subject.runs)
