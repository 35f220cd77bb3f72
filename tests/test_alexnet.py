import hashlib
import pickle

import pytest
import torch
from torchvision.models import AlexNet

from inversion import alexnet
from inversion.alexnet import TAPS, Encoder
from inversion.errors import InputError


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
    for layer, tap in TAPS.items():
        module = network.get_submodule(tap.module)
        module.register_forward_hook(lambda _m, _i, output, layer=layer: seen.update({layer: output.clone()}))
    with torch.no_grad():
        network(images)
        for layer in TAPS:
            assert torch.equal(alexnet.cut(network, TAPS[layer].module)(images), seen[layer]), layer


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
        mixed = encoder(images)
    assert torch.equal(mixed, encoder(images))


def test_any_number_of_classes_and_floating_type(saved):
    encoder = Encoder("fc8", str(saved))
    assert encoder.feature_shape == (7,)
    assert all(parameter.dtype == torch.float32 for parameter in encoder.parameters())
    assert encoder.is_trained


def test_input_stats_renormalise_to_imagenets(saved):
    plain, renormalised = Encoder("conv1", str(saved)), Encoder("conv1", str(saved), input_stats="imagenet")
    images = torch.rand(1, 3, 227, 227) * 2 - 1
    mean, std = torch.tensor(alexnet.IMAGENET_MEAN), torch.tensor(alexnet.IMAGENET_STD)
    by_hand = ((images + 1) / 2 - mean[:, None, None]) / std[:, None, None]
    assert torch.allclose(renormalised(images), plain(by_hand), atol=1e-5)


class Payload:
    def __reduce__(self):
        return (print, ("code ran",))


def _other_architecture(path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)


def _wrong_shape(path):
    state = AlexNet().state_dict()
    state["features.0.weight"] = torch.zeros(64, 3, 3, 3)
    torch.save(state, path)


def _not_finite(path):
    state = AlexNet(num_classes=2).state_dict()
    state["features.0.bias"][0] = torch.nan
    torch.save(state, path)


def _cut_off(path):
    torch.save(AlexNet(num_classes=2).state_dict(), path)
    path.write_bytes(path.read_bytes()[:100_000])


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (_other_architecture, "is not AlexNet"),
        (_wrong_shape, "features.0.weight"),
        (_not_finite, "not finite"),
        (_cut_off, "can't be read"),
        (lambda path: path.write_bytes(b""), "can't be read"),
        (lambda path: path.write_bytes(b"garbage" * 1000), "can't be read"),
        (lambda path: path.write_bytes(pickle.dumps({"a": Payload()})), "can't be read"),
        (lambda path: torch.save([1, 2], path), "not a state dict"),
        (lambda path: None, "no such file"),
    ],
)
def test_bad_weights_are_told_in_one_sentence(write, expected, tmp_path, capsys, one_line):
    path = tmp_path / "weights.pt"
    write(path)
    with pytest.raises(InputError, match=expected) as error:
        Encoder("conv1", str(path))
    assert str(path) in one_line(str(error.value))
    assert "code ran" not in capsys.readouterr().out


def test_unknown_layer_names_the_layers():
    with pytest.raises(InputError, match="conv1, conv2, .*fc8"):
        Encoder("conv6", "random")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    return tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth"


def test_damaged_imagenet_weights_are_found_by_their_hash(hub, one_line):
    hub.parent.mkdir()
    hub.write_bytes(b"garbage")
    with pytest.raises(InputError, match="damaged") as error:
        alexnet.imagenet_weights()
    assert str(hub) in one_line(str(error.value))


def test_imagenet_weights_are_taken_from_the_cache(hub, monkeypatch):
    content = b"stands for the weights"
    hub.parent.mkdir()
    hub = hub.with_name(f"alexnet-owt-{hashlib.sha256(content).hexdigest()[:8]}.pth")
    hub.write_bytes(content)
    url = f"http://127.0.0.1:9/{hub.name}"
    monkeypatch.setattr(alexnet, "AlexNet_Weights", type("W", (), {"IMAGENET1K_V1": type("V", (), {"url": url})}))
    assert alexnet.imagenet_weights() == hub


def test_no_network_names_url_path_and_ways_out(hub, monkeypatch, one_line):
    url = f"http://127.0.0.1:9/{hub.name}"  # nothing listens on port 9
    monkeypatch.setattr(alexnet, "AlexNet_Weights", type("W", (), {"IMAGENET1K_V1": type("V", (), {"url": url})}))
    with pytest.raises(InputError, match="can't be downloaded") as error:
        alexnet.imagenet_weights()
    sentence = one_line(str(error.value))
    assert url in sentence and str(hub) in sentence and "encoder.weights=PATH" in sentence
