"""One job: its folder locked, signals and failures turned into one sentence and an exit code."""

import errno
import functools
import gc
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from inversion.core.errors import InputError
from inversion.core.files import locked

log = logging.getLogger(__name__)

FAILED_FILE = "failed.txt"
"""Holds why a job of a sweep failed."""
JOBS_FOLDER = ".jobs"
"""In a sweep's folder: a file for each job that was started, which holds the path of its folder."""
PATIENCE_S = 20
"""How long a process of trainer=ddp waits for the first one to report an error, before it does so itself."""

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
    """Runs the task in its Hydra output folder, which no other process may use meanwhile.

    Returns:
        The validation MSE in the folder's `metrics.json`, which sweepers that search minimise; None if there is none.

    Raises:
        SystemExit: a single run failed for a reason that is the user's or the system's, in one sentence.
        InputError: a job failed, in a sweep by another sweeper than Hydra's basic one.
        KeyboardInterrupt: Ctrl-C, or SIGTERM.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    raise_on_sigterm()
    if os.environ.get("LOCAL_RANK", "0") != "0":
        _run_beside_first(task, cfg, folder)
        return None
    if not OmegaConf.is_missing(hydra.job, "num"):
        _announce_job(folder, Path(hydra.sweep.dir))
        _settle_in_worker()
        failure = _run_in_sweep(task, cfg, folder)
        gc.collect()
        if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
            sys.modules["torch"].cuda.empty_cache()
        if failure and hydra.runtime.choices["hydra/sweeper"] != "basic":
            raise InputError(failure)
        return None if failure else _validation_mse(folder)
    if cfg.get("note"):
        log.info(f"Note: {cfg.note}")
    try:
        with locked(folder):
            (folder / FAILED_FILE).unlink(missing_ok=True)
            task(cfg, folder)
    except (KeyboardInterrupt, SystemExit) as error:
        if interrupt := _interrupt(error):
            print(f"Interrupted: {_how_to_resume(folder) or 'there is no checkpoint yet'}.", file=sys.stderr)
        raise interrupt or error from None
    except (InputError, OSError) as error:
        resume = _how_to_resume(folder) if isinstance(error, OSError) else None
        text = str(sentence(error))
        raise SystemExit(f"error: {text.rstrip('.')}; {resume}." if resume else f"error: {text}") from None
    return _validation_mse(folder)


def _run_in_sweep(task: Callable[[DictConfig, Path], Any], cfg: DictConfig, folder: Path) -> str | None:
    """Returns why the job failed, as its `failed.txt` says too; None if it didn't. The exception itself ends here: the failed
    job's model would stay in memory with it.
    """
    with locked(folder):
        (folder / FAILED_FILE).unlink(missing_ok=True)
        try:
            if OmegaConf.select(cfg, "trainer.strategy") not in (None, "auto"):
                raise InputError(
                    "trainer=ddp can't be part of a sweep, which each of its processes would start anew: give every job a GPU "
                    "of its own with hydra/launcher=joblib or =submitit_slurm, or start one trainer=ddp run per layer."
                )
            task(cfg, folder)
        except (KeyboardInterrupt, SystemExit) as error:
            raise _interrupt(error) or error from None
        except Exception as error:
            failure = sentence(error)
            if failure:
                log.error(f"error: {failure}")
            else:
                log.exception(f"{folder.name} failed")
                failure = f"{type(error).__name__}: {error}"
            (folder / FAILED_FILE).write_text(f"{failure}\n")
            return failure
    return None


def sentence(error: Exception) -> str | None:
    """What the user reads of an error that is theirs to correct, or the system's; None if it is the program's."""
    if isinstance(error, InputError):
        return str(error)
    if not isinstance(error, OSError):
        return None
    advice = "make it readable and writable, or choose another"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        advice = "make room there, or choose another folder"
    return f"{error.filename or 'A file'} can't be used ({error.strerror or error}): {advice}."


def _interrupt(error: BaseException) -> KeyboardInterrupt | None:
    """Ctrl-C or SIGTERM, also where Lightning has turned it into SystemExit."""
    if type(error).__name__ == "SIGTERMException":
        return Terminated()
    return next((each for each in (error, error.__context__) if isinstance(each, KeyboardInterrupt)), None)


def _how_to_resume(folder: Path) -> str | None:
    """Where a stopped run's last checkpoint is, and how to resume from it; None if it has none yet."""
    last = folder / "checkpoints" / "last.ckpt"
    resume = f"the last checkpoint is {last}; the same command with hydra.run.dir='{folder}' resumes from it"
    return resume if last.is_file() else None


def _validation_mse(folder: Path) -> float | None:
    metrics = folder / "metrics.json"
    scores = json.loads(metrics.read_text()).get("val") if metrics.is_file() else None
    return scores.get("mse") if isinstance(scores, dict) else None


def _announce_job(folder: Path, sweep: Path) -> None:
    """Leaves a file in the sweep's folder that says where the job's is: a file each, since any machine may run it."""
    (sweep / JOBS_FOLDER).mkdir(parents=True, exist_ok=True)
    (sweep / JOBS_FOLDER / uuid.uuid4().hex).write_text(str(folder))


def _settle_in_worker() -> None:
    """In the n-th process that joblib has started to run jobs: uses the n-th GPU alone, and ends with the launcher."""
    number = multiprocessing.current_process().name.partition("LokyProcess-")[2]
    if not number:
        return
    _end_with_parent()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        import torch

        visible = ",".join(map(str, range(torch.cuda.device_count())))  # counts without initialising CUDA
    devices = visible.split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = devices[(int(number) - 1) % len(devices)]


def _run_beside_first(task: Callable[[DictConfig, Path], Any], cfg: DictConfig, folder: Path) -> None:
    """Runs the task in a process that Lightning has started for `trainer=ddp`. It leaves folder and screen to the first
    process, ends when that one does, and reports an error only if that one lives on.
    """
    logging.disable(logging.WARNING)
    _end_with_parent()
    try:
        task(cfg, folder)
    except (KeyboardInterrupt, SystemExit):
        pass
    except InputError as error:
        time.sleep(PATIENCE_S)
        raise SystemExit(f"error: {error}") from None


@functools.cache
def _end_with_parent() -> None:
    """Ends this process soon after the one that started it, even if that one was killed, so that its folder is free."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
