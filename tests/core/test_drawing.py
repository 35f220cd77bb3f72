import numpy as np
import pytest
import torch

from inversion.core.drawing import GAP, images_grid, layers_figure, sample_columns, samples_figure


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


def test_a_grid_alternates_its_columns():
    grid = images_grid([flat(0, 2), flat(255, 2)], pairs=2, tile=32)
    assert grid.dtype == torch.uint8
    assert [grid[0, 18, 2 + 16 + i * 34].item() for i in range(4)] == [0, 255, 0, 255]


def test_layers_stand_side_by_side_and_their_samples_below():
    alone = samples_figure({"Original": flat(10), "Conv2": flat(100)})
    columns = {"Conv2": {"Mean": flat(100)}, "FC8": {"Mean": flat(50), "Sample 1": flat(150)}}
    figure = layers_figure(flat(10), columns)
    assert list(np.asarray(figure)[alone.height - GAP - 100, [150, 400], 0]) == [10, 100]
    assert list(np.asarray(figure)[-GAP - 100, [150, 400, 600], 0]) == [10, 50, 150]
    assert layers_figure(flat(10), {"Conv2": {"Mean": flat(100)}}).tobytes() == alone.tobytes()


def test_where_samples_differ_is_their_standard_deviation():
    samples = torch.zeros(1, 2, 3, 4, 4)
    samples[0, 0, :, 0, 0], samples[0, 1, :, 0, 0] = -0.1, 0.1  # in [-1, 1]; in [0, 1] their deviation is 0.1 / sqrt(2)
    shown = sample_columns(samples)
    assert list(shown) == ["Sample 1", "Sample 2", "Where they differ"]
    assert abs(int(shown["Where they differ"][0, 0, 0, 0]) - 255 * 4 * 0.1 / 2**0.5) <= 1
    assert int(shown["Where they differ"].sum()) == 3 * int(shown["Where they differ"][0, 0, 0, 0])
    assert list(sample_columns(samples[:, :1])) == ["Sample 1"]
