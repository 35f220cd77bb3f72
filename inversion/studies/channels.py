"""Which channels carry the image, and does leaving some out help?

A channel is ablated by holding it at its mean over the images (position by position). Its importance is the rise of the
reconstructions' error. Shown are one image's strongest channels, with what the decoder gives when each is held at its mean,
or all others are; the most important channels, with the patches of images that excite them most (what reaches the unit's
gradient); and what is left of the image when only the most important channels are kept. Last, the channels whose ablation
lowered the error on these images are held at their mean on the test images: does that improve the inversion?
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad
from tqdm import tqdm

from inversion.core import pixels
from inversion.core.drawing import stacked
from inversion.encoders.alexnet import Encoder
from inversion.results.trained import TrainedRun
from inversion.studies.result import Result, columns_figure, layer_colour, new_figure
from inversion.studies.subject import Subject, check_range

ORDERS = {"by importance": "-", "by variance": "--", "at random": ":"}  # in which channels are kept -> line style
SHARES = [0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1.0]  # of the channels that are kept, all others held at their mean
PATCHES = 5  # shown of a channel


def replaced(features: Tensor, channels: Tensor, others: Tensor) -> Tensor:
    """Features with these channels taken from others, either of which is (N, C, ...) or, for all images, (C, ...)."""
    features, others = torch.broadcast_tensors(features, others)
    return features.index_copy(1, channels, others[:, channels])


def variances(features: Tensor, mean: Tensor) -> Tensor:
    """How much each channel varies around its mean, (C, ...), summed over its positions: (N, C, ...) -> (C,)."""
    return (features - mean).reshape(*features.shape[:2], -1).square().sum(2).mean(0)


def importance(subject: Subject, run: TrainedRun, features: Tensor, mean: Tensor, channels: Tensor) -> Tensor:
    """The rise of the mean squared error when each of the channels is ablated: (len(channels),)."""
    unchanged = subject.errors(run, features).mean()
    progress = tqdm(channels, desc=f"{run.layer}: ablating {len(channels)} channels", leave=False, disable=None)
    return torch.stack([subject.errors(run, replaced(features, c[None], mean)).mean() - unchanged for c in progress])


def reach(encoder: Encoder, image: Tensor, channel: int, place: int) -> tuple[slice, slice]:
    """Rows and columns of an image (1, 3, 227, 227) where a unit's gradient isn't zero; all, if a ReLU has cut it off."""
    image = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(encoder(image)[0, channel].flatten()[place], image)
    rows, columns = (gradient[0].abs().sum(dim).nonzero().flatten().tolist() for dim in ((0, 2), (0, 1)))
    return (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)) if rows else (slice(None), slice(None))


def exciting_patches(run: TrainedRun, images: Tensor, features: Tensor, channel: int) -> Tensor:
    """Patches of native uint8 images that excite a channel most, one an image: (at most PATCHES, 3, 227, 227) in [-1, 1]."""
    values, places = features[:, channel].reshape(len(features), -1).max(dim=1)
    patches = []
    for i in values.topk(min(PATCHES, len(values))).indices.tolist():
        image = pixels.to_input(images[i][None])
        rows, columns = reach(run.encoder, image.to(run.device), channel, int(places[i]))
        patch = image[..., rows, columns]
        height, width = patch.shape[-2:]  # not square where the image's border has cut it; beside it is white
        square = pad(patch, (0, max(0, height - width), 0, max(0, width - height)), value=1)
        patches.append(pixels.resize(square, pixels.INPUT_SIZE))
    return torch.cat(patches)


def map_images(values: Tensor) -> Tensor:
    """Channels' maps (N, h, w), or single values (N,), in viridis over their range and 0: uint8 (N, 3, 227, 227)."""
    least, most = values.clamp(max=0).min(), values.clamp(min=0).max()
    shares = ((values - least) / (most - least).clamp_min(1e-12)).reshape(len(values), 1, *(values.shape[1:] or (1, 1)))
    large = interpolate(shares, size=(pixels.INPUT_SIZE, pixels.INPUT_SIZE), mode="nearest")[:, 0]
    return pixels.to_uint8(torch.from_numpy(colormaps["viridis"](large.numpy())[..., :3]).permute(0, 3, 1, 2))


