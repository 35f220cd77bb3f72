"""Where a number comes from: the command and its config, the encoder, the images, the code, the machine, the versions."""

import json
import logging
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

from inversion.core.files import REPOSITORY, write_atomic
from inversion.data.datamodule import ImageDataModule

log = logging.getLogger(__name__)

PROVENANCE_FILE = "provenance.json"
PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "torchmetrics", "pillow", "numpy")
"""Whose versions bear on results."""


def provenance(device: torch.device) -> dict[str, Any]:
    """`commit`, `hardware` and `versions`, in JSON's types."""
    versions = {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
    return {"commit": commit(), "hardware": hardware(device), "versions": versions}


def command_line(program: str) -> str:
    """The command that this run was started with, or the library call."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else None
    return f"{program} as a library call" if overrides is None else shlex.join(["python", program, *overrides])


def write_provenance(
    folder: Path,
    program: str,
    metadata: Mapping[str, Any],
    datamodule: ImageDataModule,
    parts: Sequence[str],
    device: torch.device,
    resumed: bool,
) -> None:
    """Writes what it takes to repeat a run to its `provenance.json`: the command, the resolved config, hashes of the encoder,
    the split and the decoded images, and `provenance`. A resumed run keeps the file; what differs now is logged.

    Args:
        metadata: see `checkpoints.metadata`.
        parts: of the images.
    """
    path = folder / PROVENANCE_FILE
    now = provenance(device)
    if resumed and path.is_file():
        before = json.loads(path.read_text())
        for key, value in now.items():
            if before.get(key) != value:
                log.warning(f"This run began with {key} {before.get(key)} and is resumed with {value}: it may end otherwise.")
        return
    hashes = {key: metadata[key] for key in ("encoder", "split") if key in metadata}
    hashes |= {f"{part} images": datamodule.digest_of_images(part) for part in parts}
    content = {"command": command_line(program), "config": metadata["config"], "sha256": hashes, **now}
    write_atomic(path, json.dumps(content, indent=2).encode())


def hardware(device: torch.device) -> dict[str, Any]:
    """What it runs on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def commit() -> str | None:
    """The repository's commit, with `-dirty` behind it if files were changed since; None where git can't tell."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
