"""The command line, checked whole before anything starts: each mistake in one sentence, not job by job."""

import difflib
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from inversion.core.errors import InputError
from inversion.core.files import REPOSITORY
from inversion.launch.sweep import announce, end_of_launch, own_overrides, parse, register_resolvers, run_job

CONF = REPOSITORY / "conf"

MAY_BE_NULL = ("data.classes",)
"""Numbers by default, where null has a meaning of its own."""
MAY_BE_WORDS = {"data.classes": ("present",)}
"""Numbers by default, where these words have a meaning of their own."""
MAY_BE_EMPTY = ("experiment",)
"""Groups of which none need be chosen."""
REPLACEABLE = ("optimizer", "scheduler", "loss", "trainer", "callbacks")
"""Groups whose `_target_` another class can stand in for, with other options: these may be left out with ~."""


def run(task: Callable[[DictConfig, Path], Any], config_name: str = "config") -> None:
    """What `python <program> ...` does: checks the whole command line against `conf/<config_name>.yaml`, then lets Hydra run
    the task, given the config and the output folder.
    """
    register_resolvers()
    try:
        check(sys.argv[1:], CONF, config_name)
    except InputError as error:
        sys.exit(f"error: {error}")

    @wraps(task)  # Hydra names the log after the task's file
    def job(config: DictConfig) -> None:
        run_job(task, config)

    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()
    except (KeyboardInterrupt, SystemExit) as error:
        end_of_launch(error)
        raise


def check(arguments: Sequence[str], config_dir: Path, config_name: str = "config") -> None:
    """Composes every job that these arguments ask for, and tries whether the output folder can be written.

    Where Hydra is asked for something else than running (`--help`, `--cfg`, ...) nothing is checked.

    Raises:
        InputError: an option, key or value that doesn't exist or has the wrong type; a sweep without -m, or of runs over
            several devices; a launcher that isn't installed; an output folder that can't be written.
    """
    flags = [argument for argument in arguments if argument.startswith("-")]
    if any(flag not in ("-m", "--multirun", "-r", "--run") for flag in flags):
        return
    with initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
        overrides = [_parsed(argument) for argument in arguments if not argument.startswith("-")]
        try:
            jobs = BasicSweeper.split_arguments(overrides, None)[0]
        except HydraException as error:
            raise InputError(f"{_one_line(error)}: write out the values, as in seed=1,2,3.") from error
        if not jobs:
            raise InputError("A sweep over no values: a glob() fits nothing; see python train.py --help for what there is.")
        strategies = set()
        for job in jobs:
            config = _composed(parse(job), config_dir, config_name)
            strategies.add(OmegaConf.select(config, "trainer.strategy"))
            absent = [key for key in _all_keys(config) if _is_missing(config, key)]
            if absent:
                raise InputError(f"{absent[0]} must be given: add {absent[0]}=... to the command.")
        _check_launcher(str(config.hydra.launcher._target_))
        sweeping = [override for override in overrides if override.is_sweep_override()]
        is_sweep = bool({"-m", "--multirun"} & set(flags)) or _mode(config_name, overrides) == "MULTIRUN"
        if is_sweep and strategies - {None, "auto"}:
            raise InputError(
                "trainer=ddp can't be part of a sweep, which each of its processes would start anew: give every job a GPU of "
                "its own with hydra/launcher=joblib or hydra/launcher=submitit_slurm, or start one trainer=ddp run per layer."
            )
        if sweeping and not is_sweep:
            raise InputError(f"{_text(sweeping[0])} gives several values: add -m to sweep over them.")
        _check_writable(Path(config.hydra.sweep.dir if is_sweep else config.hydra.run.dir))
        if is_sweep and Path(config.hydra.sweep.dir).is_dir():  # else nothing can be in its jobs' way
            for folder in _job_folders([*own_overrides(config), *overrides], config_name):
                _check_writable(folder)


def _job_folders(overrides: Sequence[Override], config_name: str) -> Iterator[Path]:
    """Where a sweep's jobs go. Each is composed anew, for its name follows from what the sweep goes over."""
    announce(overrides)
    for job in BasicSweeper.split_arguments(list(overrides), None)[0]:
        hydra_config = compose(config_name, overrides=job, return_hydra_config=True).hydra
        yield Path(hydra_config.sweep.dir) / hydra_config.sweep.subdir


def _parsed(argument: str) -> Override:
    loader = GlobalHydra.instance().config_loader()  # which globs, as in layer=glob(conv*), are expanded by
    try:
        return OverridesParser.create(loader).parse_overrides([argument])[0]
    except HydraException as error:
        raise InputError(
            f"{argument} can't be read: write key=value, and put a value with special characters into quotes of its own, "
            "as in 'data.root=\"~/a folder\"'."
        ) from error


