"""From the config to objects, with a user's mistakes told in one sentence."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.core.files import free_bytes
from inversion.decoders.base import Decoder, check_number
from inversion.decoders.ensemble import Ensemble
from inversion.decoders.standardize import Standardize
from inversion.encoders.alexnet import Encoder
from inversion.training import checkpoints
from inversion.training.callbacks import SeededEpochs
from inversion.training.module import InversionModule

M = TypeVar("M", bound=InversionModule)


def build(name: str, config: Mapping[str, Any], **arguments: Any) -> Any:
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


def build_trainer(
    config: DictConfig,
    folder: Path,
    needed: Sequence[str] = (checkpoints.BEST, checkpoints.LAST),
    may_share: bool = False,
) -> Trainer:
    """The trainer of a run, with its callbacks.

    Args:
        config: the whole config.
        folder: the run's.
        needed: the checkpoints that it can't do without.
        may_share: whether several devices may share the work.

    Raises:
        InputError: options that are refused, or would leave no checkpoint to score.
    """
    callbacks = {name: one for name, one in build("callbacks", config.callbacks).items() if one is not None}
    for name in needed:
        callback = callbacks.get(name)
        place = checkpoints.path_of(folder.resolve(), name)  # as ModelCheckpoint has it
        if not isinstance(callback, ModelCheckpoint) or Path(callback.dirpath or "") / f"{callback.filename}.ckpt" != place:
            raise InputError(f"callbacks.{name} must be a ModelCheckpoint that writes {place}: leave it as it is.")
    plugins = [checkpoints.AtomicCheckpoints()]
    trainer: Trainer = build(
        "trainer",
        config.trainer,
        precision=precision(config.trainer),
        logger=False,
        callbacks=[SeededEpochs(config.seed), *callbacks.values()],
        plugins=plugins,
        use_distributed_sampler=False,  # the datamodule shares out the batches, and repeats no image
        default_root_dir=str(folder),
    )
    if trainer.world_size > 1 and not may_share:
        raise InputError("trainer.devices: this program trains on one device; leave it out.")
    if trainer.world_size > 1 and config.trainer.get("strategy") != "ddp":
        raise InputError("trainer.devices: choose trainer=ddp to train one run on several devices.")
    if trainer.num_nodes > 1:
        raise InputError("trainer.num_nodes: one run trains on one machine; start one run per layer on each instead.")
    if trainer.max_epochs is None or trainer.max_epochs < 1:
        raise InputError(f"trainer.max_epochs={trainer.max_epochs} must be at least 1.")
    every = trainer.check_val_every_n_epoch or 1
    quick = config.trainer.get("fast_dev_run")
    if quick or not trainer.limit_train_batches or not trainer.limit_val_batches or every > trainer.max_epochs:
        raise InputError(
            "The trainer's options leave no validated checkpoint: fast_dev_run, limit_train_batches=0, limit_val_batches=0 "
            "and check_val_every_n_epoch > max_epochs can't be used; trainer.max_epochs=1 is the shortest run."
        )
    fused = OmegaConf.select(config, "optimizer.fused")
    if trainer.precision == "16-mixed" and trainer.gradient_clip_val and fused:
        raise InputError(
            "trainer.gradient_clip_val in 16-mixed precision needs an optimiser that isn't fused: optimizer.fused=false."
        )
    return trainer


def build_logger(folder: Path, config: Mapping[str, Any], resumed: Mapping[str, Any] | None) -> TensorBoardLogger:
    """The run's curves, beginning with its config; of a run that goes on, without what was logged after its checkpoint.

    Args:
        folder: the run's.
        config: resolved.
        resumed: the checkpoint's content.
    """
    step = resumed["global_step"] if resumed else 0
    logger = TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False, purge_step=step)
    if resumed is None:
        logger.experiment.add_text("config", f"```yaml\n{OmegaConf.to_yaml(config)}```")
    return logger


def precision(config: DictConfig) -> str:
    """What `trainer.precision` comes to on this machine.

    Raises:
        InputError: it isn't one of auto, 32-true, bf16-mixed and 16-mixed.
    """
    option, accelerator = str(config.get("precision", "auto")), config.get("accelerator", "auto")
    if option not in ("auto", "32-true", "bf16-mixed", "16-mixed"):
        raise InputError(f"trainer.precision={option} must be auto, 32-true, bf16-mixed or 16-mixed.")
    if option != "auto":
        return option
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    elif accelerator == "cpu" or not torch.accelerator.is_available():
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        has_bf16 = False
    return "bf16-mixed" if has_bf16 else "32-true"


def build_scorer(config: DictConfig, device: torch.device) -> Trainer:
    """A trainer on that device alone that only tests, and shows it as the run's own does."""
    progress = config.callbacks.get("progress")
    return build(
        "trainer",
        config.trainer,
        precision=precision(config.trainer),
        logger=False,
        callbacks=[] if progress is None else [build("callbacks", progress)],
        devices=1 if device.index is None else [device.index],
        strategy="auto",
        enable_checkpointing=False,
    )


