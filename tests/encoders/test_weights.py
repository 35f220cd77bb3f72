"""Weights as the world writes them. The network here is tiny: its tensors are called as some of AlexNet's."""

import argparse
import hashlib
import pickle
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from inversion.core.errors import InputError
from inversion.encoders import weights
from inversion.encoders.weights import find_weights, fitting


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 2, 1))
        self.classifier = nn.Sequential(nn.ReLU(), nn.Linear(2, 3))


@pytest.fixture(scope="module")
def network():
    return Tiny()


@pytest.fixture(scope="module")
def state(network):
    return {key: value.detach() for key, value in network.state_dict().items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pt"


def prefixed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


def load(path, state):
    return fitting(find_weights(str(path), list(state)), state, list(state), str(path))


WRAPPED = {
    "plain": (lambda state: state, None),
    "nested": (lambda state: {"net": state, "epoch": 3}, "net.features.0.weight"),
    "imagenet example": (
        lambda state: {"state_dict": {k.replace("features.", "features.module."): v for k, v in state.items()}},
        "state_dict.features.module.0.weight",
    ),
    "DataParallel": (lambda state: prefixed(state, "module."), "module.features.0.weight"),
    "compiled, Lightning": (
        lambda state: {"state_dict": prefixed(state, "model._orig_mod."), "loops": {}},
        "state_dict.model._orig_mod.features.0.weight",
    ),
    "averaged": (
        lambda state: {"n_averaged": torch.tensor(3), **prefixed(state, "module.")},
        "1 other tensors are not used, such as 'n_averaged'",
    ),
    "a second head": (lambda state: {**state, "aux.weight": torch.ones(2)}, "such as 'aux.weight'"),
    "an average besides": (
        lambda state: {"model": state, "model_ema": {key: value + 1 for key, value in state.items()}},
        "4 other tensors are not used, such as 'model_ema.features.0.weight'",
    ),
    "with arguments": (lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)}, "model.features.0.weight"),
    "parameters": (lambda state: {key: nn.Parameter(value) for key, value in state.items()}, None),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", WRAPPED)
def test_weights_are_unwrapped_and_the_log_says_so(name, legacy, state, path, caplog):
    if legacy and name == "with arguments":
        pytest.skip("torch can't name what a file of the old format holds besides tensors")
    wrap, said = WRAPPED[name]
    torch.save(wrap(state), path, _use_new_zipfile_serialization=not legacy)
    caplog.set_level("INFO")
    for _ in range(2):
        found = load(path, state)
    assert all(torch.equal(found[key], value) for key, value in state.items())
    assert (said is None and not caplog.text) or caplog.text.count(said) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_every_floating_type_and_safetensors_under_any_name(dtype, name, state, tmp_path):
    for save in (save_file, torch.save):
        save({key: value.to(dtype) for key, value in state.items()}, tmp_path / name)
        found = load(tmp_path / name, state)
        assert all(value.dtype == torch.float32 for value in found.values())
        assert all(torch.equal(found[key], value.to(dtype).float()) for key, value in state.items())


def test_what_is_not_needed_may_be_missing_or_of_another_shape(state, path):
    needed = ["features.0.weight", "features.0.bias"]
    other = {**state, "classifier.1.weight": torch.zeros(9, 9)}
    del other["classifier.1.bias"]
    assert list(fitting(other, state, needed, str(path))) == needed


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"features.0.weight": None}, "features.0.weight is missing"),
        ({"features.0.weight": torch.zeros(2, 1, 3, 3)}, r"features.0.weight is .2, 1, 3, 3., not .2, 1, 1, 1."),
        ({"features.0.bias": torch.tensor([0, torch.nan])}, "not finite in features.0.bias"),
        ({"features.0.bias": torch.full((2,), 1e300, dtype=torch.float64)}, "not finite in features.0.bias"),
        ({"features.0.bias": torch.ones(2, dtype=torch.int64)}, "features.0.bias holds no dense"),
        ({"features.0.bias": torch.ones(2).to_sparse()}, "features.0.bias holds no dense"),
        ({"features.0.bias": torch.ones(2, device="meta")}, "features.0.bias holds no dense"),
        ({"features.0.bias": torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8)}, "features.0.bias holds no dense"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch's, of sparse and quantised tensors
def test_weights_that_do_not_fit_are_refused(change, expected, state, path, one_line):
    torch.save({**state, **change}, path)
    with pytest.raises(InputError, match=expected) as error:
        load(path, state)
    assert str(path) in one_line(str(error.value))


def whole_model(path):
    torch.save(Tiny(), path)


def old_whole_model(path):
    torch.save({"model": Tiny()}, path, _use_new_zipfile_serialization=False)


def cut_off(path):
    torch.save(Tiny().state_dict(), path)
    path.write_bytes(path.read_bytes()[:900])


