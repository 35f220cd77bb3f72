"""A sweep: its jobs' names, its folder locked, and at its end the figure, the table and the jobs that failed."""

import hashlib
import logging
import os
import re
import shutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from inversion.core.errors import InputError
from inversion.core.files import SWEPT_LAYERS, is_locked, locked
from inversion.launch.job import FAILED_FILE, JOBS_FOLDER, sentence

log = logging.getLogger(__name__)

SWEPT = "INVERSION_SWEPT_KEYS"
"""Environment variable, for jobs in processes of their own: the keys that the sweep goes over."""

running = ExitStack()
"""Around Hydra's run of a program: holds the sweep that it turns out to be."""


class SweepReport(Callback):
    """Hydra's callback that tells `running` of a sweep."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            running.enter_context(_sweep(config, Path(config.hydra.sweep.dir)))
        except Exception as error:  # any, since Hydra would only warn of it
            raise SystemExit(f"error: {sentence(error) or error}") from error


def register_resolvers() -> None:
    """Makes the functions known to OmegaConf that the configs use beside `repository`."""
    for function in (job_name, sweep_unless, jobs_at_once):
        OmegaConf.register_new_resolver(function.__name__, function, replace=True)


def job_name(layer: str, overrides: Sequence[str]) -> str:
    """A job's folder in its sweep: the layer, then every other swept key with its value, such as `conv5_data.seed-1`. Values
    are in characters that any file system and Hydra's own grammar take; a hash tells changed ones apart.
    """
    values = {override.key_or_group: override.get_value_element_as_str() for override in parse(overrides)}
    name = layer
    for key in os.environ.get(SWEPT, "").split():
        if key != "layer" and (value := values.get(key)) is not None:
            slug = re.sub(r"[^A-Za-z0-9.-]+", "-", value).strip("-.")[-40:]
            name += f"_{key}-{slug}"
            if slug != value:
                name += f"-{hashlib.sha256(value.encode()).hexdigest()[:6]}"
    return name


def sweep_unless(key: str, overrides: Sequence[str]) -> str:
    """Hydra's mode for an experiment that is a sweep over `key`: a single run where the command line gives one value."""
    chosen = [override for override in parse(overrides) if override.key_or_group == key]
    return "RUN" if chosen and not chosen[-1].is_sweep_override() else "MULTIRUN"


def jobs_at_once() -> int:
    """How many of a sweep's jobs fit on this machine side by side: one a GPU, or two without any."""
    import torch  # not at the top: --help needs none of it

    return torch.cuda.device_count() or 2


def parse(overrides: Sequence[str]) -> list[Override]:
    """Command-line overrides as Hydra reads them. Raises hydra.errors.OverrideParseException."""
    hydra = GlobalHydra.instance()
    loader = hydra.config_loader() if hydra.is_initialized() else None  # which expands globs, as in layer=glob(conv*)
    return OverridesParser.create(loader).parse_overrides(list(overrides))


@contextmanager
def _sweep(config: DictConfig, folder: Path) -> Iterator[None]:
    """Around a sweep's jobs. Where some fail, the others get figure and table, the failed are named, the exit code is 1."""
    _check_launcher(config.hydra.launcher._target_)
    folder.mkdir(parents=True, exist_ok=True)
    resume = f"the same command with hydra.sweep.dir='{folder}' resumes what isn't finished"
    with locked(folder):
        earlier = _started(folder)
        _export_swept(config)
        troubles = []
        try:
            yield
        except KeyboardInterrupt:
            print(f"Interrupted: {resume}.", file=sys.stderr)
            raise
        except Exception as error:
            if _started(folder).keys() == earlier.keys():
                raise
            if (reason := sentence(error)) is None:
                traceback.print_exception(error)
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
            troubles = [f"the sweep broke off ({reason.rstrip('.')}); {resume}"]
        finally:
            for name in (SWEPT, SWEPT_LAYERS):
                os.environ.pop(name, None)
        started = _started(folder)
        trial = config.get("trainer", {}).get("fast_dev_run")  # whose jobs leave no results
        reasons = {job: _failure(job, trial) for job in sorted(set(started.values()))}
        own = {job for file, job in started.items() if file not in earlier}
        failed = [f"{os.path.relpath(job, folder)} ({reason})" for job, reason in reasons.items() if reason and job in own]
        if failed:
            troubles.insert(0, f"{len(failed)} of the sweep's jobs failed: {'; '.join(failed)}")
        if not own:
            troubles.append("no job was started: nothing fits the values to sweep over")
        from inversion.results.report import publish  # not at the top: these need torch, and --help doesn't
        from inversion.results.runs import FinishedRun, is_finished

        if finished := [job for job in reasons if is_finished(job)]:  # one that was refused to run anew may be
            publish(folder, [FinishedRun.load(job) for job in finished])
            log.info(f"Curves   {sys.executable} -m tensorboard.main --logdir {folder} --samples_per_plugin images=200")
        if config.note:
            log.info(f"Note     {config.note}")
    if troubles:
        raise SystemExit(f"error: {'; and '.join(troubles)}.")


def _check_launcher(target: str) -> None:
    try:
        get_class(target)
    except ImportError as error:
        raise InputError(f"hydra/launcher: {target} isn't installed: pip install -e '.[joblib,slurm]' brings it.") from error
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


def _started(folder: Path) -> dict[Path, Path]:
    """What each job that was started, in this launch of the sweep or an earlier one, has left there -> its folder."""
    return {file: folder.absolute() / file.read_text() for file in (folder / JOBS_FOLDER).glob("*")}


def _failure(job: Path, trial: bool) -> str | None:
    """Why the job has not come to its end, or isn't what was asked for; None if it is finished, or was a trial."""
    from inversion.training.outcome import is_finished  # not at the top: it needs torch, and --help doesn't

    path = job / FAILED_FILE
    if reason := path.read_text().strip() if path.is_file() else "":
        return reason.rpartition("\n")[2].rstrip(".")
    if trial or is_finished(job):
        return None
    return "still running" if is_locked(job) else "ended without a result"  # a launcher that loses one leaves the others
