"""What is it that a layer's reconstructions show: the trained network, its architecture, or merely the training images?

python experiments/controls.py runs=outputs/<sweep>
python experiments/controls.py runs=[outputs/<sweep>/conv5,outputs/<sweep>/fc8] epochs=8

Each run is compared with the same decoder on an encoder that was never trained (no order of layers is to be expected there);
with an autoencoder of the same shape, whose encoder starts untrained and learns along, so that the architecture alone is what
loses; with the training image whose features of that layer are nearest; and with the training images' mean. What is trained
lies in the folder, and the same command with the same `hydra.run.dir` goes on.
"""

import logging
import shlex
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra import compose
from hydra.errors import HydraException
from lightning import LightningModule
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from tqdm import tqdm

from inversion.core import pixels
from inversion.core.drawing import samples_figure, stacked
from inversion.core.errors import InputError
from inversion.core.files import REPOSITORY
from inversion.data.datamodule import ImageDataModule, to_input
from inversion.launch import command_line
from inversion.results import trained
from inversion.results.runs import is_finished
from inversion.studies.shared import BATCH, Study, image_scores, new_figure, publish
from inversion.training import checkpoints
from inversion.training.building import build, build_logger, build_module, build_trainer, check_disk_space
from inversion.training.module import InversionModule

log = logging.getLogger(__name__)

IMAGES = ("classes", "seed", "train_per_class", "test_per_class", "val_per_class", "val_fraction", "test_fraction")
"""Options of data that say which images a run was trained with, as far as they have them."""
COLOURS = {
    "Decoder": "#0072B2",
    "Untrained encoder": "#E69F00",
    "Autoencoder": "#009E73",
    "Nearest image": "#CC79A7",
    "Mean image": "0.6",
}
"""Of the bars, told apart by the colour-blind (Okabe & Ito)."""


class Autoencoder(InversionModule):
    """The same encoder and decoder, of which both learn, from images anew at every step."""

    def __init__(self, encoder: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(encoder, *arguments, **options)
        self.encoder.requires_grad_(True)

    def on_fit_start(self) -> None:
        datamodule: ImageDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        datamodule.move_to(self.device)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer([*self.encoder.parameters(), *self.decoder.parameters()])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "epoch"}}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        return LightningModule.state_dict(self, *args, **kwargs)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        return LightningModule.load_state_dict(self, state_dict, strict=strict, assign=assign)


def training_options(run: Path) -> list[str]:
    """What `train.py` was told for a run.

    Raises:
        InputError: the run's folder no longer says.
    """
    path = run / ".hydra" / "overrides.yaml"
    if not path.is_file():
        raise InputError(f"{path} is missing, which says how the run was trained: give a run's whole folder.")
    return list(OmegaConf.load(path))


def check_repeatable(run: Path, metadata: Mapping[str, Any], same_epochs: bool) -> None:
    """Raises InputError where a run's options no longer mean what they did when it was trained, since defaults have changed:
    what is trained here would be another recipe.
    """
    must_match = [key for key in checkpoints.MUST_MATCH if key != "trainer.precision"]  # here `auto`
    must_match += [f"data.{key}" for key in IMAGES]
    must_match += ["trainer.max_epochs"] if same_epochs else []
    try:
        now = compose("config", training_options(run))
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"{run} has options that are no longer there: train it anew to compare with it.") from error
    if difference := checkpoints.first_difference(metadata["config"], now, must_match):
        raise InputError(f"{run} was trained with {difference}, as its options mean today: train it anew to compare with it.")


def options_of(run: Path, cfg: DictConfig, folder: Path) -> list[str]:
    """What `train.py` was told for a run, and what is different here."""
    epochs = [] if cfg.epochs is None else [f"trainer.max_epochs={cfg.epochs}"]
    return [*training_options(run), "test=false", *epochs, f"hydra.run.dir='{folder}'"]


def train_again(run: Path, cfg: DictConfig, folder: Path, *different: str) -> trained.TrainedRun:
    """Trains the run's decoder by `train.py` with the same options but those that differ, and loads it. What the folder holds
    already stays.
    """
    if is_finished(folder):
        return trained.load(folder)
    command = [sys.executable, str(REPOSITORY / "train.py"), *options_of(run, cfg, folder), *different]
    log.info(shlex.join(["python", "train.py", *command[2:]]))
    done = subprocess.run(command)
    if done.returncode:
        raise InputError(f"{folder} couldn't be trained: see what train.py said above.")
    return trained.load(folder)


def train_autoencoder(run: Path, cfg: DictConfig, folder: Path, datamodule: ImageDataModule) -> Autoencoder:
    """Trains encoder and decoder of the run together, and gives back the best."""
    places = [f"callbacks.{name}.dirpath='{folder / 'checkpoints'}'" for name in (checkpoints.BEST, checkpoints.LAST)]
    options = [option for option in options_of(run, cfg, folder) if not option.startswith("hydra.")]
    own: DictConfig = compose("config", [*options, "encoder.weights=random", "standardize=false", *places])
    lightning.seed_everything(own.seed, workers=True, verbose=False)
    trainer, encoder = build_trainer(own, folder), build("encoder", own.encoder)
    metadata = checkpoints.metadata(own, trainer.precision, datamodule.split, datamodule.native_size, encoder)
    last = checkpoints.path_of(folder, checkpoints.LAST)
    resumed = checkpoints.check_resumes(last, metadata) if last.is_file() else None
    model = build_module(Autoencoder, own, encoder, datamodule.native_size, metadata)
    check_disk_space(folder, model)
    log.info(f"{own.layer.name}: autoencoder, {folder}")
    trainer.logger = build_logger(folder, metadata["config"], resumed)
    trainer.fit(model, datamodule=datamodule, ckpt_path=last if resumed else None, weights_only=True)
    model.load_state_dict(checkpoints.read(checkpoints.path_of(folder, checkpoints.BEST))["state_dict"])
    return model.eval()


