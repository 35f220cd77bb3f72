import hashlib
import pickle
import struct

import pytest
import torch
from torchvision.models import AlexNet

from inversion.core.errors import InputError
from inversion.encoders import alexnet
from inversion.encoders.alexnet import TAPS, Encoder


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


def _changed(change):
    """Writes AlexNet's state dict after `change`, which alters it or gives another thing to save."""

    def write(path):
        state = dict(AlexNet(num_classes=2).state_dict())
        torch.save(change(state) or state, path)

    return write


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (_other_architecture, "is not AlexNet"),
        (_wrong_shape, "features.0.weight"),
        (_not_finite, "not finite"),
        (_cut_off, "cut off"),
        (lambda path: path.write_bytes(b"garbage" * 1000), "can't be read"),
        (lambda path: path.write_bytes(pickle.dumps({"a": Payload()})), "can't be read"),
        (lambda path: torch.save([1, 2], path), "not a state dict"),
        (lambda path: torch.save({1: torch.zeros(1), "a": torch.zeros(1)}, path), "1 does not belong"),
        (lambda path: torch.save({"a\nb" * 99: torch.zeros(1)}, path), "a.nb.* does not belong"),
        (
            _changed(lambda state: state.update({"features.0.bias": torch.full((64,), 1e300, dtype=torch.float64)})),
            "not finite",
        ),
        (_changed(lambda state: {"epoch": 3, "state_dict": state}), "under the key 'state_dict': save that inner"),
        (_changed(lambda state: {"model": state, "optimizer": {"state": {}}}), "under the key 'model': save that inner"),
        (_changed(lambda state: {f"module.{key}": value for key, value in state.items()}), "DataParallel's prefix"),
        (
            _changed(lambda state: state.update({"features.0.bias": torch.ones(64).to_sparse()})),
            "features.0.bias holds no dense",
        ),
        (
            _changed(lambda state: state.update({"features.0.bias": torch.ones(64, device="meta")})),
            "features.0.bias holds no dense",
        ),
        (
            _changed(
                lambda state: state.update({"features.0.bias": torch.quantize_per_tensor(torch.ones(64), 1, 0, torch.qint8)})
            ),
            "features.0.bias holds no dense",
        ),
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: path.touch(), "empty"),
        (_changed(lambda state: {"state_dict": {"fc.weight": torch.ones(1)}}), "does not belong to it|is missing"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch's, of sparse and quantised tensors and other pickles than its own
def test_bad_weights_are_told_in_one_sentence(write, expected, tmp_path, capsys, one_line):
    path = tmp_path / "weights.pt"
    write(path)
    with pytest.raises(InputError, match=expected) as error:
        Encoder("conv1", str(path))
    assert str(path) in one_line(str(error.value))
    assert "code ran" not in capsys.readouterr().out


class Touch:
    """Creates a file when unpickled by an unpickler that runs code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("write", "run"),
    [
        (torch.save, lambda path: torch.load(path, weights_only=False)),
        (lambda content, path: path.write_bytes(pickle.dumps(content)), lambda path: pickle.loads(path.read_bytes())),
    ],
)
def test_code_in_a_file_of_weights_never_runs(write, run, tmp_path, one_line):
    path, marker = tmp_path / "weights.pt", tmp_path / "marker"
    write({"features.0.weight": Touch(marker)}, path)
    with pytest.raises(InputError, match="more than tensors") as error:
        alexnet.load_weights(str(path))
    one_line(str(error.value))
    assert not marker.exists()
    run(path)["features.0.weight"].close()
    assert marker.exists()  # it would have, had it run


@pytest.mark.parametrize(
    "raised", [IndexError("pop"), struct.error("4 bytes"), AttributeError("x"), AssertionError(), TypeError("a\nb" * 99)]
)
def test_whatever_torch_throws_at_a_file_is_the_files_fault(raised, tmp_path, monkeypatch, one_line):
    def fail(*arguments, **options):
        raise raised

    monkeypatch.setattr(torch, "load", fail)
    path = tmp_path / "weights.pt"
    path.write_bytes(b"garbage")
    with pytest.raises(InputError, match="can't be read as PyTorch weights") as error:
        alexnet.load_weights(str(path))
    assert len(one_line(str(error.value))) < len(str(path)) + 280


def test_weights_that_may_not_be_read_say_so(hub, tmp_path, monkeypatch, one_line):
    def fail(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    hub.parent.mkdir()
    hub.write_bytes(b"there")
    monkeypatch.setattr(torch, "load", fail)
    monkeypatch.setattr(alexnet.Path, "read_bytes", fail)
    for weights in (str(hub), "imagenet"):
        with pytest.raises(InputError, match="can't be read .*Permission denied") as error:
            alexnet.load_weights(weights)
        assert str(hub) in one_line(str(error.value))


def test_a_cache_below_a_file_is_told(hub, one_line):
    hub.parent.write_text("in the way")
    with pytest.raises(InputError, match="can't be downloaded") as error:
        alexnet.imagenet_weights()
    assert str(hub) in one_line(str(error.value))


def test_a_user_who_is_not_there_is_told(one_line):
    with pytest.raises(InputError, match="~nosuchuser/x.pt: no such file") as error:
        alexnet.load_weights("~nosuchuser/x.pt")
    one_line(str(error.value))


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
