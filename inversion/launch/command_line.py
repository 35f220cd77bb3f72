"""What every program does with its command line: checks its options before anything starts, then has Hydra run them."""

import difflib
import os
import shlex
import sys
import threading
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from inversion.core.errors import InputError
from inversion.core.files import REPOSITORY
from inversion.launch import resolvers, sweep
from inversion.launch.job import Terminated, raise_on_sigterm, run_job, sentence

CONF = REPOSITORY / "conf"
HELP = f"python {sys.argv[0]} --help"

OF_ANY_TYPE = ("data.classes", "trainer.devices", "decoder.standardized")
"""Numbers or switches by default, where words, lists or null have a meaning too: what reads them checks them."""
REPLACEABLE = ("optimizer", "scheduler", "loss", "trainer", "callbacks", "logger")
"""Groups whose `_target_` may be another library's class: its options may be null, or be left out with ~."""
TYPES: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    ListConfig: ((list,), "a list, as in [1,2]"),
}
"""Type of a default -> which values may replace it, in Python and in words."""


def run(task: Callable[[DictConfig, Path], Any], config_name: str = "config") -> None:
    """What `python <program> ...` does: checks the command line against `conf/<config_name>.yaml`, then has Hydra run the
    task, given the config and the output folder, once or for each job of a sweep.
    """
    resolvers.register()
    raise_on_sigterm()
    threading.excepthook = _excepthook
    # Threads that wait don't spin: where another process holds one of two cores, that took three quarters of the speed.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # has Hydra raise errors instead of printing them
    # What users write, and how Hydra takes it: the experiment stands in the defaults list already, and no group may be null.
    spelling = {"logger=null": "~logger"}
    sys.argv[1:] = [spelling.get(a, a.removeprefix("+") if a.startswith("+experiment=") else a) for a in sys.argv[1:]]

    @wraps(task)  # Hydra names the log after the task's file
    def job(config: DictConfig) -> float | None:
        return run_job(task, config)

    try:
        check(sys.argv[1:], config_name)
        with sweep.running:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()
    except KeyboardInterrupt as interrupt:
        sys.exit(143 if isinstance(interrupt, Terminated) else 130)
    except Exception as error:
        if (message := _phrase(error)) is None:
            raise
        sys.exit(f"error: {message}")


def check(arguments: Sequence[str], config_name: str = "config") -> None:
    """Checks each option, and each value that a sweep goes over, once. How they combine is for Hydra to check.

    Where Hydra is asked for something else than running (`--help`, `--cfg`, ...) nothing is checked.

    Raises:
        InputError: an option that doesn't exist, must be given, can't be left out or has a value of the wrong type.
    """
    flags = {argument for argument in arguments if argument.startswith("-")}
    if flags - {"-m", "--multirun", "-r", "--run"}:
        return
    with initialize_config_dir(str(CONF), version_base="1.3"):
        groups = GlobalHydra.instance().config_loader().list_groups("")
        overrides = [_parsed(argument) for argument in arguments if argument not in flags]
        choices = [override for override in overrides if override.key_or_group in groups or "/" in override.key_or_group]
        for override in choices:
            if None in _values(override) and _text(override) != "~logger":
                raise InputError(f"{_text(override)}: choose one, or leave this option out; see {HELP}.")
        search = [override for override in overrides if override.key_or_group == "hydra.searchpath"]
        single = [_text(override) for override in (*search, *choices) if not override.is_sweep_override()]
        config = compose(config_name, overrides=single)
        options = _flat(OmegaConf.to_container(config))
        for override in overrides:
            if override not in choices and not override.is_hydra_override():
                _check_option(override, config, options, groups)
        given = {override.key_or_group for override in overrides}
        if absent := [key for key, value in options.items() if value == "???" and key not in given]:
            raise InputError(f"{absent[0]} must be given: add {absent[0]}=... to the command.")
        swept = [_text(override) for override in overrides if override.is_sweep_override()]
        if swept and not flags & {"-m", "--multirun"} and not any(text.startswith("experiment=") for text in single):
            hint = f", or write {_quoted(swept[0])} if it is one" if "/" in swept[0] else ""
            raise InputError(f"{swept[0]} gives several values: add -m to sweep over them{hint}.")


def _parsed(argument: str) -> Override:
    try:
        return resolvers.parse([argument])[0]
    except HydraException as error:
        if "=" in argument and '"' not in argument:
            raise InputError(f"{argument} can't be read: write {_quoted(argument)}.") from error
        raise InputError(
            f"{argument} can't be read: write key=value, as in layer=conv5 or 'data.root=\"a folder\"'."
        ) from error


def _quoted(argument: str) -> str:
    """As a shell has to be given the argument, for Hydra to take its value as it is."""
    key, _, value = argument.partition("=")
    return shlex.quote(f'{key}="{value}"')


def _values(override: Override) -> list[Any]:
    """What the option is set to, in each job of a sweep; nothing where only the sweeper can tell."""
    if override.is_discrete_sweep():
        return list(override.sweep_iterator())
    return [] if override.is_sweep_override() else [override.value()]


def _check_option(override: Override, config: DictConfig, options: dict[str, Any], groups: Sequence[str]) -> None:
    """Raises InputError unless the config has this option, or may have it with + or do without it with ~, and its default is
    of the same type.
    """
    key, text = override.key_or_group, _text(override)
    top = key.partition(".")[0]
    near = difflib.get_close_matches(key, options, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"see {HELP}."
    if override.is_delete():
        if top not in REPLACEABLE:
            raise InputError(f"~{key}: this option can't be left out; give it a value.")
    elif override.is_add() or override.is_force_add():
        if key not in options and top not in groups and f"{top}._target_" not in options:
            raise InputError(f"{text}: nothing reads {key}; {hint}")
    elif key not in options:
        plus = f"write +{text} if its class takes it; " if "." in key and top in REPLACEABLE else ""
        raise InputError(f"{text}: there is no option {key}; {plus}{hint}")
    elif key not in OF_ANY_TYPE:
        default = OmegaConf.select(config, key, throw_on_resolution_failure=False)
        types, words = TYPES.get(type(default), ((object,), ""))
        for value in _values(override):
            is_odd = not isinstance(value, types) or (isinstance(value, bool) and type(default) in (int, float))
            if is_odd and not (value is None and top in REPLACEABLE):
                raise InputError(f"{text}: {key} must be {words}.")


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """All that can be given on the command line, by its dotted key."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    options: dict[str, Any] = {}
    for key, value in items:
        options |= {f"{prefix}{key}": value, **_flat(value, f"{prefix}{key}.")}
    return options


def _text(override: Override) -> str:
    return str(override.input_line)


def _phrase(error: Exception) -> str | None:
    """One sentence about an error of the user's or the system's; None if it is the program's."""
    if isinstance(error, MissingConfigException) and error.options:
        return f"{error.missing_cfg_file}: there is no such option; choose one of {', '.join(error.options)}."
    if isinstance(error, HydraException | InterpolationResolutionError) and not isinstance(error, InstantiationException):
        lines = [line.strip() for line in str(error).partition("full_key")[0].splitlines() if line.strip()]
        return f"{' '.join(lines[:3]).rstrip('.:')}."
    return sentence(error)


def _excepthook(args: threading.ExceptHookArgs) -> None:
    """TensorBoard's writer hands a full disk's error on to the run, which reports it; the thread needn't as well."""
    if not (isinstance(args.exc_value, OSError) and type(args.thread).__name__ == "_AsyncWriterThread"):
        threading.__excepthook__(args)