def nearest(features: Tensor, candidates: Any) -> Tensor:
    """The place of the candidate whose features are nearest, by Euclidean distance.

    Args:
        features: (N, ...).
        candidates: batches of features (B, ...), one after another.

    Returns:
        (N,).
    """
    wanted = features.flatten(1)
    least, places, start = torch.full((len(wanted),), torch.inf), torch.zeros(len(wanted), dtype=torch.long), 0
    for batch in candidates:
        found, which = torch.cdist(wanted, batch.float().flatten(1)).min(dim=1)
        closer = found < least
        least[closer], places[closer] = found[closer], start + which[closer]
        start += len(batch)
    return places


def feature_error(found: Tensor, wanted: Tensor) -> float:
    """The root of sum ||f' - f||^2 / sum ||f - mean f||^2 over images, (N, ...) both."""
    return float(((found - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()).sqrt())


def encoded(encoder: Any, native: Tensor) -> Tensor:
    """Features of images (N, 3, n, n) in [0, 1]."""
    chunks = tqdm(native.split(BATCH), desc="Encoding reconstructions", leave=False, disable=None)
    with torch.no_grad():
        return torch.cat([encoder(pixels.resize(chunk * 2 - 1, pixels.INPUT_SIZE)) for chunk in chunks])


def scores_figure(rows: list[dict[str, Any]]) -> Figure:
    """A group of bars for each run."""
    titles = list(dict.fromkeys(row["run"] for row in rows))
    figure, plots = new_figure(15, 4.5, columns=3)
    for plot, (key, label) in zip(
        plots, {"mse": "MSE", "ssim": "SSIM", "feature_error": "error of the features / their spread"}.items(), strict=True
    ):
        for j, (method, colour) in enumerate(COLOURS.items()):
            own = {row["run"]: row for row in rows if row["method"] == method and row[key] is not None}
            places = [i + (j - 2) * 0.16 for i, title in enumerate(titles) if title in own]
            plot.bar(places, [own[title][key] for title in titles if title in own], 0.15, color=colour, label=method)
        plot.set(ylabel=label, title=f"{label} on the test images, at their native size" if key == "mse" else label)
        plot.set_xticks(range(len(titles)), titles)
    plots[0].legend(frameon=False, fontsize="small")
    return figure


def controls(cfg: DictConfig, folder: Path) -> None:
    """Writes `controls.png` (pictures), `controls_scores.png` and their tables into the folder.

    Raises:
        InputError: fewer than one epoch; a run whose recipe can't be repeated.
    """
    if cfg.epochs is not None and cfg.epochs < 1:
        raise InputError(f"epochs={cfg.epochs} must be at least 1, or null for as many as the runs had.")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    study = Study(cfg)
    for title, run in study.runs.items():
        check_repeatable(study.folders[title], run.metadata, same_epochs=cfg.epochs is None)
    _, shown = study.samples(cfg.shown)
    truth, mean = study.truth(), study.mean_image()
    rows: list[dict[str, Any]] = []
    figures, findings = [], []
    for title, run in study.runs.items():
        place = study.folders[title]
        name = title.lower().replace("/", "-")
        before: LightningModule | trained.TrainedRun = run
        if cfg.epochs is not None and cfg.epochs != run.metadata["config"]["trainer"]["max_epochs"]:
            before = train_again(place, cfg, folder / name / "decoder")
        made = {"Decoder": before}
        made["Untrained encoder"] = train_again(place, cfg, folder / name / "untrained", "encoder.weights=random")
        if cfg.autoencoder:
            made["Autoencoder"] = train_autoencoder(place, cfg, folder / name / "autoencoder", study.datamodule)
        pictures = {method: study.native_reconstructions(one) for method, one in made.items()}
        columns = {"Original": shown, **{method: one(shown) for method, one in made.items()}}
        features = study.features(run)
        device = torch.device("cpu")
        study.datamodule.cache_features(run.encoder, [run.layer], device)
        places = nearest(features, study.datamodule.feature_batches(run.encoder, device))
        found = study.datamodule.images("train")[places]
        pictures["Nearest image"] = found.float() / 255
        again = nearest(run.encode(shown), study.datamodule.feature_batches(run.encoder, device))
        columns["Nearest image"] = to_input(study.datamodule.images("train")[again])
        pictures["Mean image"] = mean.expand_as(truth)
        told = []
        for method, images in pictures.items():
            numbers = {key: float(value.mean()) for key, value in image_scores(truth, images).items()}
            of_trained = method in ("Decoder", "Nearest image", "Mean image")
            error = feature_error(encoded(run.encoder, images), features) if of_trained else None
            rows.append({"run": title, "method": method, **numbers, "feature_error": error})
            told.append(f"{method.lower()} MSE {numbers['mse']:.4f}, SSIM {numbers['ssim']:.3f}")
        findings.append(f"{title}: {'; '.join(told)} (native size).")
        pictured = {method: pixels.to_uint8(pixels.denormalize(images.detach())) for method, images in columns.items()}
        figures.append(samples_figure(pictured, tile=128, title=title))
    publish(folder, f"{cfg.name}_scores", scores_figure(rows), rows, [])
    publish(folder, cfg.name, stacked(figures), rows, findings)


if __name__ == "__main__":
    command_line.run(controls, "controls")
