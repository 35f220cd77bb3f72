"""The processes of one run over several devices: for each further device Lightning starts the command anew."""

from typing import Any

from lightning import LightningModule, Trainer
from torch import distributed


def fit(trainer: Trainer, model: LightningModule, **options: Any) -> None:
    """`trainer.fit`, after which no process waits for another: where one fails, those that it started end with it.

    Args:
        **options: `trainer.fit`'s.
    """
    try:
        trainer.fit(model, **options)
    except BaseException:
        for process in getattr(trainer.strategy.launcher, "procs", []):
            process.kill()
            process.wait()
            process.returncode = 0  # or Lightning would kill this process as well, before it has said what went wrong
        raise
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
