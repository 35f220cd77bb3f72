"""How far a reconstruction is from its image: in clamped pixels on the [0, 1] scale, and in what the encoder sees in it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torchmetrics import MeanMetric, MetricCollection, SumMetric

from inversion.core import pixels

MAX_PSNR = 100.0
"""dB; what an exact reconstruction is given in place of infinity."""


def psnr(mse: Tensor) -> Tensor:
    """In dB, of each image's mean squared error on the [0, 1] scale. Its mean exceeds the PSNR of the mean error."""
    return (-10 * mse.log10()).clamp(max=MAX_PSNR)


def mean_squared_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared errors (B,) at 227 x 227 on the [0, 1] scale, of (B, 3, s, s), clamped here, and targets (B, 3, t, t)."""
    distance = pixels.squared_distance(prediction.float().clamp(-1, 1), target)
    return distance / (4 * target.shape[1] * pixels.INPUT_SIZE**2)


def ssim(found: Sequence[Tensor], truth: Tensor) -> list[Tensor]:
    """The structural similarity (Wang et al. 2004, doi 10.1109/TIP.2003.819861) of images with the true ones, (B, 3, H, W) in
    [0, 1] or one for all, (1, 3, H, W): (B,) each. torchmetrics' numbers, faster: a separable window, and one truth for all.
    """
    window = torch.linspace(-5 / 1.5, 5 / 1.5, 11).square().div(-2).softmax(0).tolist()

    def blur(images: Tensor) -> Tensor:
        for dim in (-1, -2):
            size = images.shape[dim] - 10
            blurred = window[0] * images.narrow(dim, 0, size)
            for i in range(1, 11):
                blurred.add_(images.narrow(dim, i, size), alpha=window[i])
            images = blurred
        return images

    def moments(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = blur(padded := pad(images, (5, 5, 5, 5), mode="reflect"))
        return padded, mean, (blur(padded.square()) - mean.square()).clamp_min(0)

    fixed = [moments(images) if len(images) == 1 else None for images in found]
    scores: list[list[Tensor]] = [[] for _ in found]
    for start in range(0, len(truth), 4):  # few at once, for a CPU's caches
        few = slice(start, start + 4)
        true, true_mean, true_variance = moments(truth[few])
        for images, one_for_all, own in zip(found, fixed, scores, strict=True):
            some, mean, variance = one_for_all or moments(images[few])
            product = mean * true_mean
            covariance = blur(some * true) - product
            light = (2 * product + 1e-4) / (mean.square() + true_mean.square() + 1e-4)
            own.append((light * (2 * covariance + 9e-4) / (variance + true_variance + 9e-4)).mean((1, 2, 3)))
    return [torch.cat(own) for own in scores]


def image_scores(found: Sequence[Tensor], truth: Tensor) -> list[dict[str, Tensor]]:
    """`mse`, `psnr` (dB) and `ssim` of images beside the true ones, as `ssim` takes them: (B,) each."""
    errors = [(images - truth).square().mean((1, 2, 3)) for images in found]
    pairs = zip(errors, ssim(found, truth), strict=True)
    return [{"mse": mse, "psnr": psnr(mse), "ssim": similarity} for mse, similarity in pairs]


class FinalMetrics(nn.Module):
    """What is reported of a split's pixels: `mse`, `psnr` and `ssim` at the input's size; `mse_<n>` and `ssim_<n>` at the
    native n x n, since the input's interpolated pixels flatter every score; and the paper's `normalized_error`, the mean of
    ||x - x'|| over `mean_pairwise_distance` (about 1/sqrt(2) for always giving the mean image).
    """

    def __init__(self, native_size: int, mean_distance: float) -> None:
        super().__init__()
        self.native_size, self.mean_distance = native_size, mean_distance
        names = ("mse", "psnr", "ssim", "distance", f"mse_{native_size}", f"ssim_{native_size}")
        self.means = MetricCollection({name: MeanMetric() for name in names}, compute_groups=False)

    def update(self, scores: dict[str, Tensor], native_scores: dict[str, Tensor]) -> None:
        """`image_scores` of a batch at the input's size, and at the native one."""
        scores = scores | {f"{name}_{self.native_size}": native_scores[name] for name in ("mse", "ssim")}
        scores["distance"] = (scores["mse"] * 3 * pixels.INPUT_SIZE**2).sqrt()
        for name, values in scores.items():
            self.means[name].update(values)

    def compute(self) -> dict[str, float]:
        values = {name: float(mean) for name, mean in self.means.compute().items()}
        distance = values.pop("distance")
        return values | {"normalized_error": distance / self.mean_distance if self.mean_distance else math.nan}


class FeatureMetrics(nn.Module):
    """What the encoder sees in a split's reconstructions: `feature_error`, the root of sum ||f(x') - f(x)||^2 / sum ||f(x) -
    mean f||^2 with f the inverted layer's features (1 for one as far off as the mean feature), and `top1_agreement`, the share
    of images whose reconstruction is given the same class.
    """

    def __init__(self) -> None:
        super().__init__()
        self.error, self.square, self.agreement = SumMetric(), SumMetric(), MeanMetric()
        self.origin: Tensor | None = None
        self.sum: Tensor = torch.zeros(())
        self.count = 0

    def update(self, features: Tensor, true_features: Tensor, logits: Tensor, true_logits: Tensor) -> None:
        """(B, *feature_shape) twice and (B, classes) twice; the reconstructions' may be one for all images, (1, ...)."""
        if self.origin is None:  # taken off, so that no precision is lost where features vary little beside their mean
            self.origin = true_features.mean(0)
            self.sum = torch.zeros_like(self.origin)
        offset = true_features - self.origin
        self.error.update((features - true_features).square().sum())
        self.square.update(offset.square().sum())
        self.sum += offset.sum(0)
        self.count += len(offset)
        self.agreement.update((logits.argmax(1) == true_logits.argmax(1)).float())

    def compute(self) -> dict[str, float]:
        """The numbers by name; nan for the error where the features don't vary, as those of a single image."""
        spread = float(self.square.compute()) - float(self.sum.square().sum()) / self.count
        error = math.sqrt(float(self.error.compute()) / spread) if spread > 0 else math.nan
        return {"feature_error": error, "top1_agreement": float(self.agreement.compute())}


def mean_pairwise_distance(native: Tensor, most: int = 2000) -> float:
    """Mean Euclidean distance, at the input's size and on the [0, 1] scale, between two different ones of the native images,
    uint8 (N, 3, n, n); of more than `most`, that many, evenly spread, are compared. No large image is made: `resize` is
    linear, y = U x U^T, so with U^T U = L L^T the distances between the images y are those between the small L^T x L.
    """
    native = native.cpu()[torch.linspace(0, len(native) - 1, min(most, len(native))).round().long()]
    if len(native) < 2:
        return 0.0
    matrix = pixels.resize_matrix(native.shape[-1], pixels.INPUT_SIZE)
    factor = torch.linalg.cholesky(matrix.T @ matrix).float()
    points = torch.empty(len(native), native[0].numel())
    for rows, few in zip(points.split(64), native.split(64), strict=True):  # floats of all of them at once would be gigabytes
        rows.copy_((factor.T @ pixels.denormalize(pixels.normalize(few)) @ factor).flatten(1))
    return float(torch.pdist(points).double().mean())
