"""From the config to objects, with a user's mistakes told in one sentence."""

import shutil
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import LightningModule
from omegaconf import DictConfig

from inversion.alexnet import Encoder
from inversion.decoders import Decoder
from inversion.errors import InputError


def build(name: str, config: DictConfig, **arguments: Any) -> Any:
    """Builds what the config's `_target_` names. Only plain lists and dicts reach it, so that checkpoints stay loadable.

    Args:
        name: the config group, for errors.
        config: holds `_target_` and options.
        **arguments: passed along as they are.

    Raises:
        InputError: an option is missing, unknown or refused.
    """
    try:
        return instantiate(config, **arguments, _convert_="all")
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
            if isinstance(cause, InputError):
                raise cause from None
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0].rstrip(".")
        raise InputError(f"The options of {name} can't be used ({reason}): see conf/{name} for what they may be.") from error


def wants_standardized(option: bool | str, decoder: Decoder, encoder: Encoder) -> bool:
    """What `standardize` comes to: `auto` standardises unless a published decoder meets trained weights.

    Raises:
        InputError: neither auto, true nor false.
    """
    if isinstance(option, bool):
        return option
    if option != "auto":
        raise InputError(f"standardize={option} must be auto, true or false.")
    return decoder.standardized or not encoder.is_trained


def check_optimizer(module: LightningModule) -> None:
    """Raises InputError if optimiser or scheduler refuse their options, which they tell only when built on weights."""
    try:
        module.configure_optimizers()
    except (ValueError, TypeError) as error:
        raise InputError(f"The options of optimizer or scheduler can't be used ({error}): see conf/optimizer.") from error


def check_disk_space(folder: Path, decoder: Decoder) -> None:
    """Raises InputError unless there is room for the checkpoints: best, and last with Adam's two moments, and a new last
    being written beside the old one.
    """
    weights = sum(parameter.numel() * parameter.element_size() for parameter in decoder.parameters())
    needed = 7 * weights + (20 << 20)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"The output folder {folder} has {free >> 20} MiB free, and this run needs {needed >> 20}: free some, or give "
            "another hydra.run.dir (hydra.sweep.dir for a sweep)."
        )
