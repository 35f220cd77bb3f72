"""One job: its folder locked, signals and failures turned into one sentence and an exit code."""

import errno
import gc
import json
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError
from yaml import YAMLError

from inversion.core.errors import InputError
from inversion.core.files import is_locked, locked

log = logging.getLogger(__name__)

FAILED_FILE = "failed.txt"
"""Holds why a job of a sweep failed."""
JOBS_FOLDER = ".jobs"
"""In a sweep's folder: a file for each job that was started, which holds the name of its folder there."""

# In whatever process a job runs: conf/hydra/launcher's files refine the plugins' own of the same names, as Hydra 1.3 allows.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled as Ctrl-C is: what is being written is finished or removed."""


def raise_on_sigterm() -> None:
    """Has SIGTERM raise `Terminated`, unless a launcher handles it already."""

    def terminate(*_: Any) -> None:
        raise Terminated

    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)


def run_job(task: Callable[[DictConfig, Path], Any], cfg: DictConfig) -> float | None:
    """Runs the task in its Hydra output folder, locked meanwhile. Returns the validation MSE in its `metrics.json`, if any,
    which sweepers that search minimise. Raises SystemExit, with one sentence, if a single run failed for a reason that is the
    user's or the system's; InputError if a sweep's job did, unless by Hydra's basic sweeper, which goes on to the next.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    is_swept = not OmegaConf.is_missing(hydra.job, "num")
    raise_on_sigterm()
    if is_swept:
        jobs = Path(hydra.sweep.dir) / JOBS_FOLDER
        jobs.mkdir(parents=True, exist_ok=True)
        (jobs / uuid.uuid4().hex).write_text(hydra.sweep.subdir)  # a file each, since any machine may run it
        _take_own_gpu()
    elif cfg.get("note"):
        log.info(f"Note: {cfg.note}")
    failure = None
    try:
        with locked(folder):
            (folder / FAILED_FILE).unlink(missing_ok=True)
            task(cfg, folder)
    except (KeyboardInterrupt, SystemExit) as error:
        interrupt = error.__context__ if isinstance(error, SystemExit) else error  # Lightning makes it a SystemExit
        if not isinstance(interrupt, KeyboardInterrupt):
            raise
        if not is_swept:
            print(f"Interrupted: {_how_to_resume(folder) or 'there is no checkpoint yet'}.", file=sys.stderr)
        raise interrupt from None
    except Exception as error:
        failure = sentence(error)
        if not is_swept:
            if failure is None:
                raise
            resume = _how_to_resume(folder) if isinstance(error, OSError) else None
            raise SystemExit(f"error: {failure.rstrip('.')}; {resume}." if resume else f"error: {failure}") from None
        is_bug, failure = failure is None, failure or f"{type(error).__name__}: {error}"
        log.error(f"error: {failure}", exc_info=is_bug)
        if not is_locked(folder):  # by another run
            (folder / FAILED_FILE).write_text(f"{failure}\n")
    gc.collect()  # with the exception gone, a failed job's model can go
    if torch := sys.modules.get("torch"):
        torch.cuda.empty_cache()
    if failure and hydra.runtime.choices["hydra/sweeper"] != "basic":
        raise InputError(failure)
    metrics = folder / "metrics.json"
    scores = json.loads(metrics.read_text()) if metrics.is_file() and not failure else {}
    return (scores.get("val") or {}).get("mse")


def sentence(error: Exception) -> str | None:
    """What the user reads of an error that is theirs to correct, or the system's; None if it is the program's."""
    if isinstance(error, MissingConfigException) and error.options:
        plugins = " (for others see docs/options.md)" if str(error.missing_cfg_file).startswith("hydra/") else ""
        return f"{error.missing_cfg_file}: there is no such option; choose one of {', '.join(error.options)}{plugins}."
    if isinstance(error, HydraException | InterpolationResolutionError) and not isinstance(error, InstantiationException):
        return " ".join(re.split("full_key|Config search path", str(error))[0].split()).rstrip(".:") + "."
    if isinstance(error, YAMLError):
        return f"A config file isn't YAML ({' '.join(str(error).split())}): mend it, as those in conf/ are written."
    if isinstance(error, OSError):
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "make room there, or choose another folder" if is_full else "make it readable and writable, or choose another"
        return f"{error.filename or 'A file'} can't be used ({error.strerror or error}): {advice}."
    return str(error) if isinstance(error, InputError) else None


def _how_to_resume(folder: Path) -> str | None:
    last = folder / "checkpoints" / "last.ckpt"
    resume = f"the last checkpoint is {last}; the same command with hydra.run.dir='{folder}' resumes from it"
    return resume if last.is_file() else None


def _take_own_gpu() -> None:
    """In the n-th process that joblib has started to run jobs: uses the n-th GPU alone."""
    number = multiprocessing.current_process().name.partition("LokyProcess-")[2]
    if number:
        import torch

        every = ",".join(map(str, range(torch.cuda.device_count())))  # counts without initialising CUDA
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", every).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[(int(number) - 1) % len(devices)]
