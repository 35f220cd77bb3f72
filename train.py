"""Trains the decoder of one layer, or with -m of several: python train.py -m layer=conv2,conv5,fc6,fc8."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from inversion.launch import command_line


def train(cfg: DictConfig, folder: Path) -> dict[str, Any] | None:
    """`inversion.training.run.train`, imported when a run starts: --help and a mistyped option are answered at once."""
    from inversion.training import run

    return run.train(cfg, folder)


def command() -> None:
    """What `python train.py ...` does."""
    command_line.run(train)


if __name__ == "__main__":
    command()
