"""Weights of a network as the world writes them: read without running anything, unwrapped, and checked against the network."""

import functools
import logging
import zipfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import AlexNet_Weights

from inversion.core.download import download, hash_of
from inversion.core.errors import InputError
from inversion.core.file_kinds import kind_of
from inversion.core.files import expand, lock

log = logging.getLogger(__name__)
say_once = functools.cache(log.info)

WRAPPERS = ("module", "_orig_mod")
"""What DataParallel and torch.compile put into a key, wherever it stands."""
ADVICE = "encoder.weights takes torchvision's AlexNet, as torch.save(model.state_dict(), PATH) or safetensors write it"
CODE = "holds a whole model (pickled code), not only tensors: load it where you trust it and save model.state_dict()"


class _StandIn:
    """Replaces every class and function that a file names and torch doesn't know, so that none of them runs."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def find_weights(weights: str, names: Collection[str]) -> dict[str, Tensor]:
    """A network's tensors by `names`, its state dict's keys, as far as the file has them, under whichever prefixes. `weights`
    is `imagenet`, or the path of a file that torch.save or safetensors wrote. Logs what it unwrapped and left.

    Raises InputError: no such file, one that can't be read or holds none of these tensors, or the download failed.
    """
    path = imagenet_weights() if weights == "imagenet" else expand(weights)
    if not path.is_file():
        trouble = "a folder" if path.is_dir() else "no such file"
        raise InputError(f"encoder.weights={weights}: {trouble}; give 'imagenet', 'random' or the path of weights.")
    content = flattened(_read(path))
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    found: dict[str, dict[str, str]] = {}  # prefix -> name -> key
    for key in tensors:
        plain = ".".join(part for part in key.split(".") if part not in WRAPPERS)
        for name in names:
            if f".{plain}".endswith(f".{name}"):
                found.setdefault(plain.removesuffix(name), {})[name] = key
    if not found:
        if any(isinstance(value, _StandIn) for value in content.values()):
            raise InputError(f"{path} {CODE}.")
        what = f"its first tensor is {next(iter(tensors))!r:.120}" if tensors else "it holds no tensors"
        raise InputError(f"{path} is not AlexNet ({what}): {ADVICE}.")
    best = max(found.values(), key=len)  # the first of those that are as complete
    name, key = next(iter(best.items()))
    if key != name:
        say_once(f"{path}: {key!r:.120} is taken for {name}, and the others likewise.")
    if others := [key for key in tensors if key not in best.values()]:
        say_once(f"{path}: {len(others)} other tensors are not used, such as {others[0]!r:.120}.")
    return {name: tensors[key] for name, key in best.items()}


def fitting(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], needed: Collection[str], source: str
) -> dict[str, Tensor]:
    """Those of the tensors that `find_weights` gave that have the shape expected by the network's state dict, in float32.
    Raises InputError, which names the source: one of the needed is missing or has another shape, or a weight is not finite.
    """
    result = {}
    for key, like in expected.items():
        tensor, trouble = state.get(key), ""
        if tensor is None:
            trouble = "is missing"
        elif tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
            trouble = "holds no dense floating-point numbers"
        elif tensor.shape != like.shape:
            trouble = f"is {list(tensor.shape)}, not {list(like.shape)}"
        else:
            result[key] = tensor.detach().float().contiguous()
            if not result[key].isfinite().all():
                raise InputError(f"{source} holds values that are not finite in {key}: train or copy these weights again.")
        if trouble and key in needed:
            raise InputError(f"{source} is not AlexNet, or not as much of it as this layer needs ({key} {trouble}): {ADVICE}.")
    return result


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            if file.read(9)[8:] == b"{":  # after eight bytes that hold the header's length
                return load_file(path)
            unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
            file.seek(0)
            with torch.serialization.safe_globals([(_StandIn, name) for name in unknown]):
                return torch.load(file, map_location="cpu", weights_only=True)  # the file: of a path, torch heeds the suffix
    except Exception as error:  # the parsers throw anything at garbage, and whatever fails here is the file's fault
        raise InputError(f"{path} can't be read as weights ({_reason(path, error)}): {ADVICE}.") from error


def _reason(path: Path, error: Exception) -> str:
    """What the file is, for the parsers' own words tell of their insides, or advise to run its code."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    with suppress(Exception), zipfile.ZipFile(path) as archive:  # damaged zips throw anything, too
        names = {Path(name).name for name in archive.namelist()}
        if "constants.pkl" in names:
            return "a TorchScript model: save its state_dict()"
        if "data.pkl" not in names:
            return "a zip archive of something else"
    kind = kind_of(path)
    if kind not in (None, "a zip archive", "pickled Python objects"):
        return kind
    return CODE if kind and isinstance(error, UnpicklingError) else "cut off or damaged"


def flattened(content: object) -> dict[str, Any]:
    """Whatever nested mappings hold, under their keys joined by dots, the outer ones first."""
    flat, pending = {}, [("", content)]
    for prefix, value in pending:
        if not isinstance(value, Mapping):
            flat[prefix.removeprefix(".")] = value
        else:
            pending += [(f"{prefix}.{key}", inner) for key, inner in value.items()]
    return flat


def imagenet_weights() -> Path:
    """torchvision's IMAGENET1K_V1 in torch's own cache, downloaded if need be. Raises InputError if it can't be had."""
    url = AlexNet_Weights.IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    prefix = path.stem.rsplit("-", 1)[1]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path.with_name(f".{path.name}.lock")):
            if not path.is_file():
                log.info(f"Downloading {url} to {path}")
                advice = f"put that file at {path} (the folder follows TORCH_HOME), or give encoder.weights=PATH or =random"
                download(url, path, "AlexNet's ImageNet weights", "sha256", prefix, advice)
    found = hash_of(path, "sha256")
    if not found.startswith(prefix):
        raise InputError(f"{path} is damaged (SHA-256 {found[:8]}, not {prefix}): delete it to download it again.")
    return path
