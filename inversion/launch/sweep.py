"""Jobs and sweeps under Hydra: how folders are named, what becomes of a failure, and the figure and table at the end."""

import errno
import gc
import hashlib
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from inversion.core.errors import InputError
from inversion.core.files import REPOSITORY, is_locked, locked

log = logging.getLogger(__name__)

# In the environment, so that jobs in processes of their own know them too.
SWEPT = "INVERSION_SWEPT_KEYS"
LAYERS = "INVERSION_SWEPT_LAYERS"
LAUNCHER = "INVERSION_LAUNCHER"
"""The process that others of this machine end with."""
FAILED_FILE = "failed.txt"
LOKY = "LokyProcess-"
"""Begins the names of the processes in which joblib runs jobs; their number follows."""

GRACE_S, GRACE_OF_CLUSTER_S = 20, 300
"""How long a sweep that has lost a job waits for another to begin, once none runs; a cluster queues jobs again at leisure."""
CLOCKS_S = 60
"""By how much the clocks of the machines that run its jobs may differ."""

# In whatever process a job runs: conf/hydra/launcher's files refine the plugins' own of the same names, as Hydra 1.3 allows.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")

_kept = ExitStack()  # not the callback's own, which launchers may pickle


class Launch(NamedTuple):
    """A sweep that this process has launched."""

    config: DictConfig
    jobs: int
    """How many it is to have."""
    time: float
    """When, in seconds since the epoch."""


_launched: list[Launch] = []
"""The one that has come to no end yet."""


def register_resolvers() -> None:
    """Makes the functions that the configs use known to them."""
    OmegaConf.register_new_resolver("repository", lambda: str(REPOSITORY), replace=True)
    OmegaConf.register_new_resolver("job_name", job_name, replace=True)
    OmegaConf.register_new_resolver("sweep_unless", sweep_unless, replace=True)
    OmegaConf.register_new_resolver("jobs_at_once", jobs_at_once, replace=True)
    OmegaConf.register_new_resolver("device_of_worker", device_of_worker, replace=True)


def parse(overrides: Sequence[str]) -> list[Override]:
    """Command-line overrides as Hydra reads them. Raises hydra.errors.OverrideParseException."""
    hydra = GlobalHydra.instance()
    loader = hydra.config_loader() if hydra.is_initialized() else None  # which expands globs, as in layer=glob(conv*)
    return OverridesParser.create(loader).parse_overrides(list(overrides))


def own_overrides(config: DictConfig) -> list[Override]:
    """What the config itself sweeps over, as an experiment may; the command line's overrides come after it."""
    return parse([f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()])


def announce(overrides: Sequence[Override]) -> None:
    """Tells this process and those it starts what the sweep goes over: all keys, and which layers if one of them is that."""
    swept = {override.key_or_group: override.is_sweep_override() for override in overrides}
    os.environ[SWEPT] = " ".join(key for key, is_swept in swept.items() if is_swept)
    layers = [override for override in overrides if override.key_or_group == "layer" and override.is_discrete_sweep()]
    os.environ[LAYERS] = " ".join(layers[-1].sweep_string_iterator()) if layers else ""


def number_of_jobs(overrides: Sequence[Override]) -> int:
    """How many different jobs the sweep has; of two overrides of one key the later counts."""
    swept = {override.key_or_group: override for override in overrides}
    return prod(len(set(o.sweep_string_iterator())) for o in swept.values() if o.is_sweep_override())


def sweep_unless(key: str, overrides: Sequence[str]) -> str:
    """Hydra's mode for an experiment that is a sweep over `key`: a single run where the command line gives one value."""
    chosen = [override for override in parse(overrides) if override.key_or_group == key]
    return "RUN" if chosen and not chosen[-1].is_sweep_override() else "MULTIRUN"


def job_name(layer: str, overrides: Sequence[str]) -> str:
    """A job's folder in its sweep: the layer, then every other swept key with its value, such as `conv5_data.seed-1`."""
    swept = os.environ.get(SWEPT, "").split()
    values = {override.key_or_group: override.get_value_element_as_str() for override in parse(overrides)}
    parts = [layer] + [f"{key.lstrip('+')}-{_slug(values[key])}" for key in swept if key != "layer" and key in values]
    return "_".join(parts)


def jobs_at_once() -> int:
    """How many of a sweep's jobs fit on this machine side by side: one a GPU, or two without any."""
    import torch

    return torch.cuda.device_count() or 2


def device_of_worker(accelerator: str) -> int | list[int]:
    """Lightning's `devices`: one, and in the n-th process that joblib has started to run jobs, the n-th GPU."""
    number = multiprocessing.current_process().name.partition(LOKY)[2]
    if not number or accelerator == "cpu":
        return 1
    import torch

    gpus = torch.cuda.device_count()
    return [(int(number) - 1) % gpus] if gpus else 1


def layers_of_sweep() -> list[str]:
    """The layers that the sweep around this job trains, if it sweeps over them; else none."""
    return os.environ.get(LAYERS, "").split()


