"""Do position and colour come back? A shifted image should come back shifted, a recoloured one recoloured.

python experiments/position_colour.py runs=outputs/<sweep>

Images are shifted (their borders continued), their hues turned, and their colour taken away; each is encoded and decoded, and
the reconstruction's own shift and turn are estimated beside the reconstruction of the image as it was. The same estimates are
made on the images themselves ("Original"): what they miss, the estimator misses.
"""

import math
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.functional import pad

from inversion.core import pixels
from inversion.core.drawing import samples_figure
from inversion.core.errors import InputError
from inversion.data.datamodule import to_input
from inversion.launch import command_line
from inversion.results.trained import TrainedRun
from inversion.studies.shared import BATCH, Study, layer_colour, new_figure, publish

MOST = 48
"""The largest shift that is looked for, in pixels of the 227."""
YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
"""Red, green and blue to luminance and two axes of colour (NTSC)."""


def shifted(images: Tensor, right: int, down: int) -> Tensor:
    """Images (N, 3, S, S) moved by whole pixels; what is uncovered continues the border."""
    x, y = abs(right), abs(down)
    wide = pad(images, (x, x, y, y), mode="replicate")
    size = images.shape[-1]
    return wide[..., y - down : y - down + size, x - right : x - right + size]


def estimated_shift(before: Tensor, after: Tensor, dim: int, most: int = MOST) -> Tensor:
    """How far `after` lies shifted beside `before` along a dimension (-1: to the right, -2: down): the shift of at most `most`
    pixels whose mean squared difference, over the middle that is always covered, is least.

    Args:
        before, after: (N, 3, S, S), any range.

    Returns:
        (N,), whole pixels.
    """
    size = before.shape[-1]
    shifts = sorted(range(-most, most + 1), key=abs)  # of equals the smallest
    middle = after.narrow(dim, most, size - 2 * most)
    distances = [(before.narrow(dim, most - s, size - 2 * most) - middle).square().mean(dim=(1, 2, 3)) for s in shifts]
    return torch.tensor(shifts)[torch.stack(distances).argmin(0)]


def turned(images: Tensor, degrees: float) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] with all hues turned by an angle in YIQ's plane of colour, at the same luminance; what
    leaves [0, 1] is clamped.
    """
    angle = math.radians(degrees)
    turn = torch.eye(3)
    turn[1:, 1:] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return torch.einsum("ij,njhw->nihw", YIQ.inverse() @ turn @ YIQ, images).clamp(0, 1)


def grey(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) without colour, at the same luminance."""
    return torch.einsum("j,njhw->nhw", YIQ[0], images)[:, None].expand_as(images)


def chroma(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) -> each pixel's place in the plane of colour, complex (N, H, W); its angle is the hue."""
    plane = torch.einsum("ij,njhw->nihw", YIQ[1:], images)
    return torch.complex(plane[:, 0], plane[:, 1])


def estimated_turn(before: Tensor, after: Tensor) -> Tensor:
    """The one angle by which all of an image's hues were turned, weighted by how colourful they are: (N,), degrees."""
    return (chroma(before).conj() * chroma(after)).sum(dim=(1, 2)).angle().rad2deg()


def circular_error(estimate: Tensor, truth: float) -> Tensor:
    """Angles' distance from the true one, in [0, 180] degrees."""
    return ((estimate - truth + 180) % 360 - 180).abs()


def reconstructions(run: TrainedRun | None, images: Tensor) -> Tensor:
    """Images (N, 3, 227, 227) in [0, 1] -> what the run gives back, same shape and range; without a run, the images."""
    if run is None:
        return images
    return torch.cat([pixels.denormalize(run.reconstruct(chunk * 2 - 1)) for chunk in images.split(BATCH)])


def measures(cfg: DictConfig, run: TrainedRun | None, images: Tensor) -> list[dict[str, Any]]:
    """A row for every shift, every turn and the grey version: what was estimated, beside what was done.

    `spread` is the images' standard deviation, `error` the mean absolute one: pixels for shifts, degrees for turns. `grey`
    estimates the colour that is left, root mean square, as a share of the reconstruction's when nothing was taken away.
    """
    before = reconstructions(run, images)
    rows: list[dict[str, Any]] = []
    for shift in cfg.shifts:
        found = torch.cat(
            [
                estimated_shift(before, reconstructions(run, shifted(images, *by)), dim)
                for by, dim in (((shift, 0), -1), ((0, shift), -2))
            ]
        ).float()
        error = float((found - shift).abs().mean())
        spread = float(found.std(correction=0))
        rows.append({"what": "shift", "done": shift, "estimate": float(found.mean()), "spread": spread, "error": error})
    for turn in cfg.turns:
        found = estimated_turn(before, reconstructions(run, turned(images, turn)))
        offset = (found - turn + 180) % 360 - 180  # so that the mean isn't torn apart at 180 degrees
        error, spread = float(circular_error(found, turn).mean()), float(offset.std(correction=0))
        rows.append({"what": "turn", "done": turn, "estimate": turn + float(offset.mean()), "spread": spread, "error": error})
    left = chroma(reconstructions(run, grey(images))).abs().square().mean(dim=(1, 2))
    whole = chroma(before).abs().square().mean(dim=(1, 2))
    share = (left / whole.clamp_min(1e-9)).sqrt()
    spread = float(share.std(correction=0))
    rows.append({"what": "grey", "done": 0, "estimate": float(share.mean()), "spread": spread, "error": float(share.mean())})
    return rows