def strongest_figure(run: TrainedRun, title: str, image: Tensor, mean: Tensor, shown: int) -> Image.Image:
    """The strongest channels of an image (1, 3, 227, 227): with the largest sums of squares around their mean."""
    features = run.encode(image)
    strongest = variances(features, mean).topk(min(shown, len(mean))).indices
    columns = {
        "map": map_images(features[0, strongest]),
        "Original": image.expand(len(strongest), -1, -1, -1),
        "Reconstruction": run.decode(features).expand(len(strongest), -1, -1, -1),
        "held at mean": run.decode(torch.cat([replaced(features, c[None], mean) for c in strongest])),
        "alone kept": run.decode(torch.cat([replaced(mean, c[None], features) for c in strongest])),
    }
    title = f"{title}: the strongest channels of one image (maps: dark low, bright high)"
    return columns_figure(columns, [f"channel {c}" for c in strongest.tolist()], title)


def importance_figure(subject: Subject, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Importance by rank, and the error when few channels are kept."""
    figure, (left, right) = new_figure(12, 4.5, columns=2)
    for title, run in subject.runs.items():
        own, colour = [row for row in rows if row["run"] == title], layer_colour(run.layer)
        rises = sorted((row["rise"] for row in own if "rise" in row), reverse=True)
        left.plot(range(1, len(rises) + 1), rises, color=colour, label=title)
        for order, style in ORDERS.items():
            errors = [row["mse"] for row in own if row.get("order") == order]
            right.plot(SHARES, errors, style, color=colour, marker=".")
    left.set(title="Importance of single channels", xlabel="rank of the channel", ylabel="rise of the MSE when ablated")
    right.set(title="Few channels kept, the others at their mean", xlabel="share of the channels kept", ylabel="MSE")
    left.axhline(0, color="0.7", linewidth=1)
    for order, style in ORDERS.items():
        right.plot([], [], style, color="0.3", label=order)
    for plot in (left, right):
        plot.set_xscale("log")
        plot.legend(frameon=False)
    right.set_xticks(SHARES, [f"{share:.0%}" for share in SHARES])
    right.set_xticks([], minor=True)
    return figure


def channels(subject: Subject, folder: Path, images: int, candidates: int, shown: int) -> Result:
    check_range(1, candidates=candidates, shown=shown)
    subject, tested = subject.on("val", images), subject.on("test", images)
    rows: list[dict[str, Any]] = []
    strongest, exciting, findings = [], [], []
    for title, run in subject.runs.items():
        features, of_tested = subject.features(run), tested.features(run)
        mean = features.mean(0)
        spread = variances(features, mean)
        by_variance = spread.argsort(descending=True)
        ablated = by_variance[:candidates]
        rises = importance(subject, run, features, mean, ablated)
        order = torch.cat([ablated[rises.argsort(descending=True)], by_variance[candidates:]])
        random = torch.randperm(len(order), generator=torch.Generator().manual_seed(0))
        for c, rise in zip(ablated, rises, strict=True):
            rows.append({"run": title, "channel": int(c), "rise": float(rise), "variance": float(spread[c])})
        for name, some in zip(ORDERS, (order, by_variance, random), strict=True):
            for share in SHARES:
                changed = replaced(mean, some[: max(1, round(share * len(some)))], of_tested)
                mse = float(tested.errors(run, changed).mean())
                rows.append({"run": title, "order": name, "kept": share, "mse": mse})
        harmful = ablated[rises < 0]
        before, after = (float(tested.errors(run, some).mean()) for some in (of_tested, replaced(of_tested, harmful, mean)))
        rows.append({"run": title, "order": "without the harmful", "kept": 1 - len(harmful) / len(order), "mse": after})
        strongest.append(strongest_figure(run, title, subject.examples(1), mean, shown))
        important = order[:shown].tolist()
        patches = torch.stack([exciting_patches(run, subject.images, features, c) for c in important], dim=1)
        columns, labels = {f"patch {i + 1}": some for i, some in enumerate(patches)}, [f"channel {c}" for c in important]
        exciting.append(columns_figure(columns, labels, f"{title}: what excites the most important channels"))
        gains = rises.clamp_min(0).sort(descending=True).values.cumsum(0)
        half = int((gains < gains[-1] / 2).sum()) + 1
        findings.append(
            f"{title}: {half} of {len(ablated)} ablated channels make half of their importance; without the {len(harmful)} "
            f"whose ablation lowered the error on val, the test error is {after / before:.3f} times what it was."
        )
    figures = {"strongest": stacked(strongest), "patches": stacked(exciting)}
    return Result(figures | {"importance": importance_figure(subject, rows)}, rows, findings)
