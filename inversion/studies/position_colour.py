"""Do position and colour come back? A shifted image should come back shifted, a recoloured one recoloured.

Images are shifted (their borders continued), their hues rotated, and their colour removed; each is encoded and decoded, and
the shift and rotation of its reconstruction are estimated, relative to the unchanged image's reconstruction. The same
estimates are made on the images themselves ("Original"): their errors are the estimator's own.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.decoders.base import check_numbers
from inversion.results.trained import TrainedRun
from inversion.studies.result import Result, columns_figure, layer_colour, new_figure
from inversion.studies.subject import BATCH, Subject, check_range

MOST = 48  # the largest shift that is searched for, in pixels of the 227
YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
"""Red, green and blue to luminance and two axes of colour (NTSC)."""


def shifted(images: Tensor, right: int, down: int) -> Tensor:
    """Images (N, 3, S, S) moved by whole pixels; the border is continued into what is uncovered."""
    places = torch.arange(images.shape[-1])
    rows, columns = ((places - shift).clamp(0, len(places) - 1) for shift in (down, right))
    return images[..., rows[:, None], columns]


def estimated_shift(before: Tensor, after: Tensor, dim: int) -> Tensor:
    """The shift (N,) along `dim`, at most MOST, with the least MSE over the middle, which is always covered: (N, 3, S, S)."""
    shifts = sorted(range(-MOST, MOST + 1), key=abs)  # of equals the smallest
    size = before.shape[-1] - 2 * MOST
    middle = after.narrow(dim, MOST, size)
    distances = [(before.narrow(dim, MOST - s, size) - middle).square().mean(dim=(1, 2, 3)) for s in shifts]
    return torch.tensor(shifts)[torch.stack(distances).argmin(0)]


def rotated(images: Tensor, degrees: float) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] with all hues rotated in YIQ's plane of colour, clamped to [0, 1]."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rotation = torch.tensor([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    return torch.einsum("ij,njhw->nihw", YIQ.inverse() @ rotation @ YIQ, images).clamp(0, 1)


def grey(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) without colour, at the same luminance."""
    return torch.einsum("j,njhw->nhw", YIQ[0], images)[:, None].expand_as(images)


def chroma(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) -> each pixel's point in the plane of colour, complex (N, H, W); its angle is the hue."""
    return torch.complex(*torch.einsum("ij,njhw->inhw", YIQ[1:], images))


def estimated_rotation(before: Tensor, after: Tensor) -> Tensor:
    """The one angle by which all of an image's hues were rotated, weighted by how colourful they are: (N,), degrees."""
    return (chroma(before).conj() * chroma(after)).sum(dim=(1, 2)).angle().rad2deg()


def circular_difference(estimate: Tensor, truth: float) -> Tensor:
    """Angles minus the true one, in [-180, 180) degrees."""
    return (estimate - truth + 180) % 360 - 180


def reconstructed(run: TrainedRun, images: Tensor) -> Tensor:
    """The run's reconstructions of images (N, 3, 227, 227) in [0, 1], same shape and range."""
    return torch.cat([pixels.denormalize(run.reconstruct(batch * 2 - 1)) for batch in images.split(BATCH)])


def measures(
    reconstruct: Callable[[Tensor], Tensor], images: Tensor, shifts: Sequence[int], turns: Sequence[float]
) -> list[dict[str, Any]]:
    """A row for every shift (pixels), every rotation of hues (degrees; images count as they are colourful), and the grey one:
    the colour that remains in it, as root mean squares, relative to the unchanged images' reconstructions.
    """

    def row(what: str, done: float, offset: Tensor, weight: Tensor) -> dict[str, Any]:
        share = weight / weight.sum().clamp_min(1e-9)
        bias, error = float(offset @ share), float(offset.abs() @ share)
        spread = float((offset - bias).square() @ share) ** 0.5
        return {"what": what, "done": done, "estimate": done + bias, "spread": spread, "error": error}

    before = reconstruct(images)
    colourful = chroma(images).abs().square().mean(dim=(1, 2)).sqrt()
    rows = []
    for shift in shifts:
        right = estimated_shift(before, reconstruct(shifted(images, shift, 0)), dim=-1)
        down = estimated_shift(before, reconstruct(shifted(images, 0, shift)), dim=-2)
        offset = torch.cat([right, down]).float() - shift
        rows.append(row("shift", shift, offset, torch.ones_like(offset)))
    for turn in turns:
        found = estimated_rotation(before, reconstruct(rotated(images, turn)))
        rows.append(row("turn", turn, circular_difference(found, turn), colourful))
    left, whole = (chroma(some).abs().square().sum() for some in (reconstruct(grey(images)), before))
    return [*rows, row("grey", 0, (left / whole.clamp_min(1e-9)).sqrt()[None], torch.ones(1))]


