"""What every training goes through in its folder: trainer, metadata, finished or resumed, loggers, fit."""

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback, LearningRateMonitor
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from inversion.core.errors import InputError
from inversion.core.files import save_atomic
from inversion.data.datamodule import ImageDataModule
from inversion.training import checkpoints
from inversion.training.building import build_loggers, build_trainer
from inversion.training.callbacks import SeededEpochs
from inversion.training.outcome import is_finished
from inversion.training.provenance import provenance, write_provenance

log = logging.getLogger(__name__)


class Fitted(NamedTuple):
    """A training that has ended."""

    trainer: Trainer
    module: LightningModule
    datamodule: ImageDataModule
    best_epoch: int | None
    """Whose weights the module has, counted from 1; None if it has the last ones, since none were validated and saved."""
    provenance: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Since the training began, in all the processes that it was resumed in."""
        return next(c for c in self.trainer.callbacks if isinstance(c, SeededEpochs)).seconds  # type: ignore[attr-defined]


def fit(
    cfg: DictConfig,
    folder: Path,
    datamodule: ImageDataModule,
    build_module: Callable[[Trainer], LightningModule],
    *,
    program: str,
    test: bool = True,
    before: Callable[[Trainer, LightningModule], None] | None = None,
    may_differ: Sequence[str] = (),
) -> Fitted | None:
    """Trains what `build_module` gives, or resumes it from the folder's last checkpoint, and loads its best weights. Returns
    None if the folder holds this run, finished. Raises InputError for options that can't be used, data that can't be read
    (test images too, if `test` says that they will be used), a folder with another run.

    `build_module` is called once the data are on disk, `before` just before the fit. `program` stands in `provenance.json`;
    the options `may_differ` may differ when the run is resumed.
    """
    trainer = build_trainer(cfg, folder)
    datamodule.prepare_data()
    module = build_module(trainer)
    metadata = checkpoints.metadata(cfg, trainer.precision, datamodule, module)
    best, last = (checkpoints.path_of(folder, name) for name in (checkpoints.BEST, checkpoints.LAST))
    if is_finished(folder):
        checkpoints.check_match(best if best.is_file() else last, metadata)
        log.info(f"{folder} holds this run, finished: give another hydra.run.dir, or delete it to run again.")
        return None
    resumed = checkpoints.check_match(last, metadata, module, may_differ) if last.is_file() else None
    datamodule.setup("fit")
    if test:
        datamodule.images("test")
    split, device = datamodule.split, trainer.strategy.root_device
    log.info(f"{len(split.train)} train, {len(split.val)} val, {len(split.test)} test images of {len(split.classes)} classes")
    split.save(folder / "split.json")
    parts = ("train", "val", "test") if test else ("train", "val")
    now = provenance(device)  # of the code as it was loaded, which may change meanwhile
    write_provenance(folder, now, program, metadata, datamodule, parts, resumed=resumed is not None)
    if resumed:
        log.info(f"Resuming from {last}")
    is_trial = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
    if not is_trial:
        trainer.loggers = build_loggers(cfg, folder, resumed["global_step"] if resumed else 0)
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if not trainer.loggers:
        callbacks[:] = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]
    callbacks.append(LambdaCallback(on_save_checkpoint=lambda *args: args[-1].update({checkpoints.METADATA: metadata})))
    if before is not None:
        before(trainer, module)
    _fit(trainer, module, datamodule, last if resumed else None)
    if is_trial:
        log.info("trainer.fast_dev_run: a trial has ended; nothing was saved or scored.")
    return Fitted(trainer, module, datamodule, _load_best(trainer, module, best, metadata), now)


def _fit(trainer: Trainer, module: LightningModule, datamodule: ImageDataModule, checkpoint: Path | None) -> None:
    try:
        trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
    except torch.OutOfMemoryError as error:
        raise InputError("The device has no memory left: lower data.batch_size, or data.resident.") from error
    except (MisconfigurationException, ValueError) as error:
        if isinstance(error, ValueError) and "val_check_interval" not in str(error):
            raise
        raise InputError(" ".join(str(error).split())) from error
    for path in sorted(Path(trainer.default_root_dir).glob("fit-profile*.txt")):  # Lightning's profiler's report
        log.info(f"{path.read_text()}\nProfile  {path}")


def _load_best(trainer: Trainer, module: LightningModule, path: Path, metadata: dict[str, Any]) -> int | None:
    """Gives the module its best weights, if an epoch was saved as the best, and returns which, counted from 1."""
    if not any(one.best_model_path for one in trainer.checkpoint_callbacks if one.filename == checkpoints.BEST):  # type: ignore
        return None
    content = checkpoints.read(path)
    if content[checkpoints.METADATA] != metadata:  # of an epoch before the run was resumed with other options
        save_atomic(path, content | {checkpoints.METADATA: metadata})
    module.load_state_dict(content["state_dict"])
    return int(content["epoch"]) + 1


def start(seed: int) -> None:
    """Seeds all random numbers, and silences Lightning's advice and warnings that don't fit this project."""
    if not 0 <= seed < 2**32:
        raise InputError(f"seed={seed} must lie between 0 and {2**32 - 1}.")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
        if logging.getLogger().handlers:  # as under Hydra, where each line would come twice
            logging.getLogger(name).handlers.clear()
    logging.getLogger("lightning.pytorch.callbacks.model_summary").setLevel(logging.INFO)  # shown where it was asked for
    for message in (
        ".*in eval mode at the start of training.*",  # the encoder is meant to be
        ".*does not have many workers.*",  # the images are in memory, so loading needs none
        ".*exists and is not empty.*",  # a run that is resumed
        ".*isinstance.treespec, LeafSpec.*",  # Lightning's own use of torch
    ):
        warnings.filterwarnings("ignore", message=message)
    lightning.seed_everything(seed, workers=True, verbose=False)
