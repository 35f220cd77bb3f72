"""What every program does with its command line: checks its options before anything starts, then has Hydra run them."""

import argparse
import difflib
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError

from inversion.core.errors import InputError
from inversion.core.files import REPOSITORY
from inversion.launch import sweep
from inversion.launch.job import Terminated, raise_on_sigterm, run_job, sentence

# Threads that wait spin only briefly: as long as by default costs more than half of the speed where another process holds one
# of two cores; no spinning at all costs a third on idle ones. Read when torch is loaded: so this module is imported first.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

CONF = REPOSITORY / "conf"
HELP = f"python {sys.argv[0]} --help"

OF_ANY_TYPE = ("data.classes", "data.cache", "trainer.devices", "decoder.standardized")
"""Where values of another type than the default's have a meaning too: what reads them checks them."""
REPLACEABLE = ("optimizer", "scheduler", "loss", "trainer", "callbacks", "logger")
"""Groups whose `_target_` may be another library's class: its options may be null, or be left out with ~."""
TYPES = {bool: "true or false", int: "a whole number", float: "a number", list: "a list, as in [1,2]"}
"""Type of a default -> in words, what values may replace it."""


def run(task: Callable[[DictConfig, Path], Any], config_name: str = "config") -> None:
    """What `python <program> ...` does: checks the command line, then has Hydra run the task, given config and folder."""
    sweep.register_resolvers()
    raise_on_sigterm()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # has Hydra raise errors instead of printing them
    # As Hydra takes what users write: the experiment stands in the defaults list, no group may be null, and ~ is the shell's.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir")  # an option like the others, so that what lies there is checked too
    own, given = parser.parse_known_args(["--config-dir" if a == "-cd" else a for a in sys.argv[1:]])
    given += [f"hydra.searchpath=['file://{Path(own.config_dir).absolute()}']"] if own.config_dir else []
    given = [re.sub(r"(?<=[=,[])~/", lambda _: f"{Path.home()}/", a) for a in given]
    given = [a.removeprefix("+") if a.startswith("+experiment=") else a for a in given]
    sys.argv[1:] = ["~logger" if a == "logger=null" else a for a in given]
    job = wraps(task)(partial(run_job, task))  # Hydra names the log after the task's file
    try:
        check(sys.argv[1:], config_name)
        with sweep.running:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()
    except KeyboardInterrupt as interrupt:
        sys.exit(143 if isinstance(interrupt, Terminated) else 130)
    except Exception as error:
        if (message := sentence(error)) is None:
            raise
        sys.exit(f"error: {message}")


def check(arguments: Sequence[str], config_name: str = "config") -> None:
    """Checks each option, and each value that a sweep goes over, once; how they combine is for Hydra to check. Does nothing
    where Hydra is asked for something else than running (`--help`, `--cfg`, ...). Raises InputError.
    """
    flags = {argument for argument in arguments if argument.startswith("-")}
    sweeps = flags & {"-m", "--multirun"}
    if sweeps and flags & {"-c", "--cfg"}:
        raise InputError("--cfg shows the config of one run: leave -m out, and give one value to each option.")
    if flags - {"-m", "--multirun", "-r", "--run"}:
        return
    if sweeps and config_name != "config":
        raise InputError("Only train.py sweeps: leave -m out.")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        groups = {"hydra.searchpath", *GlobalHydra.instance().config_loader().list_groups("")}
        overrides = {argument: _parsed(argument) for argument in arguments if argument not in flags}
        choices = {text: each for text, each in overrides.items() if each.key_or_group in groups or "/" in each.key_or_group}
        for text, choice in choices.items():
            if None in _values(choice) and text != "~logger":
                raise InputError(f"{text}: choose one, or leave this option out; see {HELP}.")
            if choice.key_or_group == "layer" and list in map(type, _values(choice)):  # of which Hydra would take the last
                raise InputError(f"{text}: choose one, or sweep over several, as in -m layer=conv2,conv5.")
        swept = [text for text, override in overrides.items() if override.is_sweep_override()]
        single = [text for text in choices if text not in swept]
        config = compose(config_name, overrides=single)
        options = _flat(OmegaConf.to_container(config))
        own = [text for text in single if text.startswith("experiment=")]
        if own:
            known = compose(config_name, overrides=[text for text in single if text not in own])
            _check_experiment(own[0], options, _flat(OmegaConf.to_container(known)))
        for text, override in overrides.items():
            if text not in choices and not override.is_hydra_override():
                _check_option(text, override, config, options)
        keys = {override.key_or_group for override in overrides.values()}
        if absent := [key for key, value in options.items() if value == "???" and key not in keys]:
            raise InputError(f"{absent[0]} must be given: add {absent[0]}=... to the command.")
        if swept and not own and not sweeps:
            hint = f", or write {_quoted(swept[0])} if it is one" if re.search(r"[/ ]", swept[0]) else ""
            raise InputError(f"{swept[0]} gives several values: add -m to sweep over them{hint}.")