def build_decoder(config: DictConfig, encoder: Encoder, native_size: int) -> Decoder:
    """The decoder that `config` describes, for the encoder's features; an ensemble if it asks for several members.

    Raises:
        InputError: an option is refused.
    """
    number = check_number("decoder.members", config.get("members", 1))
    options = {str(key): value for key, value in config.items() if key not in ("members", "standardized")}
    shapes = {"feature_shape": encoder.feature_shape, "native_size": native_size, "output_size": pixels.INPUT_SIZE}
    members = [build("decoder", options, **shapes) for _ in range(number)]
    return members[0] if number == 1 else Ensemble(members)


def build_module(
    kind: type[M], config: DictConfig, encoder: Encoder, native_size: int, metadata: Mapping[str, Any] | None = None
) -> M:
    """What is trained: the encoder, and all that the config says of its decoder.

    Args:
        kind: `InversionModule`, or a class that is built as it is.
        config: the whole config.
        encoder: frozen, unless `kind` trains it.
        native_size: side of the images as the data holds them, in pixels.
        metadata: see `checkpoints.metadata`.

    Raises:
        InputError: an option is refused.
    """
    decoder = build_decoder(config.decoder, encoder, native_size)
    module = kind(
        encoder,
        decoder,
        loss=build("loss", config.loss),
        optimizer=build("optimizer", config.optimizer),
        scheduler=build("scheduler", config.scheduler),
        standardize=build_standardize(config.standardize, config.decoder, encoder),
        metadata=metadata,
    )
    check_optimizer(module)
    return module


def build_standardize(option: bool | str, decoder: Mapping[str, Any], encoder: Encoder) -> Standardize | nn.Identity:
    """What features pass through before the decoder. Of trained weights, `auto` does what the decoder's config asks for. Those
    of untrained ones it standardises: nearly all that varies in them is one direction, and whitened the rest is noise.

    Raises:
        InputError: no such option.
    """
    wanted = decoder.get("standardized", True)
    for name, value, allowed in (
        ("standardize", option, (True, False, "auto", "whiten")),
        ("decoder.standardized", wanted, (True, False, "whiten")),
    ):
        if value not in allowed:
            words = ", ".join(str(word).lower() for word in allowed)
            raise InputError(f"{name}={value} must be one of {words}.")
    if option == "auto":
        option = wanted if encoder.is_trained else True
    return Standardize(encoder.feature_shape, whiten=option == "whiten") if option else nn.Identity()


def check_optimizer(module: LightningModule) -> None:
    """Raises InputError if optimiser or scheduler refuse their options, which some tell only when built or stepped."""
    try:
        scheduler = module.configure_optimizers()["lr_scheduler"]["scheduler"]  # type: ignore
        with warnings.catch_warnings(action="ignore"):  # it is stepped before the optimiser
            scheduler.step(*([0.0] if isinstance(scheduler, ReduceLROnPlateau) else []))
    except (ValueError, TypeError, ArithmeticError, AttributeError, RuntimeError) as error:
        reason = "a division by zero" if isinstance(error, ArithmeticError) else error
        raise InputError(
            f"The options of optimizer or scheduler can't be used ({reason}): see conf/optimizer and conf/scheduler."
        ) from error


def check_disk_space(folder: Path, trained: nn.Module) -> None:
    """Raises InputError unless there is room for the weights, be it the best checkpoint or an encoder's, for the last
    checkpoint, with Adam's two moments, and for a new last being written beside the old one.
    """
    weights = sum(parameter.numel() * parameter.element_size() for parameter in trained.parameters())
    needed = 7 * weights + (20 << 20)
    free = free_bytes(folder)
    if free < needed:
        raise InputError(
            f"The output folder {folder} has {free >> 20} MiB free, and this run needs {needed >> 20}: free some, or give "
            "another hydra.run.dir (hydra.sweep.dir for a sweep)."
        )
