"""The functions that the configs use beside `repository`: they name a sweep's jobs and say how many run at once."""

import hashlib
import os
import re
from collections.abc import Sequence

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

SWEPT = "INVERSION_SWEPT_KEYS"
"""Environment variable, for jobs in processes of their own: the keys that the sweep goes over."""


def register() -> None:
    """Makes the functions known to OmegaConf."""
    for function in (job_name, sweep_unless, jobs_at_once):
        OmegaConf.register_new_resolver(function.__name__, function, replace=True)


def parse(overrides: Sequence[str]) -> list[Override]:
    """Command-line overrides as Hydra reads them. Raises hydra.errors.OverrideParseException."""
    hydra = GlobalHydra.instance()
    loader = hydra.config_loader() if hydra.is_initialized() else None  # which expands globs, as in layer=glob(conv*)
    return OverridesParser.create(loader).parse_overrides(list(overrides))


def sweep_unless(key: str, overrides: Sequence[str]) -> str:
    """Hydra's mode for an experiment that is a sweep over `key`: a single run where the command line gives one value."""
    chosen = [override for override in parse(overrides) if override.key_or_group == key]
    return "RUN" if chosen and not chosen[-1].is_sweep_override() else "MULTIRUN"


def job_name(layer: str, overrides: Sequence[str]) -> str:
    """A job's folder in its sweep: the layer, then every other swept key with its value, such as `conv5_data.seed-1`."""
    swept = os.environ.get(SWEPT, "").split()
    values = {override.key_or_group: override.get_value_element_as_str() for override in parse(overrides)}
    parts = [layer] + [f"{key}-{_slug(values[key])}" for key in swept if key != "layer" and key in values]
    return "_".join(parts)


def jobs_at_once() -> int:
    """How many of a sweep's jobs fit on this machine side by side: one a GPU, or two without any."""
    import torch

    return torch.cuda.device_count() or 2


def _slug(value: str) -> str:
    """The value in characters that any file system and Hydra's own grammar take; a hash tells changed ones apart."""
    slug = re.sub(r"[^A-Za-z0-9.-]+", "-", value).strip("-.")[-40:]
    return slug if slug == value else f"{slug}-{hashlib.sha256(value.encode()).hexdigest()[:6]}"