def _mode(config_name: str, overrides: Sequence[Override]) -> str:
    """The mode that the config asks for; an experiment may ask for a sweep unless one layer is given."""
    single = [_text(override) for override in overrides if not override.is_sweep_override()]
    mode = compose(config_name, overrides=single, return_hydra_config=True).hydra.mode
    return "RUN" if mode is None else mode.name


def _composed(overrides: Sequence[Override], config_dir: Path, config_name: str) -> DictConfig:
    groups = [override for override in overrides if "/" in override.key_or_group or _is_group(override, config_dir)]
    values = [override for override in overrides if override not in groups]
    for override in groups:
        _check_choice(override, config_dir)
    try:
        before = compose(config_name, overrides=[_text(override) for override in groups], return_hydra_config=True)
        for override in values:
            _check_value(override, before)
        return compose(config_name, overrides=[_text(o) for o in overrides], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"{_one_line(error)}: see python train.py --help.") from error


def _is_group(override: Override, config_dir: Path) -> bool:
    return (config_dir / override.key_or_group).is_dir()


def _check_choice(override: Override, config_dir: Path) -> None:
    group, value = override.key_or_group, override.value()
    if "/" in group:  # Hydra's own, or nested: Hydra says itself what there is
        return
    options = sorted(path.stem for path in (config_dir / group).glob("*.yaml") if path.stem != "loading")
    if value is None and group in MAY_BE_EMPTY:
        return
    if override.is_delete() or any(one not in options for one in (value if isinstance(value, list) else [value])):
        trouble = f"{group} can't be left out" if value is None else f"{group}={value}: no such {group}"
        raise InputError(f"{trouble}; choose one of {', '.join(options)}.")


def _check_value(override: Override, config: DictConfig) -> None:
    key = override.key_or_group
    if override.is_delete() and key.partition(".")[0] not in REPLACEABLE:
        raise InputError(f"~{key}: this option can't be left out; give it a value.")
    if override.is_add() or override.is_force_add() or override.is_delete():
        return
    known = OmegaConf.select(config, key, default=None, throw_on_missing=False)
    parent = OmegaConf.select(config, key.rpartition(".")[0]) if "." in key else config
    if not isinstance(parent, DictConfig) or key.rpartition(".")[2] not in list(parent.keys()):
        near = difflib.get_close_matches(key, _all_keys(config), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see python train.py --help."
        if "." in key and key.partition(".")[0] in REPLACEABLE:
            hint = f"write +{_text(override)} if its class takes it; {hint}"
        raise InputError(f"{_text(override)}: there is no option {key}; {hint}")
    value = override.value()
    expected: dict[type, tuple[tuple[type, ...], str]] = {
        bool: ((bool,), "true or false"),
        int: ((int,), "a whole number"),
        float: ((int, float), "a number"),
    }
    types, words = expected.get(type(known), ((object,), ""))
    is_odd = not isinstance(value, types) or (isinstance(value, bool) and words and type(known) is not bool)
    if is_odd and not (value is None and key in MAY_BE_NULL) and value not in MAY_BE_WORDS.get(key, ()):
        raise InputError(f"{_text(override)}: {key} must be {words}.")


def _all_keys(config: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key in map(str, config):
        if prefix == "" and key == "hydra":
            continue
        keys.append(f"{prefix}{key}")
        child = config._get_node(key)
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing() or child._is_interpolation()):
            keys += _all_keys(child, f"{prefix}{key}.")
    return keys


def _is_missing(config: DictConfig, key: str) -> bool:
    parent, _, last = key.rpartition(".")
    return OmegaConf.is_missing(OmegaConf.select(config, parent) if parent else config, last)


def _check_launcher(target: str) -> None:
    """Raises InputError unless this launcher of Hydra's can be used here."""
    plugin, _, name = target.rpartition(".")
    try:
        found = importlib.util.find_spec(plugin)
    except ModuleNotFoundError:
        found = None
    if found is None:
        extra = "joblib" if "joblib" in plugin else "slurm"
        raise InputError(f"This launcher isn't installed ({plugin}): pip install -e '.[{extra}]' in the repository.")
    if name == "SlurmLauncher" and shutil.which("srun") is None:
        raise InputError("hydra/launcher=submitit_slurm: no srun here; start it where your cluster's jobs are submitted.")


def _check_writable(folder: Path) -> None:
    """Raises InputError unless a megabyte can be written where the folder is, or will be."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        if not place.is_dir():
            raise NotADirectoryError(20, "a file is in the way", str(place))
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(1 << 20))
    except OSError as error:
        raise InputError(
            f"The output folder {folder} can't be written ({error.strerror}): give another hydra.run.dir=PATH "
            "(hydra.sweep.dir=PATH for a sweep)."
        ) from error


def _text(override: Override) -> str:
    return str(override.input_line)


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".:")
