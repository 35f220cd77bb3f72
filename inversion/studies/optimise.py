"""Decoder or optimisation? The image whose features match, searched for anew for every image.

A. Mahendran and A. Vedaldi, "Understanding Deep Image Representations by Inverting Them" (CVPR 2015): from noise, gradient
descent on ||f(Ux) - f(x0)||^2 / ||f(x0)||^2 + bound * mean |x|^alpha + tv * mean (dx^2 + dy^2)^(beta / 2) with x in [-1, 1],
here by Adam. x has the images' native size and U resizes it as they are resized: among images of 227 x 227 pixels, noise that
resembles nothing matches the features as well. It is compared with the run's decoder: errors of pixels and of features, and
time.
"""

import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.core.files import save_atomic
from inversion.encoders.alexnet import Encoder
from inversion.results.trained import TrainedRun
from inversion.studies.result import Result, samples
from inversion.studies.subject import Subject, check_range
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


class Search(NamedTuple):
    """How an image is searched for: the options of conf/study/optimise.yaml."""

    steps: int
    lr: float
    tv: float
    beta: float
    alpha: float
    bound: float
    seed: int


def invert(encoder: Encoder, wanted: Tensor, noise: Tensor, search: Search, description: str = "") -> Tensor:
    """Images (N, 3, 227, 227) in [-1, 1] whose features come close to those wanted, (N, *feature_shape), starting from native
    noise (N, 3, n, n). The encoder is frozen; all are on its device.
    """
    images = noise.clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=search.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=search.steps)
    with tqdm(range(search.steps), desc=description, leave=False, disable=None) as progress:
        for _ in progress:
            optimizer.zero_grad()
            matches = distances(encoder(pixels.resize(images, pixels.INPUT_SIZE)), wanted)
            bounds = search.bound * images.abs().pow(search.alpha).mean(dim=(1, 2, 3))
            (matches + bounds + search.tv * total_variation(images, search.beta)).sum().backward()
            optimizer.step()
            scheduler.step()
            progress.set_postfix(distance=f"{float(matches.detach().mean()):.4f}", refresh=False)
    return pixels.resize(images.detach().clamp(-1, 1), pixels.INPUT_SIZE)


def starting_noise(place: int, size: int, seed: int) -> Tensor:
    """The noise from which the search for the image at a place starts, whatever the batch: (3, size, size)."""
    return 0.1 * torch.randn(3, size, size, generator=torch.Generator().manual_seed(seed + 1_000_003 * place))


def optimised(
    subject: Subject, run: TrainedRun, inputs: Tensor, folder: Path, batch: int, search: Search
) -> tuple[Tensor, float]:
    """The optimised images, (N, 3, 227, 227) in [-1, 1], and the seconds an image took. Each is saved to the folder as soon as
    it is done, and loaded from there if it is.

    Raises:
        InputError: those in the folder were made with other options.
    """
    options = {**search._asdict(), "part": subject.part, "shown": len(inputs)}
    options |= {"encoder": run.metadata["encoder"], "split": run.metadata["split"]}
    paths = [folder / f"{i}.pt" for i in range(len(inputs))]
    done = {i: torch.load(path, weights_only=True) for i, path in enumerate(paths) if path.is_file()}
    if odd := [paths[i] for i, content in done.items() if content["options"] != options]:
        raise InputError(f"{odd[0]} was made with other options: give another hydra.run.dir.")
    missing = [i for i in range(len(inputs)) if i not in done]
    for start in range(0, len(missing), batch):
        places = missing[start : start + batch]
        before = time.perf_counter()
        noise = torch.stack([starting_noise(i, run.native_size, search.seed) for i in places]).to(run.device)
        description = f"{run.layer}: images {places[0] + 1} to {places[-1] + 1} of {len(inputs)}"
        images = invert(run.encoder, run.encode(inputs[places].to(run.device)), noise, search, description).cpu()
        seconds = (time.perf_counter() - before) / len(places)
        for i, image in zip(places, images, strict=True):
            done[i] = {"image": image.clone(), "seconds": seconds, "options": options}
            save_atomic(paths[i], done[i])
    images = torch.stack([done[i]["image"] for i in range(len(inputs))])
    return images, sum(content["seconds"] for content in done.values()) / len(inputs)


def optimise(subject: Subject, folder: Path, shown: int, batch: int, **options: Any) -> Result:
    """See the module; `options` are those of `Search`. Resumes with the images that are done."""
    search = Search(**options)
    check_range(1, shown=shown, batch=batch, steps=search.steps)
    check_range(0, lr=search.lr, tv=search.tv, beta=search.beta, alpha=search.alpha, bound=search.bound)
    log.info(f"Images   {folder}/images: if interrupted, the same command with the same hydra.run.dir resumes from those.")
    inputs = subject.samples(shown)
    columns = {"Original": inputs}
    rows: list[dict[str, object]] = []
    findings = []
    for title, run in subject.runs.items():
        place = folder / "images" / title.replace("/", "-")
        found, seconds = optimised(subject, run, inputs, place, batch, search)
        wanted = run.encode(inputs)
        before = time.perf_counter()
        decoded = run.decode(wanted)
        quick = (time.perf_counter() - before) / len(inputs)
        parts = []
        for name, images, needed in (("decoder", decoded, quick), ("optimisation", found, seconds)):
            columns[f"{title}, {name}"] = images
            mse, match = mean_squared_errors(images, inputs), distances(run.encode(images), wanted).sqrt()
            for i in range(len(inputs)):
                numbers = {"mse": float(mse[i]), "feature_error": float(match[i]), "seconds": needed}
                rows.append({"run": title, "method": name, "image": i, **numbers})
            parts.append(f"{name} MSE {mse.mean():.4f}, features' error {match.mean():.3f}, {needed:.3g} s an image")
        findings.append(f"{title}: {'; '.join(parts)}.")
    return Result({"samples": samples(columns)}, rows, findings)
