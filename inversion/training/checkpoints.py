"""Checkpoints: written whole or not at all, read without running code, gone on from only by the run they belong to."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from inversion.core.errors import InputError
from inversion.core.files import save_atomic
from inversion.data.split import Split
from inversion.encoders.alexnet import Encoder

BEST = "best"
LAST = "last"
METADATA = "inversion"
FORMAT = 2
"""Version of what stands under `METADATA` in a checkpoint."""
KEYS = {"config", "native_size", "split", "encoder"}
"""What else stands there."""
STATE = ("epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers")
"""What Lightning goes on from, beside the weights."""
MUST_MATCH = (
    "layer.name",
    "decoder",
    "loss",
    "optimizer",
    "scheduler",
    "seed",
    "standardize",
    "encoder.input_stats",
    "data.batch_size",
    "data.shuffle_seed",
    "data.flip",
    "data.native_size",
    "data.feature_type",
    "trainer.precision",
)
"""Options a decoder's run can't change on its way. `trainer.max_epochs` may grow where the schedule doesn't depend on it, and
folders may move."""
MUST_MATCH_FINISHED = ("trainer.max_epochs", "test", "samples")
"""Options that a finished run can't change either."""
MUST_MATCH_ENCODER = (
    "classifier",
    "seed",
    "data.batch_size",
    "data.flip",
    "data.native_size",
    "trainer.max_epochs",
    "trainer.precision",
)
"""The same of an encoder's, whose learning rate has one cycle over all epochs."""


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's plain checkpoint files, synced and renamed into place on their own file system."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        save_atomic(Path(path), checkpoint)


def path_of(folder: Path, name: str) -> Path:
    """The checkpoint `BEST` or `LAST` of a run's folder."""
    return folder / "checkpoints" / f"{name}.ckpt"


def metadata(
    config: DictConfig, precision: str, split: Split, native_size: int, encoder: Encoder | None = None
) -> dict[str, Any]:
    """What a checkpoint says of its run: the resolved config with the precision that it came to, the images' native size, and
    hashes of the split and of the encoder's weights, if it has one.
    """
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    resolved["trainer"]["precision"] = precision
    return {
        "format": FORMAT,
        "config": resolved,
        "native_size": native_size,
        "split": split.digest,
        "encoder": encoder and encoder.digest,
    }


def read(path: Path) -> dict[str, Any]:
    """The checkpoint's content, on the CPU. Runs no code from the file.

    Raises:
        InputError: no checkpoint, a cut or damaged one, one of another version of this project, or weights that are no finite
            numbers.
    """
    advice = "delete it to start anew, or put a whole copy in its place"
    try:
        with zipfile.ZipFile(path) as file:  # whose checksums torch doesn't look at
            damaged = file.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(damaged)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the parser stumbles over, the file is at fault
        raise InputError(f"{path} is no whole checkpoint ({type(error).__name__}): {advice}.") from error
    found = content.get(METADATA) if isinstance(content, dict) else None
    if not isinstance(found, dict) or found.get("format") != FORMAT or not found.keys() >= KEYS:
        raise InputError(f"{path} is no checkpoint of this version of the project: {advice}.")
    state = content.get("state_dict")
    if not isinstance(state, dict) or not state:
        raise InputError(f"{path} holds no weights: {advice}.")
    if odd := [key for key, value in state.items() if not _is_finite(value)]:
        raise InputError(f"{path} holds something else than finite numbers in {odd[0]!r:.120}: {advice}.")
    return content


def _is_finite(value: object) -> bool:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta or value.is_quantized:
        return False
    return bool(value.isfinite().all())


def check_fits(path: Path, content: Mapping[str, Any], model: nn.Module) -> None:
    """Raises InputError unless the checkpoint holds what the model needs to go on: weights of its names and shapes, and the
    training's state.
    """
    wanted, found = (
        {key: value.shape for key, value in state.items()} for state in (model.state_dict(), content["state_dict"])
    )
    odd = [key for key in [*wanted, *found] if wanted.get(key) != found.get(key)]
    odd += [key for key in STATE if key not in content]
    if odd:
        raise InputError(
            f"{path} doesn't fit its run ({odd[0]!r:.120}): delete it to start anew, or put a whole copy in its place."
        )


def check_resumes(path: Path, now: Mapping[str, Any], must_match: Sequence[str] = MUST_MATCH) -> dict[str, Any]:
    """Checks that the run to come is the one that wrote the checkpoint, whose content is returned.

    Args:
        path: the checkpoint to go on from.
        now: the `metadata` of the run to come.
        must_match: the options that must be the same.

    Raises:
        InputError: a must_match option, the split or the encoder's weights differ; or what `read` raises.
    """
    content = read(path)
    before = content[METADATA]
    advice = "give another hydra.run.dir (hydra.sweep.dir for a sweep), or delete that folder to start anew"
    if difference := first_difference(before["config"], now["config"], must_match):
        raise InputError(f"{path.parents[1]} holds a run with {difference}: {advice}.")
    for key, name in (("split", "another draw of images"), ("encoder", "other encoder weights")):
        if before[key] != now[key]:
            raise InputError(f"{path.parents[1]} holds a run with {name}: {advice}.")
    return content


def first_difference(before: Any, now: Any, must_match: Sequence[str]) -> str | None:
    """The first of these options in which two configs (containers or DictConfigs) differ, as in `seed=0, not 1`; or None."""
    for key in must_match:
        then, here = (OmegaConf.select(OmegaConf.create(config), key) for config in (before, now))
        if then != here:
            return _difference(key, then, here)
    return None


def _difference(key: str, then: Any, here: Any) -> str:
    if isinstance(then, DictConfig) and isinstance(here, DictConfig):
        odd = next(k for k in [*then, *here] if then.get(k, "left out") != here.get(k, "left out"))
        return _difference(f"{key}.{odd}", then.get(odd, "left out"), here.get(odd, "left out"))
    return f"{key}={then}, not {here}"
