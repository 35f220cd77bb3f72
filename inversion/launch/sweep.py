"""A sweep: its jobs' names, its folder locked, and at its end the figure, the table and the jobs that failed."""

import logging
import os
import shutil
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.utils import get_class
from omegaconf import DictConfig

from inversion.core.errors import InputError
from inversion.core.files import SWEPT_LAYERS, is_locked, locked
from inversion.launch.job import FAILED_FILE, JOBS_FOLDER, sentence
from inversion.launch.resolvers import SWEPT, parse

log = logging.getLogger(__name__)

running = ExitStack()
"""Around Hydra's run of a program: holds the sweep that it turns out to be."""


class SweepReport(Callback):
    """Hydra's callback that tells `running` of a sweep."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            running.enter_context(_sweep(config, Path(config.hydra.sweep.dir)))
        except Exception as error:  # any, since Hydra would only warn of it
            raise SystemExit(f"error: {sentence(error) or error}") from error


@contextmanager
def _sweep(config: DictConfig, folder: Path) -> Iterator[None]:
    """Around a sweep's jobs. If one fails, or the launcher does, the others still get figure and table, the failed are named,
    and the exit code is 1.
    """
    _check_launcher(config.hydra.launcher._target_)
    folder.mkdir(parents=True, exist_ok=True)
    resume = f"the same command with hydra.sweep.dir='{folder}' resumes what isn't finished"
    with locked(folder):
        earlier = _announced(folder)
        _export_swept(config)
        if config.note:
            log.info(f"Note: {config.note}")
        troubles = []
        try:
            yield
        except KeyboardInterrupt:
            print(f"Interrupted: {resume}.", file=sys.stderr)
            raise
        except Exception as error:
            if _announced(folder) == earlier:
                raise
            if sentence(error) is None:
                traceback.print_exception(error)
            reason = (sentence(error) or f"{type(error).__name__}: {error}").splitlines()[0].rstrip(".")
            troubles = [f"the sweep broke off ({reason}); {resume}"]
        finally:
            for name in (SWEPT, SWEPT_LAYERS):
                os.environ.pop(name, None)
        jobs = _folders(_announced(folder) - earlier)
        if failed := [job for job in jobs if not _is_done(job)]:
            reasons = "; ".join(f"{os.path.relpath(job, folder)} ({_reason(job)})" for job in failed)
            troubles.insert(0, f"{len(failed)} of the sweep's jobs failed: {reasons}")
        if not jobs:
            troubles.append("no job was started: nothing fits the values to sweep over")
        _report(folder, [job for job in _folders(_announced(folder)) if _is_done(job)])
        if config.note:
            log.info(f"Note     {config.note}")
    if troubles:
        raise SystemExit(f"error: {'; and '.join(troubles)}.")


def _check_launcher(target: str) -> None:
    """Raises InputError unless this launcher of Hydra's can be used here."""
    try:
        get_class(target)
    except ImportError as error:
        hint = "pip install -e '.[joblib,slurm]' in the repository"
        raise InputError(f"hydra/launcher: {target} isn't installed: {hint}.") from error
    if target.endswith("SlurmLauncher") and shutil.which("srun") is None:
        raise InputError("hydra/launcher=submitit_slurm: no srun here; start it where your cluster's jobs are submitted.")


def _export_swept(config: DictConfig) -> None:
    """Tells this process and those it starts what the sweep goes over: all keys, and which layers if one of them is that."""
    own = config.hydra.sweeper.get("params") or {}  # an experiment may sweep over something itself
    written = [f"{key}={value}" for key, value in own.items() if isinstance(value, str)]  # other sweepers take other things
    overrides = parse([*written, *config.hydra.overrides.task])
    swept = dict.fromkeys(own, True) | {override.key_or_group: override.is_sweep_override() for override in overrides}
    layers = [override for override in overrides if override.key_or_group == "layer" and override.is_discrete_sweep()]
    os.environ[SWEPT] = " ".join(key for key, is_swept in swept.items() if is_swept)
    os.environ[SWEPT_LAYERS] = " ".join(layers[-1].sweep_string_iterator() if layers else ())


def _report(folder: Path, jobs: Sequence[Path]) -> None:
    """Writes figure and table of the finished jobs, and prints the table."""
    from inversion.results.report import publish
    from inversion.results.runs import FinishedRun

    if jobs:
        publish(folder, [FinishedRun.load(job) for job in jobs])
        log.info(f"Curves   {sys.executable} -m tensorboard.main --logdir {folder} --samples_per_plugin images=200")


def _announced(folder: Path) -> set[Path]:
    """What the jobs that were started have left in the sweep's folder, in this launch of it or an earlier one."""
    return set((folder / JOBS_FOLDER).glob("*"))


def _folders(announced: Iterable[Path]) -> list[Path]:
    return sorted({Path(file.read_text()) for file in announced})


def _is_done(job: Path) -> bool:
    """Whether the job has come to its end, in this launch of the sweep or an earlier one, and is what was asked for."""
    from inversion.training.outcome import is_finished  # not at the top: it needs torch, and --help doesn't

    return is_finished(job) and not (job / FAILED_FILE).is_file()


def _reason(job: Path) -> str:
    if is_locked(job):  # as jobs may be whose launcher has lost another
        return "still running"
    path = job / FAILED_FILE
    return (path.read_text() if path.is_file() else "").strip().rpartition("\n")[2].rstrip(".") or "ended without a result"
