"""Which channels carry the image?

python experiments/channels.py runs=outputs/<sweep>

A channel is ablated by holding it at its mean over the images (place by place). Its importance is the rise of the
reconstructions' error. Shown are one image's strongest channels, with what the decoder gives when each is held at its mean or
alone is kept; the most important channels, with the patches of images that excite them most (what the unit's gradient
reaches of the image); and what is left when only the most important are kept. Last it is tried whether importance can improve
the inversion: the channels whose ablation lowered the error on these images are held at their mean on the test images.
"""

from pathlib import Path

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from inversion.core import pixels
from inversion.core.drawing import samples_figure, stacked
from inversion.core.errors import InputError
from inversion.data.datamodule import to_input
from inversion.encoders.alexnet import Encoder
from inversion.launch import command_line
from inversion.results.trained import TrainedRun
from inversion.studies.shared import Study, layer_colour, new_figure, publish

ORDERS = {"by importance": "-", "by variance": "--", "at random": ":"}
"""In which channels are kept -> line style."""


def held(features: Tensor, mean: Tensor, channels: Tensor) -> Tensor:
    """Features (N, C, ...) with these channels at their mean, (C, ...)."""
    changed = features.clone()
    changed[:, channels] = mean[channels]
    return changed


def alone(features: Tensor, mean: Tensor, channels: Tensor) -> Tensor:
    """Features (N, C, ...) with all channels but these at their mean, (C, ...)."""
    changed = mean.expand_as(features).clone()
    changed[:, channels] = features[:, channels]
    return changed


def variances(features: Tensor, mean: Tensor) -> Tensor:
    """How much each channel varies around its mean, (C, ...), summed over its places: (N, C, ...) -> (C,)."""
    return (features - mean).flatten(2).square().sum(2).mean(0) if features.dim() > 2 else (features - mean).square().mean(0)


def importance(study: Study, run: TrainedRun, features: Tensor, mean: Tensor, channels: Tensor) -> Tensor:
    """The rise of the mean squared error when each of the channels is ablated: (len(channels),)."""
    whole = study.errors(run, features).mean()
    rises = []
    for channel in tqdm(channels, desc=f"{run.layer}: ablating {len(channels)} channels", leave=False, disable=None):
        rises.append(study.errors(run, held(features, mean, channel[None])).mean() - whole)
    return torch.stack(rises)


