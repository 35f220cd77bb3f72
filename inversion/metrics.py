"""How far a reconstruction is from its image. All on the [0, 1] scale, of clamped reconstructions."""

import math

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MeanSquaredError, Metric, MetricCollection
from torchmetrics.functional.image import peak_signal_noise_ratio
from torchmetrics.image import StructuralSimilarityIndexMeasure

from inversion import pixels

MAX_PSNR = 100.0
"""dB; what an exact reconstruction is given in place of infinity."""


class MeanPSNR(Metric):
    """The mean of the images' own PSNRs, in dB, each at most `MAX_PSNR`.

    It is higher than the PSNR of the pooled error wherever images differ in difficulty.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Both (B, 3, H, W) in [0, 1]."""
        values = peak_signal_noise_ratio(prediction, target, data_range=1.0, dim=(1, 2, 3), reduction="none")
        self.total += values.clamp(max=MAX_PSNR).sum()
        self.count += len(values)

    def compute(self) -> Tensor:
        return self.total / self.count


def quick_metrics(prefix: str) -> MetricCollection:
    """MSE and mean PSNR of (prediction, target), both (B, 3, H, W) in [0, 1]: cheap enough for every epoch."""
    return MetricCollection({"mse": MeanSquaredError(), "psnr": MeanPSNR()}, prefix=prefix)


class FinalMetrics(nn.Module):
    """Everything that is reported of a split.

    `mse`, `psnr` and `ssim` at the input's size; `normalized_error`, the paper's, the mean of ||x - x'|| over the mean
    distance between two different images of the split (about 1/sqrt(2) for always giving the mean image); `mse_<n>` and
    `ssim_<n>` at the native n x n, since the input's interpolated pixels flatter every score.

    Args:
        native_size: n.
        mean_distance: see `mean_pairwise_distance`.
    """

    def __init__(self, native_size: int, mean_distance: float) -> None:
        super().__init__()
        self.native_size = native_size
        self.mean_distance = mean_distance
        self.at_input = quick_metrics("")
        self.at_input.add_metrics({"ssim": StructuralSimilarityIndexMeasure(data_range=1.0)})
        self.distance = MeanMetric()
        self.at_native = MetricCollection(
            {"mse": MeanSquaredError(), "ssim": StructuralSimilarityIndexMeasure(data_range=1.0)}, postfix=f"_{native_size}"
        )

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Both (B, 3, 227, 227) around [-1, 1]."""
        shown, truth = pixels.denormalize(prediction), pixels.denormalize(target)
        with torch.autocast(shown.device.type, enabled=False):  # scores stay in float32 in mixed precision too
            self.at_input.update(shown, truth)
            self.distance.update((shown - truth).flatten(1).norm(dim=1))
            native = [pixels.to_native(images, self.native_size).clamp(0, 1) for images in (shown, truth)]
            self.at_native.update(*native)

    def compute(self) -> dict[str, float]:
        """The numbers by name."""
        values = {**self.at_input.compute(), **self.at_native.compute()}
        result = {name: float(value) for name, value in values.items()}
        error = float(self.distance.compute())
        result["normalized_error"] = error / self.mean_distance if self.mean_distance else math.nan
        return result


def mean_pairwise_distance(native: Tensor, most: int = 2000) -> float:
    """Mean Euclidean distance, at the input's size and on the [0, 1] scale, between two different images of a set.

    `resize` is linear, y = U x U^T, so with U^T U = L L^T the distances between the images y are those between the small
    L^T x L: no large image is made.

    Args:
        native: (N, 3, n, n), uint8.
        most: of more images, this many, evenly spread, are compared.
    """
    native = native[torch.linspace(0, len(native) - 1, min(most, len(native))).round().long()]
    if len(native) < 2:
        return 0.0
    matrix = pixels.resize_matrix(native.shape[-1], pixels.INPUT_SIZE)
    factor = torch.linalg.cholesky(matrix.T @ matrix).float()
    images = pixels.denormalize(pixels.normalize(native))
    points = (factor.T @ images @ factor).flatten(1)
    return float(torch.pdist(points).double().mean())
