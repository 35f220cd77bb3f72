"""Trains AlexNet as a classifier on the classes that are on disk; what it writes is an `encoder.weights`.

It learns from the train images less those that the decoders are validated on (with the same `data.seed` and
`data.val_per_class`), is validated on these, and at the end scored on the official validation images. Into its folder go
`alexnet.pt`, a plain state dict of torchvision's AlexNet, `metrics.json`, `split.json`, the curves, and
`checkpoints/last.ckpt`, from which the same command with the same `hydra.run.dir` resumes.
"""

from inversion.launch import command_line  # isort: skip - before torch

import logging
from pathlib import Path
from typing import Any

from lightning import Trainer
from omegaconf import DictConfig

from inversion.core.files import save_atomic
from inversion.training.building import build
from inversion.training.classifier import Classifier
from inversion.training.fit import fit, start
from inversion.training.outcome import write_metrics

log = logging.getLogger(__name__)
WEIGHTS = "alexnet.pt"


def train_encoder(cfg: DictConfig, folder: Path) -> None:
    """One training, from its config to `alexnet.pt`."""
    start(cfg.seed)
    log.info(f"Encoder: {folder}")
    datamodule = build("data", cfg.data)

    def module_of(trainer: Trainer) -> Classifier:
        return build("classifier", cfg.classifier, classes=len(datamodule.split.classes))

    fitted = fit(cfg, folder, datamodule, module_of, program="experiments/train_encoder.py")
    if fitted is None or fitted.trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    module: Any = fitted.module
    metrics = {}
    for part, score in (("val", fitted.trainer.validate), ("test", fitted.trainer.test)):
        (scores,) = score(module, datamodule=datamodule, verbose=False)
        metrics[part] = {name.removeprefix(f"{part}/"): value for name, value in scores.items()}
    save_atomic(folder / WEIGHTS, module.network.state_dict())
    split, stats = datamodule.split, cfg.classifier.input_stats
    classes = [{"id": key, "name": name} for key, name in split.classes.items()]
    rest = {"epochs": fitted.trainer.current_epoch, "input_stats": stats, "classes": classes}
    write_metrics(folder, {**metrics, **rest, "seconds": round(fitted.seconds, 1), **fitted.provenance})
    log.info("  ".join(f"{part} top-1 {scores['top1']:.1%} of {len(split.files(part))}" for part, scores in metrics.items()))
    log.info(f"Use      encoder.weights={folder / WEIGHTS} encoder.input_stats={stats}")


if __name__ == "__main__":
    command_line.run(train_encoder, "train_encoder")
