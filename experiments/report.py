"""Puts finished runs side by side, wherever they ran: the samples figure, and the table of metrics.

python experiments/report.py runs=outputs/<sweep>
python experiments/report.py runs=[outputs/<run>,outputs/<another run>]
"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from inversion import REPOSITORY, command_line, runs, sweep
from inversion.errors import InputError

CONF = REPOSITORY / "conf"
sweep.register_resolvers()


def report(cfg: DictConfig, folder: Path) -> None:
    """Writes `samples.png` and `metrics.csv` of the runs into the folder, and prints the table."""
    runs.publish(folder, runs.find_all([cfg.runs] if isinstance(cfg.runs, str) else cfg.runs))


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="report")
def main(cfg: DictConfig) -> None:
    sweep.run_job(report, cfg)


if __name__ == "__main__":
    try:
        command_line.check(sys.argv[1:], CONF, "report")
    except InputError as error:
        sys.exit(f"error: {error}")
    main()
