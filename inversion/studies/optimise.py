"""Decoder or optimisation? The image whose features match, searched for anew for every image.

A. Mahendran and A. Vedaldi, "Understanding Deep Image Representations by Inverting Them" (CVPR 2015): from noise, gradient
descent on ||f(Ux) - f(x0)||^2 / ||f(x0)||^2 + bound * mean |x|^alpha + tv * mean (dx^2 + dy^2)^(beta / 2) with x in [-1, 1],
here by Adam. x has the images' native size and U resizes it as they are resized: among images of 227 x 227 pixels, noise that
resembles nothing matches the features as well. It is compared with the run's decoder, in pixels, features and time.
"""

import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from inversion.core import pixels
from inversion.encoders.alexnet import Encoder
from inversion.studies.result import Result, columns_figure
from inversion.studies.subject import Subject, check_range
from inversion.training.metrics import mean_squared_errors


def total_variation(images: Tensor, beta: float) -> Tensor:
    """Each image's mean of (dx^2 + dy^2)^(beta / 2) over pixels and colours, d between neighbours: (N, 3, H, W) -> (N,)."""
    right = images[..., :-1, 1:] - images[..., :-1, :-1]
    down = images[..., 1:, :-1] - images[..., :-1, :-1]
    return (right.square() + down.square() + 1e-8).pow(beta / 2).mean(dim=(1, 2, 3))


def distances(found: Tensor, wanted: Tensor) -> Tensor:
    """||f - f0||^2 / ||f0||^2 of each image's features, (N, ...) -> (N,)."""
    return (found - wanted).flatten(1).square().sum(1) / wanted.flatten(1).square().sum(1).clamp_min(1e-12)


def starting_noise(number: int, size: int) -> Tensor:
    """The noise from which each image's search starts, whatever their number: (number, 3, size, size)."""
    generators = [torch.Generator().manual_seed(1_000_003 * place) for place in range(number)]
    return torch.stack([0.1 * torch.randn(3, size, size, generator=generator) for generator in generators])


def invert(
    encoder: Encoder, wanted: Tensor, noise: Tensor, steps: int, lr: float, tv: float, beta: float, alpha: float, bound: float
) -> Tensor:
    """Images (N, 3, 227, 227) in [-1, 1] with features close to those wanted, (N, *feature_shape), from noise (N, 3, n, n)."""
    images = noise.clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    for _ in tqdm(range(steps), desc=f"{encoder.layer}: optimising {len(noise)} images", leave=False, disable=None):
        optimizer.zero_grad()
        matches = distances(encoder(pixels.resize(images, pixels.INPUT_SIZE)), wanted)
        bounds = bound * images.abs().pow(alpha).mean(dim=(1, 2, 3))
        (matches + bounds + tv * total_variation(images, beta)).sum().backward()
        optimizer.step()
        scheduler.step()
    return pixels.resize(images.detach().clamp(-1, 1), pixels.INPUT_SIZE)


def optimise(subject: Subject, folder: Path, shown: int, **options: float) -> Result:
    check_range(1, shown=shown, steps=options["steps"])
    check_range(0, **options)
    inputs = subject.examples(shown)
    columns = {"Original": inputs}
    rows: list[dict[str, object]] = []
    findings = []
    for title, run in subject.runs.items():
        wanted, noise = run.encode(inputs.to(run.device)), starting_noise(len(inputs), run.native_size).to(run.device)
        begun = time.perf_counter()
        decoded = run.decode(wanted).cpu()
        between = time.perf_counter()
        found = invert(run.encoder, wanted, noise, **options).cpu()  # type: ignore[arg-type]
        times = ((between - begun) / len(inputs), (time.perf_counter() - between) / len(inputs))
        parts = []
        for name, images, seconds in zip(("decoder", "optimisation"), (decoded, found), times, strict=True):
            columns[f"{title}, {name}"] = images
            mse, match = mean_squared_errors(images, inputs), distances(run.encode(images), wanted.cpu()).sqrt()
            for i in range(len(inputs)):
                numbers = {"mse": float(mse[i]), "feature_error": float(match[i]), "seconds": seconds}
                rows.append({"run": title, "method": name, "image": i, **numbers})
            parts.append(f"{name} MSE {mse.mean():.4f}, features' error {match.mean():.3f}, {seconds:.3g} s an image")
        findings.append(f"{title}: {'; '.join(parts)}.")
    return Result({"samples": columns_figure(columns)}, rows, findings)
