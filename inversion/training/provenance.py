"""Where a number comes from: the command and its config, the encoder, the images, the code, the machine, the versions."""

import json
import logging
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

from inversion.core.files import REPOSITORY, write_atomic
from inversion.data.datamodule import ImageDataModule

log = logging.getLogger(__name__)

PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "torchmetrics", "pillow", "numpy")
"""Whose versions bear on results."""


def provenance(device: torch.device) -> dict[str, Any]:
    """`commit` (with `-dirty` behind it if files were changed since; None where git can't tell), `hardware` and `versions`."""
    git = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    hardware = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    versions = {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
    return {"commit": commit, "hardware": hardware, "versions": versions}


def command_line(program: str) -> str:
    """The command that this run was started with, which may be a study's, or the library call."""
    if not HydraConfig.initialized():
        return f"{program} as a library call"
    name = HydraConfig.get().job.config_name
    program = "train.py" if name == "config" else f"experiments/{name}.py"
    return shlex.join(["python", program, *HydraConfig.get().overrides.task])


def write_provenance(
    folder: Path,
    now: Mapping[str, Any],
    program: str,
    metadata: Mapping[str, Any],
    datamodule: ImageDataModule,
    parts: Sequence[str],
    resumed: bool,
) -> None:
    """Writes what it takes to repeat a run to its `provenance.json`: command, resolved config, hashes of encoder, split and
    decoded images, and `now`, which is `provenance`. A resumed run's command and config are renewed, what else differs logged.
    """
    path, given = folder / "provenance.json", {"command": command_line(program), "config": metadata["config"]}
    if resumed and path.is_file():
        before = json.loads(path.read_text())
        for key, value in now.items():
            if before.get(key) != value:
                log.warning(f"This run began with {key} {before.get(key)} and is resumed with {value}: it may end otherwise.")
        write_atomic(path, json.dumps(before | given, indent=2).encode())
        return
    hashes = {key: metadata[key] for key in ("encoder", "split") if key in metadata}
    hashes |= {f"{part} images": sha256(datamodule.images(part).cpu().numpy().data).hexdigest() for part in parts}
    write_atomic(path, json.dumps({**given, "sha256": hashes, **now}, indent=2).encode())
