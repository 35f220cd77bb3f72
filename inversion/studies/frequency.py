"""What is lost, by frequency and by colour?

The share of the images' power that comes back, R2(f) = 1 - sum |X - X'|^2 / sum |X|^2 over images, colours and the band of
spatial frequencies around f, with the training images' mean subtracted from both; at the native size, since what the encoder
sees beyond that is interpolated. The error's share of the variance of luminance and of chrominance. And whether the
reconstructions' spectrum has peaks, as checkerboards cause them.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inversion.core import pixels
from inversion.studies.result import Result, layer_colour, new_figure
from inversion.studies.subject import Subject

LUMINANCE = torch.tensor([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)
SHADES = {"luminance": "0.35", "chrominance": "tab:orange"}  # of the bars


def r2_by_frequency(truth: Tensor, reconstructions: Tensor, mean: Tensor) -> Tensor:
    """R2 of the bands of 0, 1, ... n/2 cycles per image, (n // 2 + 1,): 1 is perfect, 0 as good as the mean image, (3, n, n);
    it can be negative. Of (N, 3, n, n) each, on any scale.

    A reconstruction whose frequencies are the image's times H (a blur) has 1 - (1 - H)^2. Images aren't periodic, so a few
    hundredths of each band leak into it from low frequencies.
    """
    n = truth.shape[-1]
    frequencies = torch.fft.fftfreq(n, 1 / n)
    radius = (frequencies[:, None].square() + frequencies[None].square()).sqrt().round().long().flatten()

    def by_band(images: Tensor) -> Tensor:
        return torch.bincount(radius, torch.fft.fft2(images.double()).abs().square().sum(dim=(0, 1)).flatten())

    return (1 - by_band(truth - reconstructions) / by_band(truth - mean))[: n // 2 + 1]


def unexplained_by_colour(truth: Tensor, reconstructions: Tensor, mean: Tensor) -> dict[str, float]:
    """The error's share of the variance around the mean image, of luminance and of each colour minus it: shapes as above."""

    def energy(images: Tensor) -> Tensor:
        light = (images.double() * LUMINANCE.double()[:, None, None]).sum(1, keepdim=True)
        return torch.stack([light.square().sum(), (images.double() - light).square().sum()])

    return dict(zip(SHADES, (energy(truth - reconstructions) / energy(truth - mean)).tolist(), strict=True))


def spectrum(images: Tensor) -> Tensor:
    """Mean power by cycles per image along rows and columns, over images and colours: (N, 3, n, n) -> (n // 2 + 1,)."""
    window = torch.hann_window(images.shape[-1], periodic=False, dtype=torch.float64)
    powers = []
    for directed in (images, images.mT):
        centred = directed.double() - directed.double().mean(dim=-1, keepdim=True)
        powers.append(torch.fft.rfft(centred * window).abs().square().mean(dim=(0, 1, 2)))
    return torch.stack(powers).mean(0)


def largest_peak(power: Tensor) -> tuple[float, int]:
    """The spectrum's largest ratio to its neighbours on both sides (the geometric mean of the powers 2 and 3 cycles below, and
    of those 2 and 3 above, whichever is more), and at how many cycles per image. A repeating pattern, such as a checkerboard
    from up-sampling, is a narrow peak; without one the ratio is at most about 1.2. Below a millionth of the power none counts.
    """
    logs = power.clamp_min(1e-300).log()
    places = [f for f in range(6, len(power) - 3) if power[f] > 1e-6 * power.sum()]
    ratios = {f: float((logs[f] - torch.max(logs[[f - 3, f - 2]].mean(), logs[[f + 2, f + 3]].mean())).exp()) for f in places}
    place = max(ratios, key=lambda f: ratios[f], default=0)
    return ratios.get(place, 1.0), place


def frequency(subject: Subject, folder: Path) -> Result:
    truth, mean, inputs = subject.truth(), subject.mean_image(), subject.examples(100)
    figure, (by_frequency, by_colour) = new_figure(12, 4.5, columns=2)
    rows: list[dict[str, object]] = []
    findings = []
    for i, (title, run) in enumerate(subject.runs.items()):
        reconstructions = subject.native_reconstructions(run)
        r2 = r2_by_frequency(truth, reconstructions, mean)
        colour = unexplained_by_colour(truth, reconstructions, mean)
        peak, place = largest_peak(spectrum(pixels.denormalize(run.reconstruct(inputs))))
        by_frequency.plot(np.arange(1, len(r2)), r2[1:], color=layer_colour(run.layer), label=title, linewidth=2)
        by_colour.bar([i - 0.2, i + 0.2], list(colour.values()), width=0.38, color=list(SHADES.values()))
        rows += [{"run": title, "what": "R2", "cycles_per_image": f, "value": float(value)} for f, value in enumerate(r2)]
        rows += [{"run": title, "what": f"unexplained {name}", "value": value} for name, value in colour.items()]
        rows.append({"run": title, "what": "largest peak", "cycles_per_image": place, "value": peak})
        half = next((f for f in range(1, len(r2)) if r2[f] < 0.5), len(r2)) - 1
        where = {0: "at no frequency", len(r2) - 1: "at every frequency"}.get(half, f"up to {half} cycles an image")
        findings.append(
            f"{title}: at least half of the power comes back {where}; the error is {colour['luminance']:.1%} of luminance's "
            f"variance and {colour['chrominance']:.1%} of chrominance's. The largest peak of the mean spectrum is {peak:.2f} "
            f"times its neighbours, at {place} cycles an image."
        )
    by_frequency.set(title="What comes back, by frequency", xlabel="spatial frequency (cycles per image)")
    by_frequency.set(ylabel="R² of the band", ylim=(min(0.0, by_frequency.get_ylim()[0]), 1.0))
    by_frequency.set_xscale("log", base=2)
    by_frequency.xaxis.set_major_formatter("{x:g}")
    by_frequency.axhline(0, color="0.7", linewidth=1)
    by_frequency.legend(frameon=False)
    by_colour.set(title="What is missing, by colour", ylabel="error / variance")
    by_colour.set_xticks(range(len(subject.runs)), list(subject.runs))
    for name, shade in SHADES.items():
        by_colour.bar([0], [0], color=shade, label=name)
    by_colour.legend(frameon=False)
    return Result({"spectra": figure}, rows, findings)
