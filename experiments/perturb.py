"""Which part of a layer's features carries the image?

python experiments/perturb.py runs=outputs/<sweep>

The features are changed before they are decoded, as in section 5 of Dosovitskiy & Brox: every unit's sign alone is kept (with
the vector's norm), half of the units are dropped, noise is added, and of fc8 only the largest outputs are kept, or all but
these. Units that are left out of fc8 get their mean over the images, since its outputs don't lie around zero.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor

from inversion import command_line, pixels
from inversion.alexnet import LAST_LAYER
from inversion.errors import InputError
from inversion.figures import samples_figure, stacked
from inversion.study import Study, layer_colour, new_figure, publish

Change = Callable[[Tensor], Tensor]
"""Features (B, *feature_shape) -> changed ones, the same shape."""


def binarised(features: Tensor) -> Tensor:
    """Each unit's sign, scaled so that each image's vector keeps its norm."""
    signs = features.sign()
    flat = features.flatten(1)
    scale = flat.norm(dim=1) / signs.flatten(1).norm(dim=1).clamp_min(1)
    return signs * scale.view(-1, *[1] * (features.dim() - 1))


def dropped(features: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Each unit set to zero with the probability `share`."""
    return features * (torch.rand(features.shape, generator=generator) >= share)


def with_noise(features: Tensor, deviation: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise of `size` times each unit's deviation (feature_shape) added."""
    return features + size * deviation * torch.randn(features.shape, generator=generator)


def only_top(features: Tensor, k: int, mean: Tensor, others: bool = False) -> Tensor:
    """The `k` largest outputs of each image (B, D) as they are, all others at their mean (D,); with `others`, the reverse."""
    top = torch.zeros_like(features, dtype=torch.bool).scatter_(1, features.topk(k, dim=1).indices, True)
    return torch.where(top ^ others, features, mean)


def changes(cfg: DictConfig, layer: str, mean: Tensor, deviation: Tensor) -> dict[str, Change]:
    """The changes that a layer's features are put to, by name, the first of them none."""
    generator = torch.Generator().manual_seed(cfg.seed)
    found: dict[str, Change] = {"as it is": lambda f: f}
    if layer == LAST_LAYER:
        for k in cfg.top:
            found[f"top {k}"] = partial(only_top, k=k, mean=mean)
        for k in cfg.top:
            found[f"all but top {k}"] = partial(only_top, k=k, mean=mean, others=True)
    else:
        found["signs"] = binarised
    found[f"{cfg.drop:.0%} dropped"] = partial(dropped, share=cfg.drop, generator=generator)
    for size in cfg.noise:
        found[f"noise {size}"] = partial(with_noise, deviation=deviation, size=size, generator=generator)
    return found


def perturb(cfg: DictConfig, folder: Path) -> None:
    """Writes `perturb.png` (pictures), `perturb_errors.png` (all scores) and their tables into the folder."""
    if not 0 <= cfg.drop <= 1:
        raise InputError(f"drop={cfg.drop} must lie between 0 and 1.")
    study = Study(cfg)
    rows: list[dict[str, object]] = []
    figures, findings = [], []
    for title, run in study.runs.items():
        features = study.features(run)
        if run.layer == LAST_LAYER and not all(1 <= k <= features.shape[1] for k in cfg.top):
            raise InputError(f"top={list(cfg.top)} must hold numbers from 1 to {features.shape[1]}, fc8's outputs.")
        _, shown = study.samples(cfg.shown)
        columns = {"Original": pixels.to_uint8(pixels.denormalize(shown))}
        errors = {}
        for name, change in changes(cfg, run.layer, features.mean(0), features.std(0)).items():
            errors[name] = float(study.errors(run, change(features)).mean())
            columns[name] = pixels.to_uint8(pixels.denormalize(run.decode(change(run.encode(shown)))))
            rows.append({"run": title, "change": name, "mse": errors[name]})
        figures.append(samples_figure(columns, tile=128, title=title))
        before, *others = errors.items()
        told = ", ".join(f"{name} {error / before[1]:.2f}x" for name, error in others)
        findings.append(f"{title}: error beside that of the features as they are ({before[1]:.4f}): {told}.")
    publish(folder, cfg.name, stacked(figures), rows, findings)
    publish(folder, f"{cfg.name}_errors", error_figure(study, rows), rows, [])


def error_figure(study: Study, rows: list[dict[str, object]]) -> Figure:
    """A bar for each change, a plot for each run."""
    figure, plots = new_figure(4 * len(study.runs), 4, columns=len(study.runs))
    for plot, (title, run) in zip(plots, study.runs.items(), strict=True):
        own = [row for row in rows if row["run"] == title]
        plot.barh([row["change"] for row in own], [row["mse"] for row in own], color=layer_colour(run.layer))
        plot.invert_yaxis()
        plot.set(title=title, xlabel="MSE")
    return figure


if __name__ == "__main__":
    command_line.run(perturb, "perturb")
