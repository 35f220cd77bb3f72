"""From the config to objects, with a user's mistakes named in one sentence."""

import inspect
import logging
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from inversion.core.errors import InputError
from inversion.decoders.base import Decoder, check_number
from inversion.decoders.ensemble import Ensemble
from inversion.decoders.flow import FlowDecoder
from inversion.decoders.standardize import Standardize
from inversion.encoders.alexnet import Encoder
from inversion.training import checkpoints
from inversion.training.callbacks import MovableCheckpoint, SeededEpochs
from inversion.training.module import InversionModule

log = logging.getLogger(__name__)


def build(name: str, config: Mapping[str, Any], **arguments: Any) -> Any:
    """Builds what the config's `_target_` names from its options, lists and dicts as plain ones, and the further arguments.
    Raises InputError, which gives the `name`, if an option is missing, unknown or refused.
    """
    try:
        return instantiate(config, **arguments, _convert_="all")
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
            if isinstance(cause, InputError | OSError):
                raise cause from None
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0].rstrip(".")
        is_missing = isinstance(cause, ModuleNotFoundError)
        advice = "set PYTHONPATH to the folder that it lies in" if is_missing else "see the comments over them in conf/"
        raise InputError(f"The options of {name} can't be used ({reason}): {advice}.") from error


def build_trainer(config: DictConfig, folder: Path) -> Trainer:
    """The trainer of a run in the folder, without loggers. Raises InputError for options that can't be used."""
    named = build("callbacks", config.callbacks)
    if odd := [f"callbacks.{name}" for name, one in named.items() if not isinstance(one, Callback | None)]:
        raise InputError(f"{odd[0]} is no callback: +{odd[0]}._target_=... must name the class of one.")
    if fixed := config.trainer.keys() & {"logger", "callbacks", "plugins", "default_root_dir"}:
        raise InputError(f"trainer.{min(fixed)} is not for you to set: see logger=, callbacks= and hydra.run.dir=.")
    callbacks = [callback for callback in named.values() if callback is not None]
    saved = {(str(one.filename), one.dirpath, one.save_top_k) for one in callbacks if isinstance(one, MovableCheckpoint)}
    only = [{(name, None, 1)} for name in (checkpoints.BEST, checkpoints.LAST)]
    if config.trainer.get("enable_checkpointing") is False or saved - only[0] != only[1]:
        raise InputError(
            "callbacks.last, callbacks.best's filename, dirpath and save_top_k, and trainer.enable_checkpointing must stay: "
            "without its checkpoints a run can neither be resumed nor used."
        )
    trainer: Trainer = build(
        "trainer",
        config.trainer,
        precision=precision(config.trainer),
        logger=False,
        callbacks=[SeededEpochs(config.seed), *callbacks],
        plugins=[checkpoints.AtomicCheckpoints()],
        default_root_dir=str(folder),
        use_distributed_sampler=False,  # the order is the datamodule's
    )
    if trainer.world_size > 1:
        raise InputError(
            f"trainer.devices={config.trainer.devices} comes to {trainer.world_size} devices on all nodes, and a run takes "
            "one: leave it out, or sweep with hydra/launcher=joblib, which gives each run a GPU of its own."
        )
    if trainer.max_epochs is None or trainer.max_epochs < 1:
        raise InputError(f"trainer.max_epochs={trainer.max_epochs} must be at least 1.")
    if config.trainer.get("profiler"):
        profiler: Any = trainer.profiler  # type: ignore[attr-defined]
        profiler.dirpath, profiler.filename = profiler.dirpath or folder, profiler.filename or "profile"
    return trainer


def build_loggers(config: DictConfig, folder: Path, resumed_step: int) -> list[Logger]:
    """The run's loggers, in its folder; TensorBoard's curves are cut behind `resumed_step`, which is 0 for a new run."""
    loggers = []
    for name, options in (config.get("logger") or {}).items():
        if options is None:
            continue
        kind = build(f"logger.{name}", {"_target_": "hydra.utils.get_class", "path": options.get("_target_")})
        accepted = inspect.signature(kind).parameters
        arguments: dict[str, Any] = {"save_dir": str(folder)} if "save_dir" in accepted else {}
        arguments |= {"purge_step": resumed_step} if "purge_step" in options else {}
        if resumed_step and options._target_.endswith("CSVLogger"):  # which deletes what its folder holds
            arguments["version"] = f"{options.version}_from_step_{resumed_step}"
        if (wandb := sys.modules.get("wandb")) and wandb.run and options._target_.endswith("WandbLogger"):
            wandb.finish()  # an earlier run of this process, which this one's curves would join
        loggers.append(build(f"logger.{name}", options, **arguments))
        if not resumed_step and hasattr(loggers[-1].experiment, "add_text"):
            loggers[-1].experiment.add_text("config", f"```yaml\n{OmegaConf.to_yaml(config, resolve=True)}```")
    return loggers


