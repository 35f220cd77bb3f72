"""Checkpoints: written whole or not at all, read without running code, gone on from only by the run they belong to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from omegaconf import DictConfig, OmegaConf

from inversion.alexnet import Encoder
from inversion.errors import InputError
from inversion.files import whole_file
from inversion.split import Split

BEST = "best"
LAST = "last"
RECORD = "inversion"
FORMAT = 2
"""Version of what stands under `RECORD` in a checkpoint."""
DECISIVE = (
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
ALSO_OF_FINISHED = ("trainer.max_epochs", "test", "samples")
"""Options that a finished run can't change either."""
DECISIVE_OF_ENCODER = (
    "classifier",
    "seed",
    "data.batch_size",
    "data.flip",
    "data.native_size",
    "trainer.max_epochs",
    "trainer.precision",
)
"""The same of an encoder's, whose learning rate has one cycle over all epochs."""


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's plain checkpoint files, synced and renamed into place on their own file system."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        with whole_file(Path(path)) as file:
            torch.save(checkpoint, file)


def path_of(folder: Path, name: str) -> Path:
    """The checkpoint `BEST` or `LAST` of a run's folder."""
    return folder / "checkpoints" / f"{name}.ckpt"


def record(
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
    """The checkpoint's content, on the CPU.

    Raises:
        InputError: no checkpoint, a cut or damaged one, or one of another version of this project.
    """
    advice = "delete it to start anew, or put a whole copy in its place"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the parser stumbles over, the file is at fault
        raise InputError(f"{path} is no whole checkpoint ({type(error).__name__}): {advice}.") from error
    found = content.get(RECORD) if isinstance(content, dict) else None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(f"{path} is no checkpoint of this version of the project: {advice}.")
    return content


def check_goes_on(path: Path, now: Mapping[str, Any], decisive: Sequence[str] = DECISIVE) -> dict[str, Any]:
    """Checks that the run to come is the one that wrote the checkpoint, whose content is returned.

    Args:
        path: the checkpoint to go on from.
        now: the `record` of the run to come.
        decisive: the options that must be the same.

    Raises:
        InputError: a decisive option, the split or the encoder's weights differ; or what `read` raises.
    """
    content = read(path)
    before = content[RECORD]
    advice = "give another hydra.run.dir (hydra.sweep.dir for a sweep), or delete that folder to start anew"
    for key in decisive:
        then, here = (OmegaConf.select(OmegaConf.create(r["config"]), key) for r in (before, now))
        if then != here:
            raise InputError(f"{path.parents[1]} holds a run with {_difference(key, then, here)}: {advice}.")
    for key, name in (("split", "another draw of images"), ("encoder", "other encoder weights")):
        if before[key] != now[key]:
            raise InputError(f"{path.parents[1]} holds a run with {name}: {advice}.")
    return content


def _difference(key: str, then: Any, here: Any) -> str:
    if isinstance(then, DictConfig) and isinstance(here, DictConfig):
        odd = next(k for k in [*then, *here] if then.get(k, "left out") != here.get(k, "left out"))
        return _difference(f"{key}.{odd}", then.get(odd), here.get(odd))
    return f"{key}={then}, not {here}"