def _slug(value: str) -> str:
    """The value in characters that any file system and Hydra's own grammar take; told apart by a hash if changed."""
    slug = re.sub(r"[^A-Za-z0-9.-]+", "-", value).strip("-.")[-40:]
    return slug if slug == value else f"{slug}-{hashlib.sha256(value.encode()).hexdigest()[:6]}"


class SweepReport(Callback):
    """Hydra's callback around a sweep: names its jobs, and at its end writes `samples.png` and `metrics.csv`.

    A sweep with a failed job still gets figure and table of the others, names the failed, and exits with 1.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        overrides = [*own_overrides(config), *parse(config.hydra.overrides.task)]
        announce(overrides)
        os.environ[LAUNCHER] = str(os.getpid())
        if config.note:
            log.info(f"Note: {config.note}")
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _kept.enter_context(locked(folder))
        except InputError as error:
            raise SystemExit(f"error: {error}") from None
        _kept.enter_context(_sigterm_raises())
        _launched.append(Launch(config, number_of_jobs(overrides), time.time()))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        if any(is_locked(job) for job in _jobs(folder)):  # another launch of this sweep has died, but not its jobs
            _wait_for_jobs(config)
        self.conclude(folder)
        if config.note:
            log.info(f"Note     {config.note}")

    def conclude(self, folder: Path, waiting: int = 0) -> None:
        """Writes figure and table, and raises SystemExit if not all went well; `waiting` jobs haven't begun."""
        for name in (SWEPT, LAYERS, LAUNCHER):
            os.environ.pop(name, None)
        _launched.clear()
        _kept.close()
        troubles = []
        try:
            if failed := failed_jobs(folder):
                troubles.append(f"{len(failed)} of the sweep's jobs failed: {'; '.join(failed)}")
            report(folder)
        except Exception as error:  # Hydra would only warn of it, and exit with 0
            log.exception("The report failed")
            troubles.append(f"figure and table couldn't be written ({_user_sentence(error) or error})")
        if waiting:
            troubles.append(f"{waiting} of its jobs haven't begun")
        if troubles:
            raise SystemExit(f"error: {'; and '.join(troubles)}")


def end_of_launch(error: BaseException) -> None:
    """Sees to a sweep whose launcher has come to no regular end: by Ctrl-C or SIGTERM while its jobs ran in processes of their
    own, or by an error, as when one of these was killed. Of the jobs that are finished there are figure and table then.
    """
    if not _launched:
        return
    launch = _launched[0]
    folder = Path(launch.config.hydra.sweep.dir)
    if isinstance(error, Exception):
        traceback.print_exception(error)
    try:
        if isinstance(error, Exception) or (isinstance(error, SystemExit) and error.code == 1):  # Hydra has shown that one
            _wait_for_jobs(launch.config)
            begun = sum(_began(job) >= launch.time - CLOCKS_S for job in _jobs(folder))
            SweepReport().conclude(folder, max(0, launch.jobs - begun))
    except KeyboardInterrupt as interrupt:
        error = interrupt
    if isinstance(error, KeyboardInterrupt):
        again = f"hydra.sweep.dir='{folder}'"
        print(f"Interrupted: the same command with {again} goes on with what isn't finished.", file=sys.stderr)
        raise SystemExit(143 if isinstance(error, Terminated) else 130) from None


def _wait_for_jobs(config: DictConfig) -> None:
    """Returns when no job of the sweep has run for a while: launchers end with the first job that they lose."""
    grace = GRACE_OF_CLUSTER_S if "SlurmLauncher" in config.hydra.launcher._target_ else GRACE_S
    told: set[str] = set()
    idle_since = time.monotonic()
    while time.monotonic() - idle_since < grace:
        running = {job.name for job in _jobs(Path(config.hydra.sweep.dir)) if is_locked(job)}
        if running - told:
            log.info(f"Waiting for the jobs that still run: {', '.join(sorted(running))}")
            told |= running
        if running:
            idle_since = time.monotonic()
        time.sleep(0.5)


def failed_jobs(folder: Path) -> list[str]:
    """The jobs in a sweep's folder that came to no end or were refused, each with the reason."""
    return [f"{job.name} ({_reason(job)})" for job in _jobs(folder) if not _is_done(job)]


def report(folder: Path) -> None:
    """Writes figure and table of the finished runs in a sweep's folder, and prints the table."""
    from inversion.results.report import publish
    from inversion.results.runs import FinishedRun

    runs = [FinishedRun.load(job) for job in _jobs(folder) if _is_done(job)]
    if runs:
        publish(folder, runs)
        log.info(f"Curves   {sys.executable} -m tensorboard.main --logdir {folder} --samples_per_plugin images=200")


def _jobs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if (path / ".hydra").is_dir())


def _began(job: Path) -> float:
    """When the job was last started, in seconds since the epoch."""
    written = job / ".hydra" / "config.yaml"
    return written.stat().st_mtime if written.is_file() else 0


