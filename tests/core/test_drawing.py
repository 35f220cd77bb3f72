import numpy as np
import pytest
import torch

from inversion.core.drawing import GAP, pairs_grid, samples_figure


def flat(value, number=2, side=227):
    return torch.full((number, 3, side, side), value, dtype=torch.uint8)


def test_columns_stand_in_order_under_their_titles():
    figure = samples_figure({"Original": flat(10), "Conv2": flat(100), "FC8": flat(200)})
    pixels = np.asarray(figure)
    top = figure.height - 2 * (227 + GAP) - GAP
    row = pixels[top + GAP + 100, :, 0]
    assert [row[GAP + 113 + i * (227 + GAP)] for i in range(3)] == [10, 100, 200]
    for i in range(3):  # each title is written over its column
        heading = pixels[:top, GAP + i * (227 + GAP) : GAP + i * (227 + GAP) + 227]
        assert heading.min() < 60


def test_row_labels_widen_the_figure():
    plain, labelled = samples_figure({"A": flat(1)}), samples_figure({"A": flat(1)}, rows=["one", "two"])
    assert labelled.width > plain.width and labelled.height == plain.height


def test_uneven_columns_are_refused():
    with pytest.raises(ValueError, match="no figure"):
        samples_figure({"A": flat(1, 2), "B": flat(1, 3)})


def test_pairs_grid_alternates_originals_and_reconstructions():
    grid = pairs_grid(flat(0, 2), flat(255, 2), tile=32)
    assert grid.dtype == torch.uint8
    assert [grid[0, 18, 2 + 16 + i * 34].item() for i in range(4)] == [0, 255, 0, 255]
