"""Optimisation instead of a decoder: the image whose features match, looked for anew for every picture.

python experiments/optimise.py runs=outputs/<sweep>

A. Mahendran and A. Vedaldi, "Understanding Deep Image Representations by Inverting Them" (CVPR 2015): from noise, gradient
descent on

    ||f(Ux) - f(x0)||^2 / ||f(x0)||^2  +  bound * mean |x|^alpha  +  tv * mean (dx^2 + dy^2)^(beta / 2)

with x in [-1, 1], here by Adam. x has the images' native size and U resizes it as they are: among images of 227 x 227 pixels,
noise that resembles nothing matches the features as well. Beside each stands what the run's decoder gives: errors of pixels
and of features, and time. An image that is done is kept in the folder; the same command with the same `hydra.run.dir` goes on
with the others.
"""

import logging
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from inversion.core import pixels
from inversion.core.drawing import samples_figure
from inversion.core.errors import InputError
from inversion.core.files import save_atomic
from inversion.encoders.alexnet import Encoder
from inversion.launch import command_line
from inversion.results.trained import TrainedRun
from inversion.studies.shared import Study, publish
from inversion.training.metrics import mean_squared_errors

log = logging.getLogger(__name__)


def total_variation(images: Tensor, beta: float) -> Tensor:
    """Each image's mean of (dx^2 + dy^2)^(beta / 2) over pixels and colours, d between neighbours: (N, 3, H, W) -> (N,)."""
    right = images[..., :-1, 1:] - images[..., :-1, :-1]
    down = images[..., 1:, :-1] - images[..., :-1, :-1]
    return (right.square() + down.square() + 1e-8).pow(beta / 2).mean(dim=(1, 2, 3))


def distances(found: Tensor, wanted: Tensor) -> Tensor:
    """||f - f0||^2 / ||f0||^2 of each image's features, (N, ...) -> (N,)."""
    return (found - wanted).flatten(1).square().sum(1) / wanted.flatten(1).square().sum(1).clamp_min(1e-12)


def invert(encoder: Encoder, wanted: Tensor, noise: Tensor, cfg: DictConfig, description: str = "") -> Tensor:
    """Images whose features come close to those wanted.

    Args:
        encoder: frozen.
        wanted: (N, *feature_shape).
        noise: where to start, (N, 3, n, n) around [-1, 1], at the native size.
        cfg: has `steps`, `lr`, `tv`, `beta`, `alpha` and `bound`.

    Returns:
        (N, 3, 227, 227), in [-1, 1].
    """
    images = noise.clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=cfg.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=cfg.steps)
    with tqdm(range(cfg.steps), desc=description, leave=False, disable=None) as progress:
        for _ in progress:
            optimizer.zero_grad()
            matches = distances(encoder(pixels.resize(images, pixels.INPUT_SIZE)), wanted)
            priors = cfg.bound * images.abs().pow(cfg.alpha).mean(dim=(1, 2, 3)) + cfg.tv * total_variation(images, cfg.beta)
            (matches + priors).sum().backward()
            optimizer.step()
            scheduler.step()
            progress.set_postfix(distance=f"{float(matches.detach().mean()):.4f}", refresh=False)
    return pixels.resize(images.detach().clamp(-1, 1), pixels.INPUT_SIZE)


def started_from(place: int, size: int, seed: int) -> Tensor:
    """The noise that the image at a place starts from, the same whichever images are looked for with it: (3, size, size)."""
    generator = torch.Generator().manual_seed(seed + 1_000_003 * place)
    return 0.1 * torch.randn(3, size, size, generator=generator)


def inverted(run: TrainedRun, inputs: Tensor, cfg: DictConfig, folder: Path) -> tuple[Tensor, float]:
    """What optimisation makes of the images, (N, 3, 227, 227) in [-1, 1], and the seconds an image took. Those that already
    lie in the folder are taken from there.

    Raises:
        InputError: they were made with other options.
    """
    options = {key: cfg[key] for key in ("steps", "lr", "seed", "tv", "beta", "alpha", "bound", "part", "shown")}
    options |= {"encoder": run.metadata["encoder"], "split": run.metadata["split"]}
    paths = [folder / f"{i}.pt" for i in range(len(inputs))]
    done: dict[int, dict[str, Any]] = {
        i: torch.load(path, weights_only=True) for i, path in enumerate(paths) if path.is_file()
    }
    for i, content in done.items():
        if content["options"] != options:
            raise InputError(f"{paths[i]} was made with other options: give another hydra.run.dir, or delete {folder}.")
    missing = [i for i in range(len(inputs)) if i not in done]
    for start in range(0, len(missing), cfg.batch):
        places = missing[start : start + cfg.batch]
        before = time.perf_counter()
        noise = torch.stack([started_from(i, run.native_size, cfg.seed) for i in places])
        description = f"{run.layer}: images {places[0] + 1} to {places[-1] + 1} of {len(inputs)}"
        images = invert(run.encoder, run.encode(inputs[places]), noise, cfg, description)
        seconds = (time.perf_counter() - before) / len(places)
        for i, image in zip(places, images, strict=True):
            done[i] = {"image": image.clone(), "seconds": seconds, "options": options}
            save_atomic(paths[i], done[i])
    images = torch.stack([done[i]["image"] for i in range(len(inputs))])
    return images, sum(content["seconds"] for content in done.values()) / len(inputs)


def optimise(cfg: DictConfig, folder: Path) -> None:
    """Writes `optimise.png`, `optimise.csv` and every found image into the folder.

    Raises:
        InputError: numbers that can't be.
    """
    for name in ("shown", "batch", "steps"):
        if cfg[name] < 1:
            raise InputError(f"{name}={cfg[name]} must be at least 1.")
    for name in ("lr", "tv", "beta", "alpha", "bound"):
        if cfg[name] < 0:
            raise InputError(f"{name}={cfg[name]} must be at least 0.")
    study = Study(cfg)
    _, inputs = study.samples(cfg.shown)
    columns = {"Original": inputs}
    rows: list[dict[str, object]] = []
    findings = []
    for title, run in study.runs.items():
        wanted = run.encode(inputs)
        place = folder / "images" / title.replace("/", "-")
        found, seconds = inverted(run, inputs, cfg, place)
        before = time.perf_counter()
        decoded = run.decode(wanted)
        quick = (time.perf_counter() - before) / len(inputs)
        told = []
        for name, images, needed in (("decoder", decoded, quick), ("optimisation", found, seconds)):
            columns[f"{title}, {name}"] = images
            mse = mean_squared_errors(images, inputs)
            match = distances(run.encode(images), wanted).sqrt()
            for i in range(len(inputs)):
                numbers = {"mse": float(mse[i]), "feature_error": float(match[i])}
                rows.append({"run": title, "method": name, "image": i, **numbers, "seconds": needed})
            told.append(f"{name} MSE {mse.mean():.4f}, features' error {match.mean():.3f}, {needed:.3g} s an image")
        findings.append(f"{title}: {'; '.join(told)}.")
        log.info(f"Images   {place}")
    shown = {name: pixels.to_uint8(pixels.denormalize(images)) for name, images in columns.items()}
    publish(folder, cfg.name, samples_figure(shown, tile=128), rows, findings)


if __name__ == "__main__":
    command_line.run(optimise, "optimise")
