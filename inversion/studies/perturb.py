"""Which part of a layer's features carries the image?

The features are changed before they are decoded, as in section 5 of Dosovitskiy & Brox: only every unit's sign is kept (with
the vector's norm), units are dropped, noise is added, and of fc8 only the largest outputs are kept, or all but these. Units
left out of fc8 get their mean over the images, since its outputs aren't centred at zero.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from inversion.core import pixels
from inversion.core.drawing import stacked
from inversion.decoders.base import check_numbers
from inversion.encoders.alexnet import LAST_LAYER
from inversion.studies.result import Result, columns_figure, layer_colour, new_figure
from inversion.studies.subject import Subject, check_range
from inversion.training.metrics import mean_squared_errors

NONE, TOP, ALL_BUT_TOP, SIGNS, DROPPED, NOISE = "as it is", "top", "all but top", "signs", "dropped", "noise"
CURVES = (TOP, ALL_BUT_TOP, NOISE)  # the kinds of change that have several sizes


def binarised(features: Tensor) -> Tensor:
    """Each unit's sign, scaled so that each image's vector keeps its norm."""
    signs = features.sign()
    scale = features.flatten(1).norm(dim=1) / signs.flatten(1).norm(dim=1).clamp_min(1)
    return signs * scale.view(-1, *[1] * (features.dim() - 1))


def only_top(features: Tensor, k: int, mean: Tensor, others: bool = False) -> Tensor:
    """The `k` largest outputs of each image (B, D) as they are, all others at their mean (D,); with `others`, the reverse."""
    top = torch.zeros_like(features, dtype=torch.bool).scatter_(1, features.topk(k, dim=1).indices, True)
    return torch.where(top ^ others, features, mean)


def changes(
    layer: str, features: Tensor, top: Sequence[int], noise: Sequence[float], drop: float
) -> dict[tuple[str, float | None], Callable[[Tensor], Tensor]]:
    """What a layer's features (N, *feature_shape) are put to: kind and size -> features to changed ones. The first is none."""
    mean, deviation = features.mean(0), features.std(0)
    fill = mean if layer == LAST_LAYER else torch.zeros(())
    found: dict[tuple[str, float | None], Callable[[Tensor], Tensor]] = {(NONE, None): lambda units: units}
    if layer == LAST_LAYER:
        check_range(1, features.shape[1], top=top)
        found |= {(TOP, k): partial(only_top, k=k, mean=mean) for k in top}
        found |= {(ALL_BUT_TOP, k): partial(only_top, k=k, mean=mean, others=True) for k in top}
    else:
        found[SIGNS, None] = binarised

    def dropped(units: Tensor) -> Tensor:
        return torch.where(torch.rand(units.shape, generator=torch.Generator().manual_seed(0)) < drop, fill, units)

    def noisy(units: Tensor, size: float) -> Tensor:
        return units + size * deviation * torch.randn(units.shape, generator=torch.Generator().manual_seed(0))

    return found | {(DROPPED, drop): dropped} | {(NOISE, size): partial(noisy, size=size) for size in noise}


def perturb(subject: Subject, folder: Path, top: Sequence[int], noise: Sequence[float], drop: float, shown: int) -> Result:
    check_numbers("top", top)
    check_range(0, 1, drop=drop)
    check_range(1, shown=shown)
    check_range(2, images=len(subject.files))
    floor = float(mean_squared_errors(subject.datamodule.mean_image()[None], pixels.normalize(subject.images)).mean())
    originals = subject.examples(shown)
    rows: list[dict[str, Any]] = []
    figures, findings = [], []
    for title, run in subject.runs.items():
        features, encoded = subject.features(run), run.encode(originals)
        columns = {"Original": originals}
        own: list[dict[str, Any]] = []
        for (kind, size), change in changes(run.layer, features, top, noise, drop).items():
            mse = float(subject.errors(run, change(features)).mean())
            columns[kind if size is None else f"{kind} {size:g}"] = run.decode(change(encoded))
            own.append({"run": title, "change": kind, "size": size, "mse": mse, "mean_image_mse": floor})
            own[-1]["ratio"] = mse / own[0]["mse"]
        rows += own
        figures.append(columns_figure(columns, title=title))
        ratios = ", ".join(f"{name} {row['ratio']:.2f}x" for name, row in zip(list(columns)[2:], own[1:], strict=True))
        findings.append(
            f"{title}: the error relative to unchanged features ({own[0]['mse']:.4f}; mean image {floor:.4f}): {ratios}."
        )
    return Result({"samples": stacked(figures), "errors": errors_figure(subject, rows, floor)}, rows, findings)


def errors_figure(subject: Subject, rows: list[dict[str, Any]], floor: float) -> Figure:
    """The error over the size of the noise and over the number of fc8's outputs, and a bar for each other change."""
    figure, (noise, top, others) = new_figure(15, 4.5, columns=3)
    for title, run in subject.runs.items():
        colour = layer_colour(run.layer)
        own = [row for row in rows if row["run"] == title]
        curves = {kind: sorted((row["size"], row["mse"]) for row in own if row["change"] == kind) for kind in CURVES}
        unchanged = own[0]["mse"]
        noise.plot(*zip((0, unchanged), *curves[NOISE], strict=True), "o-", color=colour, label=title)
        if curves[TOP]:
            top.plot(*zip(*curves[TOP], strict=True), "o-", color=colour, label=f"{title}, top k")
            top.axhline(unchanged, color=colour, linestyle=":", label=f"{title}, all")
            top.plot(*zip(*curves[ALL_BUT_TOP], strict=True), "o--", color=colour, label=f"{title}, all but top k")
        for row in own:
            if row["change"] not in CURVES:
                size = "" if row["size"] is None else f" {row['size']:g}"
                others.barh(f"{title}, {row['change']}{size}", row["mse"], color=colour)
    others.invert_yaxis()
    others.locator_params(axis="x", nbins=5)
    others.axvline(floor, color="0.5", linestyle=":")
    for plot in (noise, top):
        plot.axhline(floor, color="0.5", linestyle=":", label="mean image")
        plot.legend(frameon=False)
    noise.set(title="Noise added", xlabel="deviation of the noise / the unit's own", ylabel="MSE")
    top.set(title="Few of fc8's outputs", xlabel="k, of the largest outputs", ylabel="MSE", xscale="log")
    others.set(title="Only signs, units dropped", xlabel="MSE (dotted: mean image)")
    return figure
