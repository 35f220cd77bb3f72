import pytest
import torch
from torch import nn
from torchvision.models import AlexNet

from inversion.core.errors import InputError
from inversion.encoders import alexnet
from inversion.encoders.alexnet import TAPS, Encoder

LAST_MODULES = {
    "conv1": "features.2",
    "conv2": "features.5",
    "conv3": "features.7",
    "conv4": "features.9",
    "conv5": "features.12",
    "fc6": "classifier.2",
    "fc7": "classifier.5",
    "fc8": "classifier.6",
}


@pytest.fixture(scope="module")
def network():
    return alexnet.random_alexnet(0).eval()


@pytest.fixture(scope="module")
def saved(network, tmp_path_factory):
    """An AlexNet with 7 classes, in bfloat16."""
    small = AlexNet(num_classes=7)
    path = tmp_path_factory.mktemp("weights") / "seven.pt"
    torch.save({key: value.bfloat16() for key, value in small.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("layer", TAPS)
def test_shapes_are_the_tables(layer, network, monkeypatch):
    monkeypatch.setattr(alexnet, "random_alexnet", lambda seed: network)
    encoder = Encoder(layer, "random")
    assert encoder.feature_shape == TAPS[layer].shape
    assert encoder(torch.zeros(2, 3, 227, 227)).shape == (2, *TAPS[layer].shape)


def test_features_are_those_of_the_whole_network(network):
    """Each tap against torchvision's own forward, read with hooks on modules that keep their outputs."""
    images = torch.rand(2, 3, 227, 227)
    seen = {}
    for layer, name in LAST_MODULES.items():
        module = network.get_submodule(name)
        module.register_forward_hook(lambda _m, _i, output, layer=layer: seen.update({layer: output.clone()}))
    with torch.no_grad():
        network(images)
        for layer in TAPS:
            assert torch.equal(alexnet.flat(network)[: TAPS[layer].modules](images), seen[layer]), layer


def test_random_weights_follow_the_seed():
    def first(seed):
        return alexnet.random_alexnet(seed).features[0].weight

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_random_weights_keep_the_signals_scale(network):
    with torch.no_grad():
        logits = network(torch.randn(4, 3, 227, 227))
    assert 0.1 < logits.std() < 10


def test_stays_frozen_and_in_eval(network, monkeypatch):
    monkeypatch.setattr(alexnet, "random_alexnet", lambda seed: network)
    encoder = Encoder("fc7", "random")
    torch.nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    images = torch.rand(1, 3, 227, 227)
    assert torch.equal(encoder(images), encoder(images))
    assert not encoder(images).requires_grad


def test_features_are_float32_in_mixed_precision_too(saved):
    encoder, images = Encoder("fc8", str(saved)), torch.rand(1, 3, 227, 227)
    with torch.autocast("cpu", torch.bfloat16):
        frozen = encoder(images)
        encoder.mixed = True
        assert encoder(images).dtype == torch.bfloat16
    assert torch.equal(frozen, encoder(images))


def test_any_number_of_classes_and_floating_type(saved):
    encoder = Encoder("fc8", str(saved))
    assert encoder.feature_shape == (7,)
    assert all(parameter.dtype == torch.float32 for parameter in encoder.parameters())


def test_input_stats_renormalise_to_imagenets(saved):
    plain, renormalised = Encoder("conv1", str(saved)), Encoder("conv1", str(saved), input_stats="imagenet")
    images = torch.rand(1, 3, 227, 227) * 2 - 1
    mean, std = torch.tensor(alexnet.IMAGENET_MEAN), torch.tensor(alexnet.IMAGENET_STD)
    by_hand = ((images + 1) / 2 - mean[:, None, None]) / std[:, None, None]
    assert torch.allclose(renormalised(images), plain(by_hand), atol=1e-5)


def test_only_what_lies_before_the_tap_is_needed(network, tmp_path, one_line):
    path, state = tmp_path / "weights.pt", {key: value.half() for key, value in network.state_dict().items()}
    convolutions = {key: value for key, value in state.items() if key.startswith("features.")}
    torch.save({"model": convolutions, "epoch": 3}, path)
    encoder = Encoder("conv5", str(path))
    assert encoder.deepest == "conv5"
    assert encoder.feature_shape == TAPS["conv5"].shape
    with pytest.raises(InputError, match="not as much of it as this layer needs .classifier.1.weight is missing") as error:
        Encoder("fc6", str(path))
    assert str(path) in one_line(str(error.value))
    torch.save(convolutions | {"classifier.6.weight": torch.zeros(3, 4096), "classifier.6.bias": torch.zeros(3)}, path)
    assert Encoder("conv5", str(path)).deepest == "conv5"


def test_the_digest_is_of_the_weights_not_of_their_file(saved, tmp_path):
    state = {key: value for key, value in torch.load(saved, weights_only=True).items() if key.startswith("features.")}
    last = {key: value.to(memory_format=torch.channels_last) if value.dim() == 4 else value for key, value in state.items()}
    torch.save({"state_dict": {f"module.{key}": value.float() for key, value in last.items()}}, tmp_path / "other.pt")
    plain, wrapped = Encoder("conv5", str(saved)), Encoder("conv5", str(tmp_path / "other.pt"))
    assert plain.digest == wrapped.digest != Encoder("conv5", str(tmp_path / "other.pt"), "imagenet").digest
    assert (plain.deepest, wrapped.deepest) == ("fc8", "conv5")


def test_unknown_layer_names_the_layers():
    with pytest.raises(InputError, match="conv1, conv2, .*fc8"):
        Encoder("conv6", "random")


def test_dropout_is_the_published_codes(saved):
    images = torch.rand(2, 3, 227, 227) * 2 - 1
    for layer, zeros in (("conv5", 0.0), ("fc6", 0.5), ("fc8", 0.0)):
        encoder = Encoder(layer, str(saved))
        noisy, plain = encoder.with_dropout(images), encoder(images)
        assert torch.equal(noisy, plain) == (layer == "conv5")
        assert float((noisy == 0).float().mean()) >= zeros + (1 - zeros) * 0.3 * (layer == "fc6")
        assert torch.equal(encoder(images), plain)


def first(option):
    return option[0] if isinstance(option, tuple) else option


@pytest.mark.parametrize("size", [64, 50, 8])
@pytest.mark.parametrize("layer", [layer for layer, tap in TAPS.items() if len(tap.shape) == 3])
def test_placed_maps_lie_where_the_network_saw_them(layer, size, network):
    """Cells that hold the centre of what they see, by the network's own arithmetic, become pixels that hold their place."""
    stride, centre = 1, 0.5
    for module in alexnet.flat(network)[: TAPS[layer].modules]:
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            centre += stride * ((first(module.kernel_size) - 1) / 2 - first(module.padding))
            stride *= first(module.stride)
    cells = torch.arange(-1, TAPS[layer].shape[1] + 1) * stride + centre
    for extent in (227, 252):
        places = (torch.arange(size) + 0.5) * extent / size
        placed = alexnet.place(cells.expand(2, 3, len(cells), -1), size, extent)
        turned = alexnet.place(cells[:, None].expand(2, 3, -1, len(cells)), size, extent)
        assert placed.shape == (2, 3, size, size) and torch.allclose(placed, turned.mT)
        reach = max(0, extent / size - stride)  # of an antialiased pixel, which sees less at the edges
        inside = (places > cells[0] + reach) & (places < cells[-1] - reach)
        tolerance = stride / 9 if reach else 1e-3
        assert inside.sum() > size / 2 and torch.allclose(placed[0, 0, 0][inside], places[inside], atol=tolerance)