def precision(config: DictConfig) -> str:
    """What the trainer's config, such as `precision: auto`, comes to on this machine. Raises InputError for no such option."""
    option, accelerator = str(config.get("precision", "auto")), config.get("accelerator", "auto")
    if option not in ("auto", "32-true", "bf16-mixed", "16-mixed"):
        raise InputError(f"trainer.precision={option} must be auto, 32-true, bf16-mixed or 16-mixed.")
    if option != "auto":
        return option
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        on_cpu = accelerator == "cpu" or not torch.accelerator.is_available()
        has_bf16 = on_cpu and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bf16-mixed" if has_bf16 else "32-true"


def build_decoder(config: DictConfig, encoder: Encoder, native_size: int) -> Decoder:
    """The decoder, or ensemble, that `config.decoder` describes. Raises InputError for an option that is refused."""
    members = check_number("decoder.members", config.get("members", 1))
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    own = {key: value for key, value in resolved.items() if key not in ("members", "standardized")}
    decoders = [build("decoder", own, feature_shape=encoder.feature_shape, native_size=native_size) for _ in range(members)]
    if not isinstance(decoders[0], Decoder):
        raise InputError("decoder._target_ must name a subclass of inversion.decoders.base.Decoder: see conf/decoder/.")
    if members > 1 and isinstance(decoders[0], FlowDecoder):
        raise InputError(f"decoder.members={members}: a decoder that samples is one network, leave it out.")
    decoder: Decoder = decoders[0] if members == 1 else Ensemble(decoders)
    with torch.no_grad():
        shape = decoder.eval().predict(torch.zeros(1, *encoder.feature_shape)).shape
    if len(shape) != 4 or shape[:2] != (1, 3) or shape[2] != shape[3]:
        raise InputError(f"decoder._target_={config._target_}: its predict must give (B, 3, s, s), and gave {tuple(shape)}.")
    return decoder.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_module(
    kind: type[InversionModule], config: DictConfig, encoder: Encoder, native_size: int, clips: bool = False
) -> InversionModule:
    """A module of this kind (`InversionModule` or a subclass) as the whole config describes it, for images of `native_size`
    pixels; `clips` says that gradients are clipped in mixed precision, which fused optimisers don't allow. Raises InputError
    for an option that is refused, which some optimisers and schedulers do only when built or stepped.
    """
    optimizer = config.optimizer
    if clips and optimizer.get("fused"):
        optimizer = OmegaConf.merge(optimizer, {"fused": False})
        log.info("trainer.gradient_clip_val: the optimiser isn't fused, as mixed precision wants it for clipping.")
    module = kind(
        encoder,
        build_decoder(config.decoder, encoder, native_size),
        loss=build("loss", config.loss),
        optimizer=build("optimizer", optimizer),
        scheduler=build("scheduler", config.scheduler),
        standardize=build_standardize(config, encoder),
    )
    try:
        scheduler = module.configure_optimizers()["lr_scheduler"]["scheduler"]
        with warnings.catch_warnings(action="ignore"):  # it is stepped before the optimiser
            scheduler.step(*([0.0] if isinstance(scheduler, ReduceLROnPlateau) else []))
    except (ValueError, TypeError, ArithmeticError, AttributeError, RuntimeError, LookupError) as error:
        reason = f"({error}): see conf/optimizer and conf/scheduler"
        raise InputError(f"The options of optimizer or scheduler can't be used {reason}.") from error
    return module


def build_standardize(config: DictConfig, encoder: Encoder) -> Standardize | nn.Identity:
    """What features pass through before the decoder. Of trained weights, `standardize=auto` does what the decoder's options
    ask for. Those of untrained ones it standardises: nearly all that varies in them is one direction, and whitened the rest is
    noise. Raises InputError for no such option.
    """
    name, option = "standardize", config.standardize
    if option == "auto":
        name, option = "decoder.standardized", config.decoder.get("standardized", True)
    if option not in (True, False, "whiten"):
        raise InputError(f"{name}={option} must be true, false or whiten{', or auto' if name == 'standardize' else ''}.")
    if config.standardize == "auto" and encoder.weights == "random":
        option = True
    return Standardize(encoder.feature_shape, whiten=option == "whiten") if option else nn.Identity()
