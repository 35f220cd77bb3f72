"""What a channel matters, what excites it, what it sees."""

import torch
from torch import nn

from inversion.core import pixels
from inversion.encoders.alexnet import Encoder
from inversion.results.trained import TrainedRun
from inversion.studies import (
    channels,
)


class SumOfTwo:
    """A run whose decoder gives the sum of the first two of three channels in grey."""

    layer = "conv5"

    def predict(self, features):
        return features[:, :2].sum(1, keepdim=True).expand(-1, 3, -1, -1)


def test_a_dead_channel_changes_nothing_and_a_live_one_what_it_should(subject):
    grey = subject.on("val")
    truth = pixels.normalize(grey.images)[:, 0]
    grey.images = grey.images[:, :1].expand(-1, 3, -1, -1)  # so that the decoder can be right
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    features = torch.stack([truth - 0.25, torch.full_like(truth, 0.25), noise], dim=1)
    mean = features.mean(0)
    rises = channels.importance(grey, SumOfTwo(), features, mean, torch.arange(3))
    assert rises[0] > 1e-3 and rises[1:].abs().max() < 1e-7
    assert channels.variances(features, mean)[1] == 0


def test_channels_are_replaced_whichever_side_is_the_mean():
    features, mean = torch.rand(4, 3, 2, 2), torch.zeros(3, 2, 2)
    one = torch.tensor([1])
    without, alone = channels.replaced(features, one, mean), channels.replaced(mean, one, features)
    assert without[:, 1].abs().max() == 0 and torch.equal(without + alone, features)


def test_a_unit_reaches_what_moves_it_and_nothing_else():
    encoder, reach = Encoder("conv1", "random"), channels.reach
    image = pixels.resize(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1, 227)
    channel = int(encoder(image)[0, :, 13, 13].argmax())
    rows, columns = reach(encoder, image, channel, 13 * 27 + 13)
    assert rows.stop - rows.start == columns.stop - columns.start == 11  # of the pool's window, the convolution that won
    for inside in (False, True):
        other = torch.rand(1, 3, 227, 227) if not inside else image.clone()
        other[..., rows, columns] = image[..., rows, columns] * (2 if inside else 1)
        moved = (encoder(other)[0, channel, 13, 13] - encoder(image)[0, channel, 13, 13]).abs() > 1e-4
        assert moved == inside or (not inside and encoder(other)[0, channel, 13, 13] > encoder(image)[0, channel, 13, 13])


def test_patches_are_of_the_images_that_excite_a_channel_most():
    encoder = Encoder("conv2", "random")
    native = torch.randint(256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = encoder(pixels.resize(pixels.normalize(native), 227))
    features[1, 5] = 1e3  # whatever it shows
    features[:, 6] = 0
    run = TrainedRun(encoder, nn.Identity(), nn.Identity(), {})
    patches = channels.exciting_patches(run, native, features, 5)
    assert patches.shape == (3, 3, 227, 227) and patches.abs().max() <= 1
    alone = channels.exciting_patches(run, native[1:2], features[1:2], 5)
    assert torch.equal(patches[0], alone[0]) and not torch.equal(patches[0], patches[1])


def test_channels_that_are_not_ablated_follow_by_variance(subject, tmp_path):
    rows = channels.channels(subject, tmp_path, images=8, candidates=1, shown=1).rows
    of = {name: [row["mse"] for row in rows if row.get("order") == name] for name in channels.ORDERS}
    assert of["by importance"] == of["by variance"] != of["at random"]
