"""Checkpoints: written atomically, read without running code, resumed only by the run they belong to."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from omegaconf import DictConfig, OmegaConf
from torch import nn

from inversion.core.errors import InputError
from inversion.core.files import save_atomic
from inversion.data.datamodule import ImageDataModule
from inversion.encoders.weights import flattened

BEST = "best"
LAST = "last"
METADATA = "inversion"
"""The key in a checkpoint under which `metadata` stands."""
FORMAT = 6
"""Version of what stands there."""
STATE = ("epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers")
"""What Lightning resumes from, beside the weights."""
WITHOUT_EFFECT = (
    *("name", "note", "hydra", "logger"),
    *("data.root", "data.archive", "data.url", "data.md5", "data.cache", "data.resident", "data.feature_gib"),
    *("encoder.weights", "encoder.seed", "loss.comparator.weights", "loss.comparator.seed"),  # compared by their hash
    *("callbacks.progress", "callbacks.grid", "callbacks.images_per_second", "callbacks.learning_rate", "callbacks.finite"),
    *("callbacks.last", "trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.profiler"),
    *("trainer.num_sanity_val_steps", "trainer.enable_progress_bar", "trainer.enable_model_summary"),
    *("trainer.log_every_n_steps", "trainer.benchmark"),
)
"""Options that may differ when a run is resumed or a finished one is found. All others must match."""


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's plain checkpoint files, written atomically. The best one has no optimiser's state."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        if Path(path).stem == BEST:
            left_out = ("optimizer_states", "lr_schedulers", "callbacks", "loops", "current_model_state", "averaging_state")
            checkpoint = {key: value for key, value in checkpoint.items() if key not in left_out}
        save_atomic(Path(path), checkpoint)


def path_of(folder: Path, name: str) -> Path:
    """The checkpoint `BEST` or `LAST` of a run's folder."""
    return folder / "checkpoints" / f"{name}.ckpt"


def metadata(config: DictConfig, precision: str, datamodule: ImageDataModule, module: nn.Module) -> dict[str, Any]:
    """What a checkpoint says of its run: resolved config and precision, native size, hashes of split and of what is frozen."""
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    resolved["trainer"]["precision"] = precision
    data = {"native_size": datamodule.native_size, "split": datamodule.split.digest}
    return {"format": FORMAT, "config": resolved, **data, **getattr(module, "fingerprints", {})}


def read(path: Path) -> dict[str, Any]:
    """The content, on the CPU, without running its code. Raises InputError: no checkpoint, damaged, or of an older version."""
    advice = "delete it to start anew, or replace it by an undamaged copy"
    try:
        with zipfile.ZipFile(path) as file:  # whose checksums torch doesn't look at
            damaged = file.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(damaged)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can make the parsers raise anything
        raise InputError(f"{path} is damaged, or no checkpoint ({type(error).__name__}): {advice}.") from error
    found: Any = content.get(METADATA) if isinstance(content, dict) else None
    number = found.get("format") if isinstance(found, dict) else None
    if isinstance(number, int) and number < FORMAT:
        raise InputError(f"{path} is of an older version of this project: open it with that version, or train the run anew.")
    if not isinstance(number, int) or number != FORMAT or not {"config", "native_size", "split"} <= found.keys():
        raise InputError(f"{path} is no checkpoint of this project: {advice}.")
    if not isinstance(state := content.get("state_dict"), dict) or not state:
        raise InputError(f"{path} holds no weights: {advice}.")
    return content


def check_match(
    path: Path, now: Mapping[str, Any], module: nn.Module | None = None, may_differ: Sequence[str] = ()
) -> dict[str, Any]:
    """Checks that the run to come, whose `metadata` is `now`, is the one that wrote a checkpoint, whose content is returned:
    by all options but `may_differ` and those `WITHOUT_EFFECT`, and by the weights and state that the module resumes from.
    Raises InputError: another option, split or frozen network; weights or a state that don't fit; or what `read` raises.
    """
    content = read(path)
    before = content[METADATA]
    differences = find_differences(before["config"], now["config"], (*WITHOUT_EFFECT, *may_differ))
    names = {"split": "another draw of images", "encoder": "other encoder weights", "loss": "other weights in its loss"}
    differences += [name for key, name in names.items() if before.get(key) != now.get(key)]
    if differences:
        raise InputError(
            f"{path.parents[1]} holds a run with {' and '.join(differences[:3])}: give another hydra.run.dir "
            "(hydra.sweep.dir for a sweep), or delete that folder to start anew."
        )
    if module is not None:
        wanted, found = ({key: value.shape for key, value in s.items()} for s in (module.state_dict(), content["state_dict"]))
        odd = [key for key in [*wanted, *found] if wanted.get(key) != found.get(key)]
        odd += [key for key in STATE if key not in content]
        if odd:
            raise InputError(
                f"{path} doesn't fit its run ({odd[0]!r:.120}): delete it to start anew, or replace it by an undamaged copy."
            )
    return content


def find_differences(before: Mapping[str, Any], now: Mapping[str, Any], but: Sequence[str]) -> list[str]:
    """The options in which two resolved configs differ, as in `seed=0, not 1`; those in the groups `but` are not compared."""
    then, here = flattened(before), flattened(now)
    keys = sorted({**then, **here}, key=lambda key: key.count("."))  # seed before data.shuffle_seed, which follows it
    pairs = {key: (then.get(key, "left out"), here.get(key, "left out")) for key in keys}
    compared = (key for key in pairs if not f"{key}.".startswith(tuple(f"{group}." for group in but)))
    return [f"{key}={pairs[key][0]}, not {pairs[key][1]}" for key in compared if pairs[key][0] != pairs[key][1]]
