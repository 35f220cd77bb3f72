"""What lies between images? Features halfway between two, a class's mean feature, and random features.

Each is decoded. Beside interpolated and averaged features stands the same done to the pixels, a cross-fade. A random feature
takes each unit's value from a random image, independently of the other units: what the decoder makes of it shows its own
notion of an image. "Detail" is the mean absolute difference of neighbouring pixels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from inversion.core import pixels
from inversion.core.drawing import stacked
from inversion.core.errors import InputError
from inversion.decoders.losses import detail
from inversion.studies.result import Result, columns_figure
from inversion.studies.subject import BATCH, Subject, check_range


def between(ends: Tensor, steps: int) -> Tensor:
    """From each of the first half to its partner in the second, in equal steps: (2 * pairs, ...) -> (pairs, steps, ...)."""
    firsts, lasts = ends.chunk(2)
    return torch.stack([torch.lerp(firsts, lasts, weight) for weight in torch.linspace(0, 1, steps)], dim=1)


def class_means(values: Tensor, labels: Tensor, classes: list[int]) -> Tensor:
    """The mean over each class's images: (N, ...) and (N,) -> (len(classes), ...)."""
    return torch.stack([values[labels == label].mean(0) for label in classes])


def random_features(features: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Features whose every unit has its value from a random image: (N, *feature_shape) -> (number, *feature_shape)."""
    flat = features.flatten(1)
    chosen = torch.randint(len(flat), (number, flat.shape[1]), generator=generator)
    return flat.gather(0, chosen).view(number, *features.shape[1:])


def strip(rows: Mapping[str, Tensor], columns: Sequence[str], title: str = "") -> Image.Image:
    """A figure with one row of images for each name, (len(columns), 3, 227, 227) in [-1, 1]."""
    turned = dict(zip(columns, torch.stack(list(rows.values()), dim=1), strict=True))
    return columns_figure(turned, rows=list(rows), title=title)


def interpolate(subject: Subject, folder: Path, pairs: int, steps: int, classes: int, draws: int) -> Result:
    check_range(1, pairs=pairs, classes=classes, draws=draws)
    check_range(3, steps=steps)
    if steps % 2 == 0:
        raise InputError(f"study.interpolate.steps={steps} must be odd, for one to be halfway.")
    check_range(2, images=len(subject.files))
    labels = subject.labels.unique().tolist()
    classes, draws = min(classes, len(labels)), min(draws, len(subject.files))
    chosen = [labels[i * len(labels) // classes] for i in range(classes)]
    ends, some = subject.examples(2 * min(pairs, len(subject.files) // 2)), slice(None, None, -(-len(subject.files) // BATCH))
    ways = {"Pixels": between(ends, steps)}
    means = {"Pixels": pixels.to_input(class_means(subject.truth(), subject.labels, chosen))}
    random = {"Original": subject.examples(draws)}
    halfway, usual = detail(ways["Pixels"][:, steps // 2]) / detail(ends), detail(pixels.to_input(subject.images[some]))
    shares = {"Pixels": {"halfway": halfway, "class mean": detail(means["Pixels"]) / usual}}
    for title, run in subject.runs.items():
        features, of_ends = subject.features(run), run.encode(ends)
        ways[title] = run.decode(between(of_ends, steps).flatten(0, 1)).unflatten(0, (-1, steps))
        means[title] = run.decode(class_means(features, subject.labels, chosen))
        random[title] = run.decode(random_features(features, draws, torch.Generator().manual_seed(0)))
        usual = detail(run.decode(features[some]))
        shares[title] = {
            "halfway": detail(ways[title][:, steps // 2]) / detail(run.decode(of_ends)),
            "class mean": detail(means[title]) / usual,
            "random": detail(random[title]) / usual,
        }
    rows = [{"run": title, "what": name, "detail": float(x)} for title, own in shares.items() for name, x in own.items()]
    findings = [
        f"{title}: detail relative to {'the images' if title == 'Pixels' else 'its reconstructions'}: "
        f"{', '.join(f'{what} {value:.2f}' for what, value in own.items())}."
        for title, own in shares.items()
    ]
    percents = [f"{share:.0%}" for share in torch.linspace(0, 1, steps).tolist()]
    of_pairs = [{title: images[i] for title, images in ways.items()} for i in range(len(ends) // 2)]
    figures = {
        "interpolated": stacked([strip(images, percents) for images in of_pairs]),
        "classes": strip(means, [subject.classes[i].split(",")[0] for i in chosen], "Mean features of classes"),
        "random": strip(random, [f"{i + 1}" for i in range(draws)], "Random features"),
    }
    return Result(figures, rows, findings)