def measures_figure(subject: Subject, rows: list[dict[str, Any]]) -> Figure:
    """Estimated against true shift and turn, and the colour in grey images' reconstructions."""
    figure, (shifts, turns, greys) = new_figure(15, 4.5, columns=3)
    titles = ["Original", *subject.runs]
    for i, title in enumerate(titles):
        run = subject.runs.get(title)
        colour, line = (layer_colour(run.layer), "o-") if run else ("0.5", "o--")
        own = [row for row in rows if row["run"] == title]
        for plot, what, apart in ((shifts, "shift", 0.8), (turns, "turn", 4.0)):
            some = sorted((row for row in own if row["what"] == what), key=lambda row: row["done"])
            places = [row["done"] + (i - (len(titles) - 1) / 2) * apart for row in some]  # side by side, to be told apart
            estimates, spreads = [row["estimate"] for row in some], [row["spread"] for row in some]
            plot.errorbar(places, estimates, spreads, fmt=line, color=colour, label=title, capsize=3)
        greys.bar(i, own[-1]["estimate"], color=colour)
    shifts.set(title="Shifts in pixels of 227: mean and deviation", xlabel="of the image", ylabel="of the reconstruction")
    turns.set(title="Rotations of hues in degrees", xlabel="of the image", ylabel="of the reconstruction")
    greys.set(title="Colour left in grey images' reconstructions", ylabel="relative to the coloured images'")
    greys.set_xticks(range(len(titles)), titles)
    shifts.legend(frameon=False)
    return figure


def position_colour(
    subject: Subject, folder: Path, images: int, shifts: Sequence[int], turns: Sequence[float], shown: int
) -> Result:
    check_numbers("shifts", shifts, least=-MOST)
    check_range(-MOST, MOST, shifts=shifts)
    check_range(1, shown=shown)
    if not shifts or not turns:
        raise InputError("study.position_colour.shifts and study.position_colour.turns must each have a number, as in [16].")
    subject = subject.on(subject.part, min(images, len(subject.files)))
    unchanged, originals = (pixels.denormalize(some) for some in (pixels.to_input(subject.images), subject.examples(shown)))
    methods: dict[str, Callable[[Tensor], Tensor]] = {"Original": lambda images: images}
    methods |= {title: partial(reconstructed, run) for title, run in subject.runs.items()}
    rows, findings = [], []
    for title, method in methods.items():
        own = measures(method, unchanged, shifts, turns)
        rows += [{"run": title, **row} for row in own]
        shift, turn, left = (mean([row["error"] for row in own if row["what"] == what]) for what in ("shift", "turn", "grey"))
        findings.append(
            f"{title}: shifts come back with a mean error of {shift:.1f} pixels, rotated hues with one of {turn:.0f} degrees; "
            f"grey images come back with {left:.0%} of the colour."
        )
    versions = {"as it is": originals, "32 px right": shifted(originals, 32, 0)}
    versions |= {"hues 90°": rotated(originals, 90), "grey": grey(originals)}
    changed = torch.stack(list(versions.values()), dim=1).flatten(0, 1)
    columns = {title: pixels.to_uint8(method(changed)) for title, method in methods.items()}
    figure = columns_figure(columns, rows=list(versions) * len(originals))
    return Result({"samples": figure, "measures": measures_figure(subject, rows)}, rows, findings)
