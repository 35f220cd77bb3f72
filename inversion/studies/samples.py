"""What does a layer leave open, and may the samples be believed?

Runs of `decoder=flow` draw several images from each image's features. If these are exact samples, an image is to them as they
are to each other: one sample's squared error is twice that of the mean of infinitely many, their spread equals that error,
and the true number's rank among theirs is uniform. What varies between them the layer left open; what all share it kept,
or the generator can't draw otherwise: what is absent from samples is absent from the features or beyond the generator. Beside
them stands the best single image with Gaussian noise of its validation errors' size per pixel.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL.Image import Image
from torch import Tensor
from tqdm import tqdm

from inversion.core import pixels
from inversion.core.drawing import layers_figure, sample_columns
from inversion.core.errors import InputError
from inversion.data.batches import hashed_seed
from inversion.decoders.flow import COLOURS, FlowDecoder
from inversion.encoders.alexnet import TAPS
from inversion.results.trained import TrainedRun
from inversion.studies import calibration
from inversion.studies.result import Result, layer_colour, new_figure
from inversion.studies.subject import BATCH, Subject, check_range, feature_error
from inversion.training.building import build

BANDS = (0, 1, 2, 4, 8, 12, 16, 20, 28, 48, 80, 128, 192)
"""Edges in cycles per image."""
SHARES = (0.5, 0.9)
FLOW, NOISE = "samples", "mean + noise"


def samples(subject: Subject, folder: Path, number: int, steps: int, seed: int, layers: Sequence[str], shown: int) -> Result:
    check_range(2, number=number, images=len(subject.files))
    check_range(1, steps=steps, shown=shown)
    if unknown := set(layers) - set(TAPS):
        raise InputError(f"study.samples.layers={list(layers)}: AlexNet has no {min(unknown)}; it has {', '.join(TAPS)}.")
    flows = {title: run for title, run in subject.runs.items() if isinstance(run.decoder, FlowDecoder)}
    if not flows:
        raise InputError("study=samples is for runs of decoder=flow, and there are none among these.")
    rows: list[dict[str, Any]] = []
    originals, pictures, findings = subject.examples(shown), {}, []
    for title, run in flows.items():
        chunks = tqdm(subject.features(run).split(4), f"{title}: {number} samples of each image", leave=False, disable=None)
        drawn = [run.native_samples(some, number, hashed_seed(seed, i), steps) for i, some in enumerate(chunks)]
        own = _rows(subject, run, pixels.denormalize(torch.cat(drawn)), seed, layers)
        rows += [{"run": title, **row} for row in own]
        findings.append(f"{title}: {_finding(own, run.layer)}")
        pictures[title] = {"Mean": pixels.to_display(run.reconstruct(originals))}
        pictures[title] |= sample_columns(run.sample(originals, 4, seed, steps))
    runs = {title: run.layer for title, run in flows.items()}
    figures: dict[str, Figure | Image] = {"samples": layers_figure(pixels.to_display(originals), pictures, tile=128)}
    figures |= {"open": _open_figure(rows, runs), "calibration": _calibration_figure(rows, runs)}
    findings.append("What is absent from samples is absent from the features, or beyond the generator.")
    return Result(figures, rows, findings)


def _rows(subject: Subject, run: TrainedRun, drawn: Tensor, seed: int, layers: Sequence[str]) -> list[dict[str, Any]]:
    """One run's rows, from its samples (N, K, 3, n, n) in [0, 1]."""
    truth, mean = subject.truth(), subject.native_reconstructions(run)
    held = subject.on("val")
    deviation = (held.truth() - held.native_reconstructions(run)).square().mean(0).sqrt()
    noise = torch.randn(drawn.shape, generator=torch.Generator().manual_seed(seed))
    candidates = {FLOW: drawn, NOISE: (mean[:, None] + deviation * noise).clamp(0, 1)}
    rows: list[dict[str, Any]] = []
    for name, found in candidates.items():
        for band, tensors in bands_of(truth, found, mean, subject.mean_image()).items():
            rows.append({"what": name, "band": band, **scores(*tensors)})
        histogram = calibration.rank_histogram(truth, found)
        rows += [{"what": f"rank histogram, {name}", "value": float(share)} for share in histogram]
    other = truth.roll(len(truth) // 2, 0)
    ratio = float((drawn[:, 0] - other).square().mean() / (mean - truth).square().mean())
    rows.append({"what": "shuffled", "sample_ratio": ratio})
    rows += [{"what": "features", **row} for row in _seen(run, truth, drawn[:, 0], mean, layers)]
    rows += [{"what": "open", "band": name, "open_share": value} for name, value in left_open(drawn, truth).items()]
    rows.append({"what": "nearest training image", **_nearest(subject, truth, drawn[:, 0])})
    return rows


def _finding(rows: Sequence[dict[str, Any]], layer: str) -> str:
    """What a run's rows say."""
    kinds = {kind: [row for row in rows if row["what"] == kind] for kind in dict.fromkeys(row["what"] for row in rows)}
    whole, noise, near = kinds[FLOW][0], kinds[NOISE][0], kinds["nearest training image"][0]
    seen = next(row for row in kinds["features"] if row["layer"] == layer)
    power = {row["band"]: row["power"] for row in kinds[FLOW][1:] if 2 <= int(row["band"].split("-")[0]) < 28}
    shares = ", ".join(f"{row['open_share']:.0%} of {row['band']}" for row in kinds["open"])
    rank = {
        kind: f"{seen[f'{kind}_rank']:.2f} ({seen[f'{kind}_rank_low']:.2f} to {seen[f'{kind}_rank_high']:.2f})"
        for kind in ("sample", "mean")
    }
    return " ".join(
        [
            f"One sample's error is {whole['sample_ratio']:.2f} times the single best image's (at most 2 if exact;",
            f"{kinds['shuffled'][0]['sample_ratio']:.2f} with another image's features), that of many samples' mean",
            f"{whole['mean_ratio']:.3f} times, and their spread is {whole['spread_ratio']:.2f} times that (1 if exact).",
            f"Intervals of 50 and 90 % hold {whole['coverage_50']:.1%} and {whole['coverage_90']:.1%} of the pixels",
            f"({noise['coverage_50']:.1%} and {noise['coverage_90']:.1%} for the single best image with noise).",
            f"From 2 to {[*power][-1].split('-')[1]} cycles samples have {min(power.values()):.2f} to",
            f"{max(power.values()):.2f} times the images' power.",
            f"At {layer} a sample's features are {seen['sample_distance']:.2f} times as far from the image's as these from",
            f"their mean, the single best image's {seen['mean_distance']:.2f}; found by them among all, the image has a mean",
            f"reciprocal rank of {rank['sample']}, by the single best image's {rank['mean']}.",
            f"The nearest training image is {near['ratio']:.2f} times as far from a sample as from a real image.",
            f"Left open, as shares of the images' variance: {shares}.",
        ]
    )


def bands_of(truth: Tensor, drawn: Tensor, mean: Tensor, floor: Tensor) -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Images (N, 3, n, n), samples (N, K, 3, n, n), single best images, and the mean image (3, n, n): as pixels under `all`,
    and as opponent colours' cosine coefficients of each frequency band, (N, D), (N, K, D), (N, D), (1, D).
    """
    n = truth.shape[-1]
    basis, frequencies = pixels.cosine_basis(n), torch.arange(n) / 2
    radius = (frequencies[:, None].square() + frequencies.square()).sqrt()
    given = (truth, drawn, mean, floor[None])
    found = {"all": tuple(images.flatten(-3) for images in given)}
    spectra = [basis @ torch.einsum("oc,...chw->...ohw", COLOURS, images) @ basis.T for images in given]
    for low, high in pairwise(BANDS):
        inside = (low <= radius) & (radius < high)
        if inside.any():
            found[f"{low}-{high}"] = tuple(spectrum[..., inside].flatten(-2) for spectrum in spectra)
    return found  # type: ignore[return-value]


def scores(truth: Tensor, drawn: Tensor, mean: Tensor, floor: Tensor) -> dict[str, float]:
    """A row of the table; arguments as `bands_of` gives them."""
    (sample, of_many, spread), histogram = calibration.errors(truth, drawn), calibration.rank_histogram(truth, drawn)
    of_mean, variance = float((mean - truth).square().mean()), float((truth - floor).square().mean())
    row = {
        "mean_error": of_mean,
        "sample_ratio": sample / of_mean,
        "mean_ratio": of_many / of_mean,
        "spread_ratio": spread / of_many,
        "open_share": spread / variance,
        "power": float((drawn - floor).square().mean()) / variance,
        "mean_power": float((mean - floor).square().mean()) / variance,
        "crps": calibration.fair_crps(truth, drawn),
    }
    return row | {f"coverage_{share:.0%}".rstrip("%"): calibration.coverage(histogram, share) for share in SHARES}


def _seen(run: TrainedRun, truth: Tensor, drawn: Tensor, mean: Tensor, layers: Sequence[str]) -> list[dict[str, Any]]:
    """Distances and ranks by features, of the run's layer and others: of one sample and of the single best image."""
    config = OmegaConf.create(run.metadata["config"]).encoder
    network = build("encoder", config, layer=run.encoder.deepest, weights=run.encoder.weights).to(run.device)
    within = list(TAPS)[: list(TAPS).index(network.layer) + 1]
    names = [name for name in within if name in {run.layer, *layers}]

    @torch.no_grad()
    def encode(images: Tensor) -> dict[str, Tensor]:
        inputs = (pixels.resize(2 * some - 1, pixels.INPUT_SIZE).to(run.device) for some in images.split(BATCH))
        found = [network.features(some, names) for some in inputs]
        return {name: torch.cat([one[name].flatten(1).cpu() for one in found]) for name in names}

    wanted, of_sample, of_mean = encode(truth), encode(drawn), encode(mean)
    rows = []
    for name in names:
        row: dict[str, Any] = {"layer": name}
        for kind, found in {"sample": of_sample[name], "mean": of_mean[name]}.items():
            ranks = calibration.reciprocal_ranks(found, wanted[name])
            low, high = calibration.bootstrap(ranks)
            row[f"{kind}_distance"] = feature_error(found, wanted[name])
            row |= {f"{kind}_rank": float(ranks.mean()), f"{kind}_rank_low": low, f"{kind}_rank_high": high}
        rows.append(row)
    return rows


def left_open(drawn: Tensor, truth: Tensor) -> dict[str, float]:
    """The share of the images' variance between samples: of brightness, of colours, of the place of most contrast."""

    def numbers(images: Tensor) -> dict[str, Tensor]:
        colours = torch.einsum("oc,...chw->...ohw", COLOURS, images)
        contrast = (colours[..., 0, :, :] - colours[..., 0, :, :].mean((-2, -1), keepdim=True)).square()
        places = torch.linspace(-0.5, 0.5, images.shape[-1])
        centre = torch.stack([(contrast.sum(side) * places).sum(-1) for side in (-2, -1)], -1)
        centre = centre / contrast.sum((-2, -1))[..., None].clamp_min(1e-12)
        return {"brightness": colours[..., 0, :, :], "colour": colours[..., 1:, :, :], "position": centre}

    of_samples, of_images = numbers(drawn), numbers(truth)
    return {name: float(of_samples[name].var(1).mean() / of_images[name].var(0).mean()) for name in of_images}


def _nearest(subject: Subject, truth: Tensor, drawn: Tensor) -> dict[str, float]:
    """Median distance to the nearest training image, mirrored or not, of samples and of images never trained on."""
    train = subject.datamodule.images("train")

    def distance(images: Tensor) -> float:
        nearest = torch.full((len(images),), torch.inf)
        for some in train.split(1000):
            for known in (some, some.flip(-1)):
                nearest = torch.minimum(nearest, torch.cdist(images.flatten(1), known.flatten(1) / 255).min(1).values)
        return float(nearest.median())

    of_samples, of_images = distance(drawn), distance(truth)
    return {"of_samples": of_samples, "of_images": of_images, "ratio": of_samples / of_images}


def _curves(plot: Any, rows: Sequence[dict[str, Any]], layers: dict[str, str], key: str, style: str = "o-") -> None:
    """The samples' numbers of this name by frequency band, a curve per run."""
    for title, layer in layers.items():
        own = [row for row in rows if row["run"] == title and row["what"] == FLOW and row["band"] != "all"]
        plot.plot([row["band"] for row in own], [row[key] for row in own], style, color=layer_colour(layer), label=title)


def _open_figure(rows: Sequence[dict[str, Any]], layers: dict[str, str]) -> Figure:
    figure, (by_band, by_colour) = new_figure(12, 4.5, columns=2)
    _curves(by_band, rows, layers, "open_share")
    for i, title in enumerate(layers):
        shares = [row["open_share"] for row in rows if row["run"] == title and row["what"] == "open"]
        by_colour.bar([i - 0.27, i, i + 0.27], shares, width=0.25, color=["0.35", "tab:orange", "tab:blue"])
    by_band.set(title="What stays open, by frequency", xlabel="cycles per image", ylabel="share of the images' variance")
    by_band.legend(frameon=False)
    by_colour.set(title="Of brightness (grey), colour (orange), position (blue)", ylabel="share of the images' variance")
    by_colour.set_xticks(range(len(layers)), list(layers))
    return figure


def _calibration_figure(rows: Sequence[dict[str, Any]], layers: dict[str, str]) -> Figure:
    figure, (ranks, spread, power) = new_figure(16, 4.5, columns=3)
    for title, layer in layers.items():
        shares = [row["value"] for row in rows if row["run"] == title and row["what"] == f"rank histogram, {FLOW}"]
        places = [(i + 0.5) / len(shares) for i in range(len(shares))]
        ranks.plot(places, [share * len(shares) for share in shares], color=layer_colour(layer), label=title)
    _curves(spread, rows, layers, "spread_ratio")
    _curves(power, rows, layers, "power")
    _curves(power, rows, layers, "mean_power", ":")
    ranks.set(title="The truth's rank among the samples", xlabel="rank, as a share", ylabel="how often; 1 if exact")
    spread.set(title="Spread over error; 1 if exact", xlabel="cycles per image")
    power.set(title="Power over the images'; dotted: the mean's", xlabel="cycles per image")
    for plot in (ranks, spread, power):
        plot.set_ylim(0, 2)
        plot.axhline(1, color="0.7", linewidth=1)
    ranks.legend(frameon=False)
    return figure
