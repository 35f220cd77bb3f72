"""What lies between images? Features on the way from one to another, a class's mean feature, features drawn at random.

python experiments/interpolate.py runs=outputs/<sweep>

Each is decoded. Beside features that are interpolated or averaged stands the same done to the pixels, a cross-fade. A random
feature draws each unit from its own values over the images, independently of all others: what the decoder makes of it shows
its own notion of an image. "Detail" is the mean absolute difference of neighbouring pixels.
"""

from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor
from torchmetrics.functional.image import total_variation

from inversion.core import pixels
from inversion.core.drawing import samples_figure, stacked
from inversion.core.errors import InputError
from inversion.data.datamodule import to_input
from inversion.launch import command_line
from inversion.results.trained import TrainedRun
from inversion.studies.shared import Study, publish


def between(first: Tensor, last: Tensor, steps: int) -> Tensor:
    """From one tensor to the other of the same shape, both included, in equal steps: (steps, ...)."""
    weights = torch.linspace(0, 1, steps).view(-1, *[1] * first.dim())
    return torch.lerp(first[None], last[None], weights)


def class_means(values: Tensor, labels: Tensor, classes: list[int]) -> Tensor:
    """The mean over each class's images: (N, ...) and (N,) -> (len(classes), ...)."""
    return torch.stack([values[labels == label].mean(0) for label in classes])


def drawn(features: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Features each of whose units has the value that it has for some image, drawn anew for each unit: (N, *feature_shape) ->
    (number, *feature_shape).
    """
    flat = features.flatten(1)
    chosen = torch.randint(len(flat), (number, flat.shape[1]), generator=generator)
    return flat.gather(0, chosen).view(number, *features.shape[1:])


def detail(images: Tensor) -> float:
    """Mean absolute difference of neighbouring pixels, (N, 3, H, W) in [0, 1]."""
    return float(total_variation(images, reduction="mean")) / (2 * images[0].numel())


def decoded(run: TrainedRun, features: Tensor) -> Tensor:
    """Features -> images (N, 3, 227, 227) in [0, 1]."""
    return pixels.denormalize(run.decode(features))


def interpolate(cfg: DictConfig, folder: Path) -> None:
    """Writes `interpolate.png`, `interpolate_classes.png`, `interpolate_draws.png` and a table into the folder.

    Raises:
        InputError: too few images or classes for what is asked.
    """
    study = Study(cfg)
    labelled = study.labels.unique().tolist()
    for name, least, most in (
        ("pairs", 1, len(study.files) // 2),
        ("steps", 3, 50),
        ("classes", 1, len(labelled)),
        ("draws", 1, 50),
    ):
        if not least <= cfg[name] <= most:
            raise InputError(f"{name}={cfg[name]} must lie between {least} and {most}.")
    _, ends = study.samples(2 * cfg.pairs)
    firsts, lasts = ends[: cfg.pairs], ends[cfg.pairs :]
    classes = [labelled[i * len(labelled) // cfg.classes] for i in range(cfg.classes)]
    everything = pixels.denormalize(to_input(study.images))
    fades = torch.cat(
        [between(a, b, cfg.steps) for a, b in zip(pixels.denormalize(firsts), pixels.denormalize(lasts), strict=True)]
    )
    means = class_means(everything, study.labels, classes)
    middles = slice(cfg.steps // 2, None, cfg.steps)
    ways, of_classes = {"Pixels": fades}, {"Pixels": means}
    draws = {"Original": pixels.denormalize(study.samples(cfg.draws)[1])}
    rows: list[dict[str, object]] = [
        {"run": "Pixels", "what": "halfway", "detail": detail(fades[middles]) / detail(pixels.denormalize(ends))},
        {"run": "Pixels", "what": "class mean", "detail": detail(means) / detail(everything)},
    ]
    findings = []
    for title, run in study.runs.items():
        features, generator = study.features(run), torch.Generator().manual_seed(cfg.seed)
        from_ends = [run.encode(images) for images in (firsts, lasts)]
        ways[title] = torch.cat([decoded(run, between(a, b, cfg.steps)) for a, b in zip(*from_ends, strict=True)])
        of_classes[title] = decoded(run, class_means(features, study.labels, classes))
        draws[title] = decoded(run, drawn(features, cfg.draws, generator))
        usual = detail(decoded(run, features[: min(64, len(features))]))
        of_ends = detail(torch.cat([decoded(run, some) for some in from_ends]))
        shares = {
            "halfway": detail(ways[title][middles]) / of_ends,
            "class mean": detail(of_classes[title]) / usual,
            "random": detail(draws[title]) / usual,
        }
        rows += [{"run": title, "what": what, "detail": share} for what, share in shares.items()]
        told = ", ".join(f"{what} {share:.2f}" for what, share in shares.items())
        findings.append(f"{title}: detail as a share of its usual reconstructions': {told}.")
    faded, averaged = (float(row["detail"]) for row in rows[:2])  # type: ignore[arg-type]
    findings.append(f"Pixels: detail as a share of the images': halfway {faded:.2f}, class mean {averaged:.2f}.")
    # A row of pictures for each layer: what is a column elsewhere runs from left to right here.
    strips = []
    for i in range(cfg.pairs):
        own = slice(i * cfg.steps, (i + 1) * cfg.steps)
        names = [f"{share:.0%}" for share in torch.linspace(0, 1, cfg.steps).tolist()]
        strips.append(strip({title: images[own] for title, images in ways.items()}, names))
    names = [study.classes[i].split(",")[0] for i in classes]
    publish(folder, f"{cfg.name}_classes", strip(of_classes, names, "Mean features of classes"), rows, [])
    publish(
        folder, f"{cfg.name}_draws", strip(draws, [f"{i + 1}" for i in range(cfg.draws)], "Features drawn at random"), rows, []
    )
    publish(folder, cfg.name, stacked(strips), rows, findings)


def strip(rows: dict[str, Tensor], columns: list[str], title: str = ""):
    """A figure with a row of pictures for each name, (len(columns), 3, 227, 227) in [0, 1]."""
    images = {name: torch.stack([row[i] for row in rows.values()]) for i, name in enumerate(columns)}
    shown = {name: pixels.to_uint8(stack) for name, stack in images.items()}
    return samples_figure(shown, rows=list(rows), tile=128, title=title)


if __name__ == "__main__":
    command_line.run(interpolate, "interpolate")
