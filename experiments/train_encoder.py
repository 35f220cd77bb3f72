"""Trains AlexNet as a classifier on the classes that are on disk; what it writes is an `encoder.weights`.

python experiments/train_encoder.py
python experiments/train_encoder.py data.archive=PATH trainer.max_epochs=60

It learns from the train images less those that the decoders are validated on (with the same `data.seed` and
`data.val_per_class`), is validated on these, and at the end scored on the official validation images. Into its folder go
`alexnet.pt`, a plain state dict of torchvision's AlexNet, `metrics.json`, `split.json`, `tensorboard/`, and
`checkpoints/last.ckpt`, from which the same command with the same `hydra.run.dir` goes on.
"""

import logging
import shlex
import time
import warnings
from pathlib import Path

import lightning
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from inversion.core.files import save_atomic
from inversion.launch import command_line
from inversion.results import runs
from inversion.training import checkpoints
from inversion.training.building import build, build_logger, build_trainer, check_disk_space
from inversion.training.provenance import provenance, write_provenance

log = logging.getLogger(__name__)
WEIGHTS = "alexnet.pt"


def train_encoder(cfg: DictConfig, folder: Path) -> None:
    """One training, from its config to `alexnet.pt`."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # a run that goes on
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    started = time.perf_counter()
    log.info(f"Encoder: {folder}")
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)
    trainer = build_trainer(cfg, folder, needed=[checkpoints.LAST])
    datamodule = build("data", cfg.data)
    datamodule.prepare_data()
    split = datamodule.split
    metadata = checkpoints.metadata(cfg, trainer.precision, split, datamodule.native_size)
    last, resumed = checkpoints.path_of(folder, checkpoints.LAST), None
    if last.is_file():
        resumed = checkpoints.check_resumes(last, metadata, checkpoints.MUST_MATCH_ENCODER)
    if runs.is_finished(folder):
        log.info(f"{folder} holds this run, finished: give another hydra.run.dir, or delete it to run again.")
        return
    datamodule.setup("fit")
    datamodule.images("test")  # a broken test image is better found now than after the training
    log.info(f"{len(split.train)} train, {len(split.val)} val, {len(split.test)} test images of {len(split.classes)} classes")
    if resumed:
        log.info(f"Going on from {last}")
    model = build("classifier", cfg.classifier, classes=len(split.classes))
    model.metadata = metadata  # as an argument its own targets would be built
    check_disk_space(folder, model)
    split.save(folder / "split.json")
    command = shlex.join(["python", "experiments/train_encoder.py", *HydraConfig.get().overrides.task])
    device = trainer.strategy.root_device
    write_provenance(folder, command, metadata, datamodule, ("train", "val", "test"), device, resumed=bool(resumed))
    trainer.logger = build_logger(folder, metadata["config"], resumed)
    trainer.fit(model, datamodule=datamodule, ckpt_path=last if resumed else None, weights_only=True)

    metrics = {}
    for part, score in (("val", trainer.validate), ("test", trainer.test)):
        (scores,) = score(model, datamodule=datamodule, verbose=False)
        metrics[part] = {name.removeprefix(f"{part}/"): value for name, value in scores.items()}
    save_atomic(folder / WEIGHTS, model.network.state_dict())
    classes = [{"id": key, "name": name} for key, name in split.classes.items()]
    told = {"epochs": trainer.current_epoch, "input_stats": cfg.classifier.input_stats, "classes": classes}
    seconds = round(time.perf_counter() - started, 1)
    runs.write_metrics(folder, {**metrics, **told, "seconds": seconds, **provenance(device)})
    log.info("  ".join(f"{part} top-1 {scores['top1']:.1%} of {len(split.files(part))}" for part, scores in metrics.items()))
    log.info(f"Weights  {folder / WEIGHTS}")
    log.info(f"Use      encoder.weights={folder / WEIGHTS} encoder.input_stats={cfg.classifier.input_stats}")


if __name__ == "__main__":
    command_line.run(train_encoder, "train_encoder")
