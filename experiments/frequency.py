"""What is lost, by frequency and by colour?

python experiments/frequency.py runs=outputs/<sweep>

Per layer, the share of the images' power that the reconstructions hold, R2(f) = 1 - sum |X - X'|^2 / sum |X|^2 over images,
colours and the band of spatial frequencies around f, with the training images' mean taken off both; at the images' native
size, since what the encoder is given beyond that is interpolated. The error's share of the variance of luminance and of
chrominance. And whether the reconstructions' spectrum has peaks, as a checkerboard gives it.
"""

from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from inversion.core import pixels
from inversion.launch import command_line
from inversion.studies.shared import Study, layer_colour, new_figure, publish

LUMINANCE = torch.tensor([0.299, 0.587, 0.114])
"""Of red, green and blue (ITU-R BT.601)."""
PATTERNED = 100
"""Images whose reconstructions, at 227 x 227, are searched for a pattern that repeats."""


def r2_by_frequency(truth: Tensor, reconstructions: Tensor, mean: Tensor) -> Tensor:
    """R2 of each band of spatial frequencies. 1 is all, 0 is as good as the mean image, and it can be less.

    A reconstruction whose frequencies are the image's times H (a blur) has 1 - (1 - H)^2. Images don't go on beyond their
    borders as a Fourier transform has it, so a few hundredths of each band are in truth low frequencies.

    Args:
        truth, reconstructions: (N, 3, n, n), any scale.
        mean: (3, n, n), taken off both.

    Returns:
        (n // 2 + 1,): bands of 0, 1, ... n/2 cycles an image, each as wide as one.
    """
    n = truth.shape[-1]
    frequencies = torch.fft.fftfreq(n, 1 / n)
    radius = (frequencies[:, None].square() + frequencies[None].square()).sqrt().round().long().flatten()
    power, error = (
        torch.zeros(int(radius.max()) + 1, dtype=torch.float64).index_add_(
            0, radius, torch.fft.fft2(images.double()).abs().square().sum(dim=(0, 1)).flatten()
        )
        for images in (truth - mean, truth - reconstructions)
    )
    return (1 - error / power)[: n // 2 + 1]


def unexplained_by_colour(truth: Tensor, reconstructions: Tensor, mean: Tensor) -> dict[str, float]:
    """The error's share of the variance around the mean image, of luminance and of chrominance (what is left of the colours
    once luminance is taken off each).

    Args:
        truth, reconstructions: (N, 3, n, n), any scale.
        mean: (3, n, n).
    """

    def energy(images: Tensor) -> tuple[float, float]:
        light = (images.double() * LUMINANCE.double()[:, None, None]).sum(1, keepdim=True)
        return float(light.square().sum()), float((images.double() - light).square().sum())

    errors, variances = energy(truth - reconstructions), energy(truth - mean)
    return {name: e / v for name, e, v in zip(("luminance", "chrominance"), errors, variances, strict=True)}


def spectrum(images: Tensor) -> Tensor:
    """Mean power by cycles an image along rows and columns, over images and colours: (N, 3, n, n) -> (n // 2 + 1,)."""
    window = torch.hann_window(images.shape[-1], periodic=False, dtype=torch.float64)
    powers = []
    for directed in (images, images.mT):
        centred = directed.double() - directed.double().mean(dim=-1, keepdim=True)
        powers.append(torch.fft.rfft(centred * window).abs().square().mean(dim=(0, 1, 2)))
    return torch.stack(powers).mean(0)


def largest_peak(power: Tensor) -> tuple[float, int]:
    """How far the spectrum rises anywhere over its neighbours on both sides (the geometric mean of what lies 2 and 3 cycles
    lower, and of what lies 2 and 3 higher, whichever is more), and at how many cycles an image: a pattern that repeats, such
    as a checkerboard from up-sampling, stands out as a narrow peak. Up to about 1.2 where there is none. Frequencies with less
    than a millionth of the power are left out.
    """
    places = range(6, len(power) - 3)
    logs = power.clamp_min(1e-300).log()
    seen = [f for f in places if power[f] > 1e-6 * power.sum()]
    rises = {f: float((logs[f] - torch.max(logs[[f - 3, f - 2]].mean(), logs[[f + 2, f + 3]].mean())).exp()) for f in seen}
    place = max(rises, key=lambda f: rises[f], default=0)
    return rises.get(place, 1.0), place


def frequency(cfg: DictConfig, folder: Path) -> None:
    """Writes `frequency.png` and `frequency.csv` into the folder."""
    study = Study(cfg)
    truth, mean = study.truth(), study.mean_image()
    _, inputs = study.samples(PATTERNED)
    figure, (by_frequency, by_colour) = new_figure(12, 4.5, columns=2)
    rows: list[dict[str, object]] = []
    findings = []
    for i, (title, run) in enumerate(study.runs.items()):
        shown = study.native_reconstructions(run)
        r2 = r2_by_frequency(truth, shown, mean)
        colour = unexplained_by_colour(truth, shown, mean)
        by_frequency.plot(np.arange(1, len(r2)), r2[1:], color=layer_colour(run.layer), label=title, linewidth=2)
        by_colour.bar([i - 0.2, i + 0.2], list(colour.values()), width=0.38, color=["0.35", "tab:orange"])
        rows += [{"run": title, "what": "R2", "cycles_per_image": f, "value": float(value)} for f, value in enumerate(r2)]
        rows += [{"run": title, "what": f"unexplained {name}", "value": value} for name, value in colour.items()]
        rise, place = largest_peak(spectrum(pixels.denormalize(run.reconstruct(inputs))))
        rows.append({"run": title, "what": "largest peak", "cycles_per_image": place, "value": rise})
        half = next((f for f in range(1, len(r2)) if r2[f] < 0.5), None)
        where = "at every frequency" if half is None else "at none" if half == 1 else f"up to {half - 1} cycles an image"
        findings.append(
            f"{title} holds at least half of the power {where}; it misses {colour['luminance']:.1%} of luminance's variance "
            f"and {colour['chrominance']:.1%} of chrominance's. The largest peak of its mean spectrum is {rise:.2f} "
            f"times its neighbours, at {place} cycles an image."
        )
    by_frequency.set(
        title="What comes back, by frequency", xlabel="spatial frequency (cycles per image)", ylabel="R² of the band"
    )
    by_frequency.set(xscale="log", ylim=(min(0.0, by_frequency.get_ylim()[0]), 1.0))
    ticks = [f for f in (1, 2, 4, 8, 16, 32, 64) if f <= study.native_size // 2]
    by_frequency.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    by_frequency.set_xticks([], minor=True)
    by_frequency.axhline(0, color="0.7", linewidth=1)
    by_frequency.legend(frameon=False)
    by_colour.set(title="What is missing, by colour", ylabel="error / variance")
    by_colour.set_xticks(range(len(study.runs)), list(study.runs))
    for name, shade in (("luminance", "0.35"), ("chrominance", "tab:orange")):
        by_colour.bar([0], [0], color=shade, label=name)
    by_colour.legend(frameon=False)
    publish(folder, cfg.name, figure, rows, findings)


if __name__ == "__main__":
    command_line.run(frequency, "frequency")
