"""What do a layer's reconstructions show: the trained network, its architecture, or merely the training images?

Each run is compared with the same decoder on an encoder that was never trained (whose layers need not show any order); with an
autoencoder of the same architecture, whose encoder starts untrained and is trained along: what it loses although nothing asks
it to classify; with the training image whose features of that layer are nearest; and with the training images' mean.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from tqdm import tqdm

from inversion.core import pixels
from inversion.core.drawing import stacked
from inversion.encoders.alexnet import Encoder
from inversion.results.trained import TrainedRun, load
from inversion.studies.result import Result, columns_figure, new_figure
from inversion.studies.subject import BATCH, Subject, check_range, feature_error
from inversion.training.metrics import image_scores
from inversion.training.module import InversionModule
from inversion.training.run import fit_decoder, train

log = logging.getLogger(__name__)

COLOURS = {  # of each method's bars, also for the colour-blind (Okabe & Ito)
    "Decoder": "#0072B2",
    "Untrained encoder": "#E69F00",
    "Autoencoder": "#009E73",
    "Nearest image": "#CC79A7",
    "Mean image": "0.6",
}


class Autoencoder(InversionModule):
    """Encoder and decoder, both of which are trained, on images that are encoded anew at every step."""

    def __init__(self, encoder: Encoder, *arguments: Any, **options: Any) -> None:
        super().__init__(encoder, *arguments, **options)
        del self.__dict__["encoder"]
        self.encoder = encoder.requires_grad_(True)  # a submodule, since it is trained and saved
        self.encoder.mixed = True
        self.standardize = nn.Identity()  # the statistics of features that change mean nothing


def config_of(run: TrainedRun, epochs: int | None, encoder_weights: str) -> DictConfig:
    """The config with which the run was trained, but for its epochs, the encoder's weights, and a test that isn't needed."""
    config = OmegaConf.create(run.metadata["config"])
    config.test = False
    config.encoder.weights = encoder_weights
    config.trainer.devices, config.trainer.accelerator = 1, run.device.type
    if epochs is not None:
        config.trainer.max_epochs = epochs
        if "T_max" in config.scheduler:  # in a resolved config it no longer follows the number of epochs
            config.scheduler.T_max = epochs
    return config


def trained_methods(run: TrainedRun, folder: Path, epochs: int | None, autoencoder: bool, lr: float) -> dict[str, TrainedRun]:
    """The run and what it is compared with, trained in the folder: name -> run. With other epochs its decoder anew, too."""
    methods, weights = {"Decoder": run}, {"Untrained encoder": "random"}
    if epochs not in (None, run.metadata["config"]["trainer"]["max_epochs"]):
        weights = {"Decoder": run.encoder.weights, **weights}
    for name, encoder_weights in weights.items():
        place = folder / name.partition(" ")[0].lower()
        train(config_of(run, epochs, encoder_weights), place)
        methods[name] = load(place).to(run.device)
    if autoencoder:
        config = config_of(run, epochs, "random")
        config.optimizer.lr, config.data.cache = lr, None  # features that change are not cached
        module: Any = fit_decoder(config, folder / "autoencoder", Autoencoder).module  # type: ignore[union-attr]
        methods["Autoencoder"] = TrainedRun(module.encoder, module.decoder, module.standardize, run.metadata).to(run.device)
    return methods


def nearest_images(run: TrainedRun, features: Tensor, images: Tensor) -> Tensor:
    """The images, uint8 (M, 3, n, n), whose features are nearest to these, (N, *feature_shape), by Euclidean distance."""
    wanted = features.flatten(1).to(run.device)
    batches = tqdm(images.split(BATCH), desc=f"{run.layer}: encoding training images", leave=False, disable=None)
    encoded = (run.encode(pixels.to_input(batch.to(run.device))) for batch in batches)
    found = [torch.cdist(wanted, batch.flatten(1)).min(dim=1) for batch in encoded]
    distances, places = (torch.stack(some) for some in zip(*found, strict=True))  # of each batch's nearest, (batches, N)
    batch = distances.argmin(dim=0, keepdim=True)
    return images[(batch * BATCH + places.gather(0, batch))[0].cpu()]


def scores_figure(rows: list[dict[str, Any]]) -> Figure:
    titles = list(dict.fromkeys(row["run"] for row in rows))
    labels = {"mse": "MSE", "ssim": "SSIM", "feature_error": "error of the features / their spread"}
    figure, plots = new_figure(15, 4.5, columns=3)
    for plot, (key, label) in zip(plots, labels.items(), strict=True):
        for j, (method, colour) in enumerate(COLOURS.items()):
            values = {row["run"]: row[key] for row in rows if row["method"] == method and row[key] is not None}
            places = [titles.index(title) + (j - 2) * 0.16 for title in values]
            plot.bar(places, list(values.values()), 0.15, color=colour, label=method)
        plot.set(ylabel=label, title=f"{label} at the native size" if key == "mse" else label)
        plot.set_xticks(range(len(titles)), titles)
    plots[0].legend(frameon=False, fontsize="small")
    return figure


def controls(subject: Subject, folder: Path, epochs: int | None, autoencoder: bool, lr: float, shown: int) -> Result:
    check_range(1, shown=shown, epochs=1 if epochs is None else epochs)
    check_range(0, lr=lr)
    log.info(f"Trained  {folder}: if interrupted, the same command with the same hydra.run.dir resumes.")
    originals, truth = subject.examples(shown), subject.truth()
    rows: list[dict[str, Any]] = []
    figures, findings = [], []
    for title, run in subject.runs.items():
        methods = trained_methods(run, folder / title.lower().replace("/", "-"), epochs, autoencoder, lr)
        columns = {"Original": originals, **{name: one.reconstruct(originals) for name, one in methods.items()}}
        images = {name: subject.native_reconstructions(one) for name, one in methods.items()}
        features = subject.features(run)
        wanted = torch.cat([features, run.encode(originals)])
        closest = nearest_images(run, wanted, subject.datamodule.images("train"))
        columns["Nearest image"] = pixels.to_input(closest[len(features) :])
        images["Nearest image"] = closest[: len(features)].float() / 255
        images["Mean image"] = subject.mean_image().expand_as(truth)
        parts = []
        for method, found in images.items():
            (scores,) = image_scores([found], truth)
            numbers = {key: float(value.mean()) for key, value in scores.items()}
            of_run = method in ("Decoder", "Nearest image", "Mean image")
            error = feature_error(subject.features(run, found), features) if of_run else None
            rows.append({"run": title, "method": method, **numbers, "feature_error": error})
            parts.append(f"{method.lower()} MSE {numbers['mse']:.4f}, SSIM {numbers['ssim']:.3f}")
        findings.append(f"{title}: {'; '.join(parts)} (native size).")
        figures.append(columns_figure(columns, title=title))
    return Result({"samples": stacked(figures), "scores": scores_figure(rows)}, rows, findings)
