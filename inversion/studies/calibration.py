"""Whether samples may be believed: what must hold if truth and samples come from one distribution.

`truth` is (N, D) and `samples` (N, K, D): N images of D numbers each, pixels or coefficients, and K samples of each.
"""

import torch
from torch import Tensor


def errors(truth: Tensor, samples: Tensor) -> tuple[float, float, float]:
    """Mean squared errors per number: of one sample, twice the next if samples are exact; of the mean of infinitely many,
    which is that of the mean of K less the K-th part of the spread; and the spread, the variance between an image's samples,
    equal to the second if they are exact. Raises ValueError for fewer than two samples.
    """
    number = samples.shape[1]
    if number < 2:
        raise ValueError("the spread needs two samples")
    spread = float(samples.var(1).mean())
    of_mean = float((samples.mean(1) - truth).square().mean())
    return float((samples - truth[:, None]).square().mean()), of_mean - spread / number, spread


def rank_histogram(truth: Tensor, samples: Tensor) -> Tensor:
    """How often 0, 1, ... K samples lie below the true number, as shares: (K + 1,), flat if samples are exact; a dome if they
    spread too far, a bowl if not far enough (Hamill 2001, doi 10.1175/1520-0493(2001)129<0550:IORHFV>2.0.CO;2).
    """
    ranks = (samples < truth[:, None]).sum(1)
    return torch.bincount(ranks.flatten(), minlength=samples.shape[1] + 1) / ranks.numel()


def coverage(histogram: Tensor, share: float) -> float:
    """How often the truth lies in the central interval which should hold it with probability `share`, by the rank histogram,
    whose outer bins count in part.
    """
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


def mean_reciprocal_rank(found: Tensor, wanted: Tensor) -> Tensor:
    """Of each of N features (N, D) among which the wanted ones (N, D) are ordered by distance, one over the place of its own:
    (N,).
    """
    distances = torch.cdist(found.float(), wanted.float())
    return 1 / (distances <= distances.diagonal()[:, None]).sum(1)


def bootstrap(values: Tensor, number: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean of these values, (N,), by drawing them anew."""
    chosen = torch.randint(len(values), (number, len(values)), generator=torch.Generator().manual_seed(seed))
    low, high = values.double()[chosen].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(low), float(high)