def _parsed(argument: str) -> Override:
    try:
        return sweep.parse([argument])[0]
    except HydraException as error:
        form = "key=value, as in layer=conv5 or 'data.root=\"a folder\"'"
        correct = _quoted(argument) if "=" in argument and '"' not in argument else form
        raise InputError(f"{argument} can't be read: write {correct}.") from error


def _quoted(argument: str) -> str:
    """As a shell has to be given the argument, for Hydra to take its value as it is."""
    key, _, value = argument.partition("=")
    return shlex.quote(f'{key}="{value}"')


def _values(override: Override) -> list[Any]:
    """What the option is set to, in each job of a sweep; nothing where only the sweeper can tell."""
    if override.is_discrete_sweep():
        return list(override.sweep_iterator())
    return [] if override.is_sweep_override() else [override.value()]


def _check_experiment(text: str, options: dict[str, Any], known: dict[str, Any]) -> None:
    """Checks what an experiment's file sets beside what stands in the config without it."""
    for key in (key for key in options if not _is_class_option(key, options)):
        if key not in known and f"${{{key}}}" not in str(options):  # a variable of the file's own is
            raise InputError(f"{text}: there is no option {key}, which its file sets; {_hint(key, known)}")
        if not _fits(options[key], type(known.get(key))) and "${" not in str(options[key]):
            raise InputError(f"{text}: {key} must be {TYPES[type(known[key])]}.")


def _check_option(text: str, override: Override, config: DictConfig, options: dict[str, Any]) -> None:
    key = override.key_or_group
    group = key.partition(".")[0]
    if override.is_delete():
        if group not in REPLACEABLE:
            raise InputError(f"{text}: this option can't be left out; give it a value.")
    elif key not in options:
        if not ((override.is_add() or override.is_force_add()) and _is_class_option(key, options)):
            plus = f"write +{text} if its class takes it; " if group in REPLACEABLE else ""
            raise InputError(f"{text}: there is no option {key}; {plus}{_hint(key, options)}")
    elif key not in OF_ANY_TYPE:
        default = OmegaConf.select(config, key, throw_on_resolution_failure=False)
        kind = list if isinstance(default, ListConfig) else type(default)
        for value in _values(override):
            if value in (None, "") and (kind is str or options[key] == "???") and group not in REPLACEABLE:
                raise InputError(f"{text}: {key} is empty; give it a value.")
            if "${" in str(value):
                OmegaConf.update(config, key, value)
                try:
                    value = OmegaConf.select(config, key)
                except InterpolationKeyError as error:
                    raise InputError(f"{text}: {str(error).splitlines()[0]}.") from error
                except InterpolationResolutionError:  # as of ${hydra:job.num}, which only a job knows
                    continue
            if not _fits(value, kind) and not (value is None and group in REPLACEABLE):
                raise InputError(f"{text}: {key} must be {TYPES[kind]}.")


def _fits(value: Any, kind: type) -> bool:
    return kind not in TYPES or type(value) in ((int, float) if kind is float else (kind,))


def _is_class_option(key: str, options: Mapping[str, Any]) -> bool:
    """Whether a class is built from the group that the key lies in, and may take it."""
    group = key.partition(".")[0]
    return group in REPLACEABLE or f"{group}._target_" in options


def _hint(key: str, options: Iterable[str]) -> str:
    near = [option for option in options if option.endswith(f".{key}")] or difflib.get_close_matches(key, options, n=3)
    return f"did you mean {' or '.join(near[:3])}?" if near else f"see {HELP}."


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """All that can be given on the command line, by its dotted key."""
    options: dict[str, Any] = {}
    for key, value in node.items() if isinstance(node, dict) else ():
        options |= {f"{prefix}{key}": value, **_flat(value, f"{prefix}{key}.")}
    return options