def _is_done(job: Path) -> bool:
    """Whether the job has come to its end, now or in an earlier start of the sweep, and is what was asked for."""
    from inversion.results.runs import is_finished  # not at the top: it needs torch, and --help doesn't

    return is_finished(job) and not (job / FAILED_FILE).is_file()


def _reason(job: Path) -> str:
    path = job / FAILED_FILE
    return (path.read_text().strip() if path.is_file() else "").rpartition("\n")[2] or "ended without a result"


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled as Ctrl-C is: what is being written is finished or removed."""


def run_job(task: Callable[[DictConfig, Path], Any], cfg: DictConfig) -> None:
    """Runs the task in its Hydra output folder, which no other process may use meanwhile, and sees to what goes wrong.

    A single run ends with one sentence and a non-zero exit code where the user can mend it, with a traceback otherwise. In a
    sweep the failure is written to the job's `failed.txt` and the next job goes on; nothing of the failed job's model stays
    in memory. Ctrl-C and SIGTERM end either, with 130 and 143, and say where the last checkpoint is.
    """
    job = HydraConfig.get()
    folder = Path(job.runtime.output_dir)
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return _follow(task, cfg, folder)
    _end_with_launcher()
    in_sweep = not OmegaConf.is_missing(job.job, "num")
    if cfg.get("note") and not in_sweep:
        log.info(f"Note: {cfg.note}")
    is_ours = False
    try:
        with _sigterm_raises(), locked(folder):
            is_ours = True
            (folder / FAILED_FILE).unlink(missing_ok=True)
            task(cfg, folder)
    except (KeyboardInterrupt, SystemExit) as error:
        # Lightning turns Ctrl-C into SystemExit, and SIGTERM too where it comes to it first.
        interrupt = error.__context__ if isinstance(error.__context__, KeyboardInterrupt) else error
        stopped = isinstance(interrupt, Terminated) or type(error).__name__ == "SIGTERMException"
        if isinstance(interrupt, SystemExit) and not stopped:
            raise
        print(f"Interrupted: {_kept_checkpoint(folder, in_sweep) or 'nothing to go on from yet'}.", file=sys.stderr)
        raise SystemExit(143 if stopped else 130) from None
    except Exception as error:
        message = _user_sentence(error)
        if message and isinstance(error, OSError) and (kept := _kept_checkpoint(folder, in_sweep)):
            message = f"{message.rstrip('.')}; {kept}."
        if not in_sweep:
            if message is None:
                raise
            raise SystemExit(f"error: {message}") from None
        if message is None:
            log.exception(f"{folder.name} failed")
        else:
            log.error(f"error: {message}")
        if is_ours:
            (folder / FAILED_FILE).write_text(f"{message or f'{type(error).__name__}: {error}'}\n")
    finally:
        gc.collect()
        if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
            sys.modules["torch"].cuda.empty_cache()


def _kept_checkpoint(folder: Path, in_sweep: bool) -> str | None:
    """Where a stopped run can be gone on with, and how; None if it has no checkpoint yet."""
    last = folder / "checkpoints" / "last.ckpt"
    again = f"hydra.sweep.dir='{folder.parent}'" if in_sweep else f"hydra.run.dir='{folder}'"
    return f"the last checkpoint is {last}; the same command with {again} goes on from it" if last.is_file() else None


def _end_with_launcher() -> None:
    """Ends this process, if it is one of joblib's, when the one that launched the sweep has died, so that the folders of the
    jobs are free and the same command can go on with them.
    """
    name = "ends with its launcher"
    if multiprocessing.current_process().name.startswith(LOKY) and name not in [t.name for t in threading.enumerate()]:
        threading.Thread(target=_end_after_launcher, name=name, daemon=True).start()


def _follow(task: Callable[[DictConfig, Path], Any], cfg: DictConfig, folder: Path) -> None:
    """Runs the task in a process that Lightning has started beside the first, for `trainer=ddp`. It says nothing, since the
    first one says what goes wrong for all, and ends when that one does; only if that one lives on, what went wrong here alone.
    """
    logging.disable(logging.WARNING)
    threading.Thread(target=_end_after_launcher, daemon=True).start()
    try:
        task(cfg, folder)
    except (KeyboardInterrupt, SystemExit):
        pass
    except InputError as error:
        time.sleep(GRACE_S)
        print(f"error: {error}", file=sys.stderr)
        os._exit(1)


def _end_after_launcher() -> None:
    """Ends this process as soon as the one that `LAUNCHER` names isn't its parent any more."""
    launcher = int(os.environ[LAUNCHER])
    while os.getppid() == launcher:
        time.sleep(1)
    os._exit(1)


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Has SIGTERM end the block by an exception, unless a launcher handles it already."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def terminate(*_: Any) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _user_sentence(error: Exception) -> str | None:
    """What the user reads of an error that is theirs to mend; None if it is the program's."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
        return f"{error.filename or 'A file'} can't be written ({error.strerror}): make room there, or choose another folder."
    return None
