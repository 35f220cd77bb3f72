"""Puts finished runs side by side, wherever they ran: the samples figure, and the table of metrics."""

from pathlib import Path

from omegaconf import DictConfig

from inversion.launch import command_line
from inversion.results.report import publish
from inversion.results.runs import find_all


def report(cfg: DictConfig, folder: Path) -> None:
    """Writes `samples.png` and `metrics.csv` of the runs into the folder, and prints the table."""
    publish(folder, find_all(cfg.runs))


if __name__ == "__main__":
    command_line.run(report, "report")
