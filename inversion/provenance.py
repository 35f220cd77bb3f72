"""Where a number comes from: the code, the machine, the versions."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import lightning
import torch

from inversion import REPOSITORY


def provenance(device: torch.device) -> dict[str, Any]:
    """`commit`, `hardware` and `versions`, in JSON's types."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "lightning": lightning.__version__}
    return {"commit": commit(), "hardware": hardware(device), "versions": versions}


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
