"""Shifts and rotations of hue are estimated as what they are."""

import pytest
import torch

from inversion.core import pixels
from inversion.studies import (
    position_colour,
)


@pytest.fixture(scope="module")
def smooth():
    """Four images without a repeating pattern, (4, 3, 227, 227) in [0, 1]."""
    return pixels.resize(torch.rand(4, 3, 20, 20, generator=torch.Generator().manual_seed(0)), 227)


@pytest.mark.parametrize(("right", "down"), [(8, 0), (0, 8), (-31, 0), (0, -5), (0, 0)])
def test_a_shift_is_estimated_as_what_it_is(smooth, right, down):
    moved = position_colour.shifted(smooth, right, down)
    assert moved.shape == smooth.shape
    assert position_colour.estimated_shift(smooth, moved, -1 if right else -2).tolist() == [right or down] * 4


def test_what_is_shifted_goes_right_and_down():
    image = torch.zeros(1, 3, 227, 227)
    image[..., 100, 50] = 1
    moved = position_colour.shifted(image, 8, -3)
    assert moved[0, 0, 97, 58] == 1 and moved.sum() == 3


def test_without_a_clue_no_shift_is_estimated():
    flat = torch.full((1, 3, 227, 227), 0.5)
    assert position_colour.estimated_shift(flat, flat, -1).item() == 0


@pytest.mark.parametrize("degrees", [-150, -30, 0, 90])
def test_a_rotation_of_hues_is_estimated_as_what_it_is(images, degrees):
    pale = 0.4 + 0.2 * images  # so that no rotated colour leaves [0, 1]
    rotated = position_colour.rotated(pale, degrees)
    estimates = position_colour.estimated_rotation(pale, rotated)
    assert torch.allclose(estimates, torch.full((6,), float(degrees)), atol=0.05)
    assert torch.allclose(position_colour.grey(rotated), position_colour.grey(pale), atol=1e-5)  # the luminance stays
    assert position_colour.circular_difference(torch.tensor([179.0, -170.0]), -175).tolist() == [-6, 5]


def test_grey_has_no_colour(images):
    grey = position_colour.grey(images)
    assert position_colour.chroma(grey).abs().max() < 1e-3  # YIQ's published digits don't quite add up to zero


def test_images_themselves_are_measured_right(smooth):
    rows = position_colour.measures(lambda images: images, 0.4 + 0.2 * smooth, shifts=[-8, 16], turns=[30])
    found = {(row["what"], row["done"]): row for row in rows}
    assert found["shift", -8]["estimate"] == -8 and found["shift", 16]["error"] == 0
    assert found["turn", 30]["estimate"] == pytest.approx(30, abs=0.1)
    assert found["grey", 0]["estimate"] < 0.02


def test_grey_images_say_nothing_of_colour(smooth):
    coloured = (0.4 + 0.2 * smooth)[:1]
    images = torch.cat([coloured, position_colour.grey(coloured).expand(9, -1, -1, -1)])
    tint = 0.003 * torch.tensor([1.0, 0.0, -1.0])[:, None, None]  # of all reconstructions
    rows = position_colour.measures(lambda images: images + tint, images, shifts=[8], turns=[30])
    turn, grey = (next(row for row in rows if row["what"] == what) for what in ("turn", "grey"))
    assert turn["estimate"] == pytest.approx(30, abs=3) and grey["estimate"] < 0.5
