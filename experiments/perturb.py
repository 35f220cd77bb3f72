"""Which part of a layer's features carries the image?

python experiments/perturb.py runs=outputs/<sweep>

The features are changed before they are decoded, as in section 5 of Dosovitskiy & Brox: every unit's sign alone is kept (with
the vector's norm), half of the units are dropped, noise is added, and of fc8 only the largest outputs are kept, or all but
these. Units that are left out of fc8 get their mean over the images, since its outputs don't lie around zero.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor

from inversion.core import pixels
from inversion.core.drawing import samples_figure, stacked
from inversion.core.errors import InputError
from inversion.encoders.alexnet import LAST_LAYER
from inversion.launch import command_line
from inversion.studies.shared import Study, layer_colour, new_figure, publish
from inversion.training.metrics import mean_squared_errors

TOP, ALL_BUT_TOP, SIGNS, DROPPED, NOISE = "top", "all but top", "signs", "dropped", "noise"
"""The kinds of change."""


def binarised(features: Tensor) -> Tensor:
    """Each unit's sign, scaled so that each image's vector keeps its norm."""
    signs = features.sign()
    flat = features.flatten(1)
    scale = flat.norm(dim=1) / signs.flatten(1).norm(dim=1).clamp_min(1)
    return signs * scale.view(-1, *[1] * (features.dim() - 1))


def dropped(features: Tensor, share: float, generator: torch.Generator, fill: Tensor) -> Tensor:
    """Each unit set to what `fill` (feature_shape, or a scalar) has in its place, with the probability `share`."""
    return torch.where(torch.rand(features.shape, generator=generator) < share, fill, features)


def with_noise(features: Tensor, deviation: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise of `size` times each unit's deviation (feature_shape) added."""
    return features + size * deviation * torch.randn(features.shape, generator=generator)


def only_top(features: Tensor, k: int, mean: Tensor, others: bool = False) -> Tensor:
    """The `k` largest outputs of each image (B, D) as they are, all others at their mean (D,); with `others`, the reverse."""
    top = torch.zeros_like(features, dtype=torch.bool).scatter_(1, features.topk(k, dim=1).indices, True)
    return torch.where(top ^ others, features, mean)


class Change(NamedTuple):
    """What is done to a layer's features before they are decoded."""

    kind: str
    size: float | None
    """How much of it is done; None where there is no more or less."""
    apply: Callable[[Tensor], Tensor]
    """Features (B, *feature_shape) -> changed ones, the same shape."""


def name_of(kind: str, size: float | None) -> str:
    """What a change is called."""
    return kind if size is None else f"{kind} {size:g}"


def changes(cfg: DictConfig, layer: str, mean: Tensor, deviation: Tensor) -> list[Change]:
    """What a layer's features, of this mean and deviation over the images, are put to. The first change is none."""
    generator = torch.Generator().manual_seed(cfg.seed)
    found = [Change("as it is", None, lambda features: features)]
    if layer == LAST_LAYER:
        found += [Change(TOP, k, partial(only_top, k=k, mean=mean)) for k in cfg.top]
        found += [Change(ALL_BUT_TOP, k, partial(only_top, k=k, mean=mean, others=True)) for k in cfg.top]
    else:
        found.append(Change(SIGNS, None, binarised))
    fill = mean if layer == LAST_LAYER else torch.zeros(())
    found.append(Change(DROPPED, cfg.drop, partial(dropped, share=cfg.drop, generator=generator, fill=fill)))
    return found + [
        Change(NOISE, size, partial(with_noise, deviation=deviation, size=size, generator=generator)) for size in cfg.noise
    ]