def other_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("saved_model.pb", b"x")


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (whole_model, "holds a whole model .pickled code.*save model.state_dict"),
        (old_whole_model, "holds a whole model .pickled code"),
        (lambda path: path.write_bytes(pickle.dumps({"a": Tiny()})), "holds a whole model"),
        (lambda path: torch.jit.script(nn.ReLU()).save(str(path)), "a TorchScript model"),
        (cut_off, "cut off or damaged"),
        (lambda path: path.write_bytes(struct.pack("<Q", 99) + b'{"a": 1}'), "cut off or damaged"),
        (lambda path: path.write_bytes(b"garbage\xff" * 1000), "cut off or damaged"),
        (other_zip, "a zip archive of something else"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0"), "git lfs pull"),
        (lambda path: path.write_text("<!DOCTYPE html><html></html>"), "a web page"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "an HDF5 file"),
        (lambda path: path.write_bytes(b"\x08\x07\x12\x07pytorch\x1a"), "an ONNX model"),
        (lambda path: path.touch(), "empty"),
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: None, "no such file"),
        (lambda path: torch.save([1, 2], path), "it holds no tensors"),
        (lambda path: torch.save(nn.Linear(2, 2).state_dict(), path), "its first tensor is 'weight'"),
        (lambda path: torch.save({"a\nb" * 99: torch.zeros(1)}, path), "its first tensor is 'a.nb"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch's, of other pickles than its own
def test_other_files_are_named_for_what_they_are(write, expected, state, path, one_line):
    write(path)
    with pytest.raises(InputError, match=expected) as error:
        load(path, state)
    assert str(path) in one_line(str(error.value))


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
def test_code_in_a_file_of_weights_never_runs(write, run, path, tmp_path, one_line):
    marker = tmp_path / "marker"
    write({"features.0.weight": Touch(marker)}, path)
    with pytest.raises(InputError, match="not only tensors") as error:
        find_weights(str(path), ["features.0.weight"])
    one_line(str(error.value))
    assert not marker.exists()
    run(path)["features.0.weight"].close()
    assert marker.exists()  # it would have, had it run


@pytest.mark.parametrize(
    "raised", [IndexError("pop"), struct.error("4 bytes"), AttributeError("x"), AssertionError(), TypeError("a\nb" * 99)]
)
def test_whatever_torch_throws_at_a_file_is_the_files_fault(raised, path, monkeypatch, one_line):
    def fail(*arguments, **options):
        raise raised

    monkeypatch.setattr(torch, "load", fail)
    path.write_bytes(b"garbage\xff")
    with pytest.raises(InputError, match="can't be read as weights .cut off or damaged") as error:
        find_weights(str(path), ["a"])
    assert len(one_line(str(error.value))) < len(str(path)) + 280


def test_weights_that_may_not_be_read_say_so(path, monkeypatch, one_line):
    def fail(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    path.touch()
    monkeypatch.setattr(weights.Path, "open", fail)  # a mode of 000 would not keep root out
    with pytest.raises(InputError, match="can't be read .*Permission denied") as error:
        find_weights(str(path), ["a"])
    one_line(str(error.value))


def test_a_user_who_is_not_there_is_told(one_line):
    with pytest.raises(InputError, match="~nosuchuser/x.pt: no such file") as error:
        find_weights("~nosuchuser/x.pt", ["a"])
    one_line(str(error.value))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    return tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth"


def test_damaged_imagenet_weights_are_found_by_their_hash(hub, one_line):
    hub.parent.mkdir()
    hub.write_bytes(b"garbage")
    with pytest.raises(InputError, match="damaged") as error:
        weights.imagenet_weights()
    assert str(hub) in one_line(str(error.value))


def test_imagenet_weights_are_taken_from_the_cache(hub, monkeypatch):
    content = b"stands for the weights"
    hub.parent.mkdir()
    hub = hub.with_name(f"alexnet-owt-{hashlib.sha256(content).hexdigest()[:8]}.pth")
    hub.write_bytes(content)
    url = f"http://127.0.0.1:9/{hub.name}"
    monkeypatch.setattr(weights, "AlexNet_Weights", type("W", (), {"IMAGENET1K_V1": type("V", (), {"url": url})}))
    assert weights.imagenet_weights() == hub


def test_no_network_names_url_path_and_ways_out(hub, monkeypatch, one_line):
    url = f"http://127.0.0.1:9/{hub.name}"  # nothing listens on port 9
    monkeypatch.setattr(weights, "AlexNet_Weights", type("W", (), {"IMAGENET1K_V1": type("V", (), {"url": url})}))
    with pytest.raises(InputError, match="can't be downloaded") as error:
        weights.imagenet_weights()
    sentence = one_line(str(error.value))
    assert url in sentence and str(hub) in sentence and "encoder.weights=PATH" in sentence
