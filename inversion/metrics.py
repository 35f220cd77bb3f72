"""How far a reconstruction is from its image. All on the [0, 1] scale, of clamped reconstructions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MeanSquaredError, MetricCollection
from torchmetrics.image import StructuralSimilarityIndexMeasure

from inversion import pixels

MAX_PSNR = 100.0
"""dB; what an exact reconstruction is given in place of infinity."""


class MeanPSNR(MeanMetric):
    """The mean of the images' own PSNRs, in dB, each at most `MAX_PSNR`.

    It is higher than the PSNR of the pooled error wherever images differ in difficulty.
    """

    def update(self, mse: Tensor) -> None:  # type: ignore[override]
        """Each image's mean squared error on the [0, 1] scale, (B,)."""
        super().update((-10 * mse.log10()).clamp(max=MAX_PSNR))


def quick_metrics(prefix: str) -> MetricCollection:
    """MSE and mean PSNR of what `mean_squared_errors` gives, (B,): cheap enough for every epoch."""
    return MetricCollection({"mse": MeanMetric(), "psnr": MeanPSNR()}, prefix=prefix, compute_groups=False)


def mean_squared_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Each image's mean squared error on the [0, 1] scale at the input's size, (B,).

    Args:
        prediction, target: (B, 3, s, s) and (B, 3, t, t) around [-1, 1]; either may be as yet unresized. What lies outside
            is clamped.
    """
    distance = pixels.squared_distance(prediction.float().clamp(-1, 1), target)
    return distance / (4 * target.shape[1] * pixels.INPUT_SIZE**2)


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
        self.quick = quick_metrics("")
        self.ssim = StructuralSimilarityIndexMeasure(data_range=1.0)
        self.distance = MeanMetric()
        self.at_native = MetricCollection(
            {"mse": MeanSquaredError(), "ssim": StructuralSimilarityIndexMeasure(data_range=1.0)}, postfix=f"_{native_size}"
        )

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Both (B, 3, 227, 227) around [-1, 1]."""
        shown, truth = pixels.denormalize(prediction), pixels.denormalize(target)
        with torch.autocast(shown.device.type, enabled=False):  # scores stay in float32 in mixed precision too
            errors = mean_squared_errors(prediction, target)
            self.quick.update(errors)
            self.distance.update((errors * target[0].numel()).sqrt())
            native = [pixels.to_native(images, self.native_size).clamp(0, 1) for images in (shown, truth)]
            for few in zip(*(_few(images) for images in (shown, truth)), strict=True):
                self.ssim.update(*few)
            self.at_native.update(*native)

    def compute(self) -> dict[str, float]:
        """The numbers by name."""
        values = {**self.quick.compute(), "ssim": self.ssim.compute(), **self.at_native.compute()}
        result = {name: float(value) for name, value in values.items()}
        error = float(self.distance.compute())
        result["normalized_error"] = error / self.mean_distance if self.mean_distance else math.nan
        return result


def _few(images: Tensor) -> Sequence[Tensor]:
    """In the layout and the portions that a CPU computes SSIM in five times as fast; the result is the same."""
    return images.contiguous(memory_format=torch.channels_last).split(8 if images.device.type == "cpu" else len(images))


def mean_pairwise_distance(native: Tensor, most: int = 2000) -> float:
    """Mean Euclidean distance, at the input's size and on the [0, 1] scale, between two different images of a set.

    `resize` is linear, y = U x U^T, so with U^T U = L L^T the distances between the images y are those between the small
    L^T x L: no large image is made.

    Args:
        native: (N, 3, n, n), uint8.
        most: of more images, this many, evenly spread, are compared.
    """
    native = native.cpu()[torch.linspace(0, len(native) - 1, min(most, len(native))).round().long()]
    if len(native) < 2:
        return 0.0
    matrix = pixels.resize_matrix(native.shape[-1], pixels.INPUT_SIZE)
    factor = torch.linalg.cholesky(matrix.T @ matrix).float()
    images = pixels.denormalize(pixels.normalize(native))
    points = (factor.T @ images @ factor).flatten(1)
    return float(torch.pdist(points).double().mean())