def measures_figure(study: Study, rows: list[dict[str, Any]]) -> Figure:
    """Estimated against true shift and turn, and the colour that grey images come back with."""
    figure, (shifts, turns, greys) = new_figure(15, 4.5, columns=3)
    titles = ["Original", *study.runs]
    for i, title in enumerate(titles):
        colour = "0.5" if title == "Original" else layer_colour(study.runs[title].layer)
        style = {"color": colour, "label": title, "marker": "o", "linestyle": "--" if title == "Original" else "-"}
        for plot, what, apart in ((shifts, "shift", 0.8), (turns, "turn", 4.0)):
            own = sorted((row for row in rows if row["run"] == title and row["what"] == what), key=lambda row: row["done"])  # type: ignore
            places = [r["done"] + (i - (len(titles) - 1) / 2) * apart for r in own]  # beside one another, to be told apart
            plot.errorbar(places, [r["estimate"] for r in own], [r["spread"] for r in own], capsize=3, **style)
        (left,) = (row for row in rows if row["run"] == title and row["what"] == "grey")
        greys.bar(i, left["estimate"], yerr=left["spread"], color=colour, capsize=3)
    shifts.set(
        title="Shifted images: mean and deviation",
        xlabel="shift of the image (pixels of 227)",
        ylabel="shift of the reconstruction (pixels)",
    )
    turns.set(
        title="Turned hues: mean and deviation",
        xlabel="turn of the image's hues (degrees)",
        ylabel="turn of the reconstruction's (degrees)",
    )
    greys.set(
        title="Grey images: mean and deviation", ylabel="colour of the reconstruction,\nas a share of that with colours on"
    )
    greys.set_xticks(range(len(titles)), titles)
    shifts.legend(frameon=False)
    return figure


def position_colour(cfg: DictConfig, folder: Path) -> None:
    """Writes `position_colour.png` (pictures), `position_colour_measures.png` and their tables into the folder.

    Raises:
        InputError: a shift is too large to be looked for.
    """
    too_large = [shift for shift in [*cfg.shifts, cfg.shown_shift] if abs(shift) > MOST]
    if too_large:
        raise InputError(f"A shift by {too_large[0]} pixels can't be estimated: at most {MOST} of the 227 are looked for.")
    study = Study(cfg)
    images = pixels.denormalize(to_input(study.images))
    rows: list[dict[str, Any]] = []
    findings = []
    for title, run in [("Original", None), *study.runs.items()]:
        own = measures(cfg, run, images)
        rows += [{"run": title, **row} for row in own]
        shift, turn, left = (
            torch.tensor([float(row["error"]) for row in own if row["what"] == what]).mean()  # type: ignore[arg-type]
            for what in ("shift", "turn", "grey")
        )
        findings.append(
            f"{title}: shifts come back with a mean error of {shift:.1f} pixels, hue turns with one of {turn:.0f} degrees; "
            f"grey images keep {left:.0%} of the colour."
        )
    _, inputs = study.samples(cfg.shown)
    shown = pixels.denormalize(inputs)
    versions = {
        "as it is": shown,
        f"{cfg.shown_shift} px right": shifted(shown, cfg.shown_shift, 0),
        f"hues {cfg.shown_turn}°": turned(shown, cfg.shown_turn),
        "grey": grey(shown),
    }
    inputs = torch.stack(list(versions.values()), dim=1).flatten(0, 1)
    columns = {"Original": pixels.to_uint8(inputs)}
    columns |= {title: pixels.to_uint8(reconstructions(run, inputs)) for title, run in study.runs.items()}
    publish(folder, f"{cfg.name}_measures", measures_figure(study, rows), rows, [])
    publish(folder, cfg.name, samples_figure(columns, rows=list(versions) * len(shown), tile=128), rows, findings)


if __name__ == "__main__":
    command_line.run(position_colour, "position_colour")
