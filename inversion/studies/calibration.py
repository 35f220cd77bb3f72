"""Whether samples may be believed: what must hold if truth and samples come from one distribution.

`truth` is (N, D) and `samples` (N, K, D): N images of D numbers each, pixels or coefficients, and K samples of each.
"""

import torch
from torch import Tensor


def errors(truth: Tensor, samples: Tensor) -> tuple[float, float, float]:
    """Three mean squares per number: the error of one sample; the error of the mean of infinitely many, estimated as that of
    the mean of the K >= 2 less the K-th part of the spread; and the spread, the variance between an image's samples. If
    samples are exact, the first is twice the second, and the third equals it.
    """
    spread = float(samples.var(1).mean())
    of_mean = float((samples.mean(1) - truth).square().mean())
    return float((samples - truth[:, None]).square().mean()), of_mean - spread / samples.shape[1], spread


def rank_histogram(truth: Tensor, samples: Tensor) -> Tensor:
    """How often 0, 1, ... K samples lie below the true number, as shares: (K + 1,), flat if samples are exact; a dome if they
    spread too far, a bowl if not far enough (Hamill 2001, doi 10.1175/1520-0493(2001)129<0550:IORHFV>2.0.CO;2). Where
    some equal it, as where an image is white or black, all ranks that it may have there count alike.
    """
    lowest, highest = ((samples < truth[:, None]).sum(1).flatten(), (samples <= truth[:, None]).sum(1).flatten())
    weight, bins = 1 / (highest - lowest + 1).double(), samples.shape[1] + 2
    change = torch.bincount(lowest, weight, bins) - torch.bincount(highest + 1, weight, bins)
    return change.cumsum(0)[:-1] / len(weight)


def coverage(histogram: Tensor, share: float) -> float:
    """How often the truth lies in the central interval of probability `share`; outer bins count in part."""
    edges = torch.linspace(0, 1, len(histogram) + 1, dtype=torch.float64)
    inside = edges.clamp((1 - share) / 2, (1 + share) / 2).diff() * len(histogram)
    return float((histogram * inside).sum())


def fair_crps(truth: Tensor, samples: Tensor) -> float:
    """The continuous ranked probability score, mean |s - x| - mean |s - s'| / 2 over pairs of different samples: least in
    expectation for exact samples, however many (Ferro 2014, doi 10.1002/qj.2270).
    """
    number = samples.shape[1]
    weights = 2 * torch.arange(1, number + 1) - number - 1  # sum over pairs of |s - s'| by sorting
    pairs = (samples.sort(1).values * weights[:, None]).sum(1) / (number * (number - 1))
    return float((samples - truth[:, None]).abs().mean() - pairs.mean())


def reciprocal_ranks(found: Tensor, wanted: Tensor) -> Tensor:
    """One over the place of each feature's own among those wanted, by distance: (N, D) twice -> (N,)."""
    distances = torch.cdist(found.float(), wanted.float())
    return 1 / (distances <= distances.diagonal()[:, None]).sum(1)


def bootstrap(values: Tensor, number: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean of these values, (N,), by drawing them anew."""
    chosen = torch.randint(len(values), (number, len(values)), generator=torch.Generator().manual_seed(seed))
    low, high = values.double()[chosen].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(low), float(high)