def reach(encoder: Encoder, image: Tensor, channel: int, place: int) -> tuple[slice, slice]:
    """The rows and columns of an image (1, 3, 227, 227) that move one unit of the encoder's, the one at a place of a channel
    (counted through its map): where its gradient isn't zero. The whole image for a unit that a rectifier has cut off.
    """
    image = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(encoder(image)[0, channel].flatten()[place], image)
    reached = gradient[0].abs().sum(0) > 0
    if not reached.any():
        return slice(0, image.shape[-2]), slice(0, image.shape[-1])
    rows, columns = (reached.any(dim).nonzero().flatten().tolist() for dim in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def exciting_patches(encoder: Encoder, images: Tensor, features: Tensor, channel: int, number: int) -> Tensor:
    """The patches of the images that excite a channel most, each image's strongest, strongest first: what the gradient of that
    unit reaches, enlarged.

    Args:
        images: native, uint8 (N, 3, n, n).
        features: of these images, (N, C, ...).

    Returns:
        (number, 3, 227, 227), uint8.
    """
    values, places = features[:, channel].flatten(1).max(dim=1) if features.dim() > 2 else (features[:, channel], None)
    patches = []
    for i in values.topk(number).indices.tolist():
        image = to_input(images[i][None])
        rows, columns = reach(encoder, image, channel, 0 if places is None else int(places[i]))
        patch = image[..., rows, columns]
        side = max(patch.shape[-2:])
        square = torch.ones(1, 3, side, side)  # white beside a patch that the image's border has cut
        square[..., : patch.shape[-2], : patch.shape[-1]] = patch
        patches.append(pixels.resize(square, pixels.INPUT_SIZE))
    return pixels.to_uint8(pixels.denormalize(torch.cat(patches)))


def map_picture(values: Tensor, least: float, most: float) -> Tensor:
    """A channel's map (h, w), or its single value (), in viridis from `least` to `most`: uint8 (3, 227, 227)."""
    grid = values.reshape(1, 1, *values.shape[-2:]) if values.dim() else values.view(1, 1, 1, 1)
    shares = (grid - least) / max(most - least, 1e-12)
    large = torch.nn.functional.interpolate(shares, size=(pixels.INPUT_SIZE, pixels.INPUT_SIZE), mode="nearest")[0, 0]
    return pixels.to_uint8(torch.from_numpy(colormaps["viridis"](large.clamp(0, 1).numpy())[..., :3]).permute(2, 0, 1))


def strongest_figure(study: Study, run: TrainedRun, title: str, mean: Tensor, cfg: DictConfig) -> Image.Image:
    """One image's strongest channels: those whose squares sum to most once their mean is taken off."""
    _, inputs = study.samples(cfg.image + 1)
    image = inputs[cfg.image : cfg.image + 1]
    features = run.encode(image)
    strongest = variances(features, mean).topk(cfg.shown).indices
    maps = features[0, strongest]
    one = torch.cat([held(features, mean, c[None]) for c in strongest])
    only = torch.cat([alone(features, mean, c[None]) for c in strongest])
    columns = {
        "Original": image.expand(cfg.shown, -1, -1, -1),
        "Reconstruction": run.decode(features).expand(cfg.shown, -1, -1, -1),
        "held at mean": run.decode(one),
        "alone kept": run.decode(only),
    }
    shown = {name: pixels.to_uint8(pixels.denormalize(images)) for name, images in columns.items()}
    least, most = min(0.0, float(maps.min())), max(0.0, float(maps.max()))
    shown = {"map": torch.stack([map_picture(one, least, most) for one in maps]), **shown}
    rows = [f"channel {int(c)}" for c in strongest]
    return samples_figure(
        shown, rows=rows, tile=128, title=f"{title}: the strongest channels of one image (maps: dark low, bright high)"
    )


def keeping(study: Study, run: TrainedRun, features: Tensor, mean: Tensor, order: Tensor, shares: list[float]) -> list[float]:
    """The mean squared error when only the first channels of an order are kept, for each share of them."""
    counts = [max(1, round(share * len(order))) for share in shares]
    return [float(study.errors(run, alone(features, mean, order[:count])).mean()) for count in counts]


def curves_figure(
    study: Study, ranked: dict[str, Tensor], kept: dict[str, dict[str, list[float]]], shares: list[float]
) -> Figure:
    """Importance by rank, and the error when few channels are kept."""
    figure, (ranks, errors) = new_figure(12, 4.5, columns=2)
    for title, rises in ranked.items():
        colour = layer_colour(study.runs[title].layer)
        ranks.plot(range(1, len(rises) + 1), rises, color=colour, label=title)
        for name, style in ORDERS.items():
            errors.plot(shares, kept[title][name], style, color=colour, marker=".")
    ranks.set(
        title="Importance of single channels",
        xlabel="rank of the channel",
        ylabel="rise of the MSE when ablated",
        xscale="log",
    )
    ranks.axhline(0, color="0.7", linewidth=1)
    errors.set(
        title="Few channels kept, the others at their mean", xlabel="share of the channels kept", ylabel="MSE", xscale="log"
    )
    errors.set_xticks(shares, [f"{share:.0%}" for share in shares])
    errors.set_xticks([], minor=True)
    ranks.legend(frameon=False)
    for name, style in ORDERS.items():
        errors.plot([], [], style, color="0.3", label=name)
    errors.legend(frameon=False)
    return figure


def channels(cfg: DictConfig, folder: Path) -> None:
    """Writes `channels.png` (the strongest channels), `channels_patches.png`, `channels_importance.png` and a table.

    Raises:
        InputError: shares, numbers or an image that can't be.
    """
    study = Study(cfg)
    there = study.on("test")
    for name, least, most in (
        ("patches", 1, len(study.files)),
        ("candidates", 1, None),
        ("image", 0, len(study.datamodule.split.files(study.part)) - 1),
        ("shown", 1, 50),
    ):
        if cfg[name] < least or (most is not None and cfg[name] > most):
            raise InputError(f"{name}={cfg[name]} must be at least {least}{'' if most is None else f' and at most {most}'}.")
    if not all(0 < share <= 1 for share in cfg.kept):
        raise InputError(f"kept={list(cfg.kept)} must hold shares above 0, and up to 1.")
    rows: list[dict[str, object]] = []
    strongest, patches, findings = [], [], []
    ranked: dict[str, Tensor] = {}
    kept: dict[str, dict[str, list[float]]] = {}
    for title, run in study.runs.items():
        features = study.features(run)
        mean = features.mean(0)
        spread = variances(features, mean)
        candidates = spread.argsort(descending=True)[: cfg.candidates]
        found = importance(study, run, features, mean, candidates)
        rises = torch.full_like(spread, float(found.clamp(max=0).min()) - 1).index_copy(
            0, candidates, found
        )  # the others last
        order = rises.argsort(descending=True)
        orders = {"by importance": order, "by variance": spread.argsort(descending=True)}
        orders["at random"] = torch.randperm(len(order), generator=torch.Generator().manual_seed(cfg.seed))
        of_test = there.features(run)
        kept[title] = {name: keeping(there, run, of_test, mean, one, list(cfg.kept)) for name, one in orders.items()}
        ranked[title] = rises[order][: len(candidates)]
        rows += [{"run": title, "channel": int(c), "rise": float(rises[c]), "variance": float(spread[c])} for c in candidates]
        rows += [
            {"run": title, "order": name, "kept": share, "mse": error}
            for name, errors in kept[title].items()
            for share, error in zip(cfg.kept, errors, strict=True)
        ]
        best = order[: cfg.shown]
        pictures = torch.stack(
            [exciting_patches(run.encoder, study.images, features, int(c), cfg.patches) for c in best], dim=1
        )
        columns = {f"patch {i + 1}": pictures[i] for i in range(cfg.patches)}
        labels = [f"channel {int(c)}" for c in best]
        patches.append(
            samples_figure(columns, rows=labels, tile=128, title=f"{title}: what excites the most important channels")
        )
        strongest.append(strongest_figure(study, run, title, mean, cfg))
        total = ranked[title].clamp_min(0)
        half = int((total.cumsum(0) < total.sum() / 2).sum()) + 1
        harmful = candidates[found < 0]
        before, after = (float(there.errors(run, held(of_test, mean, some)).mean()) for some in (harmful[:0], harmful))
        rows.append({"run": title, "order": "without the harmful", "kept": 1 - len(harmful) / len(order), "mse": after})
        findings.append(
            f"{title}: {half} of {len(order)} channels make half of all importance; without the {len(harmful)} whose ablation "
            f"lowered the error on {study.part}, the test error is {after / before:.3f} times what it was."
        )
    publish(folder, f"{cfg.name}_patches", stacked(patches), rows, [])
    publish(folder, f"{cfg.name}_importance", curves_figure(study, ranked, kept, list(cfg.kept)), rows, [])
    publish(folder, cfg.name, stacked(strongest), rows, findings)


if __name__ == "__main__":
    command_line.run(channels, "channels")