def perturb(cfg: DictConfig, folder: Path) -> None:
    """Writes `perturb.png` (pictures), `perturb_errors.png` (all scores) and their tables into the folder."""
    if not 0 <= cfg.drop <= 1:
        raise InputError(f"drop={cfg.drop} must lie between 0 and 1.")
    study = Study(cfg)
    floor = float(mean_squared_errors(study.datamodule.mean_image()[None], pixels.normalize(study.images)).mean())
    rows: list[dict[str, Any]] = []
    figures, findings = [], []
    for title, run in study.runs.items():
        features = study.features(run)
        if run.layer == LAST_LAYER and not all(1 <= k <= features.shape[1] for k in cfg.top):
            raise InputError(f"top={list(cfg.top)} must hold numbers from 1 to {features.shape[1]}, fc8's outputs.")
        _, shown = study.samples(cfg.shown)
        columns = {"Original": pixels.to_uint8(pixels.denormalize(shown))}
        own: list[dict[str, Any]] = []
        for change in changes(cfg, run.layer, features.mean(0), features.std(0)):
            error = float(study.errors(run, change.apply(features)).mean())
            columns[name_of(change.kind, change.size)] = pixels.to_uint8(
                pixels.denormalize(run.decode(change.apply(run.encode(shown))))
            )
            own.append({"run": title, "change": change.kind, "size": change.size, "mse": error, "mean_image_mse": floor})
            own[-1]["ratio"] = error / own[0]["mse"]
        rows += own
        figures.append(samples_figure(columns, tile=128, title=title))
        told = ", ".join(f"{name} {row['ratio']:.2f}x" for name, row in zip(list(columns)[2:], own[1:], strict=True))
        findings.append(
            f"{title}: error beside that of the features as they are ({own[0]['mse']:.4f}; mean image {floor:.4f}): {told}."
        )
    publish(folder, f"{cfg.name}_errors", error_figure(study, rows, floor), rows, [])
    publish(folder, cfg.name, stacked(figures), rows, findings)


def error_figure(study: Study, rows: list[dict[str, Any]], floor: float) -> Figure:
    """The error over the size of the noise and over the number of fc8's outputs, and a bar for each other change."""
    figure, (noise, top, others) = new_figure(15, 4.5, columns=3)
    bars: list[tuple[str, float, Any]] = []
    for title, run in study.runs.items():
        colour = layer_colour(run.layer)
        own = {(row["change"], row["size"]): row["mse"] for row in rows if row["run"] == title}
        whole = own["as it is", None]

        def curve(kind: str, own: dict[tuple[str, float | None], float] = own) -> list[tuple[float, float]]:
            return sorted((size, error) for (name, size), error in own.items() if name == kind and size is not None)

        noise.plot(*zip((0.0, whole), *curve(NOISE), strict=True), color=colour, marker="o", label=title)
        for kind, style in ((TOP, "-"), (ALL_BUT_TOP, "--")):
            if curve(kind):
                top.plot(*zip(*curve(kind), strict=True), style, color=colour, marker="o", label=f"{title}, {kind} k")
                top.axhline(whole, color=colour, linestyle=":", label=f"{title}, all")
        bars += [
            (f"{title}, {name_of(*key)}", error, colour)
            for key, error in own.items()
            if key[0] in ("as it is", SIGNS, DROPPED)
        ]
    names, errors, colours = zip(*bars, strict=True)
    others.barh(names, errors, color=colours)
    others.invert_yaxis()
    others.locator_params(axis="x", nbins=5)
    others.axvline(floor, color="0.5", linestyle=":")
    for plot in (noise, top):
        plot.axhline(floor, color="0.5", linestyle=":", label="mean image")
    noise.set(title="Noise added", xlabel="deviation of the noise / the unit's own", ylabel="MSE")
    top.set(title="Few of fc8's outputs", xlabel="k, of the largest outputs", ylabel="MSE", xscale="log")
    others.set(title="Signs alone, units dropped", xlabel="MSE (dotted: mean image)")
    noise.legend(frameon=False)
    handles = dict(zip(*reversed(top.get_legend_handles_labels()), strict=True))
    top.legend(handles.values(), handles.keys(), frameon=False)
    return figure


if __name__ == "__main__":
    command_line.run(perturb, "perturb")
