"""What do the layers give back of the same images, and which images do they reconstruct best and worst?

The samples figure, each layer's best and worst images by MSE, and a table with every image's scores, at the native size.
"""

from pathlib import Path

from PIL import Image
from torch import Tensor
from torchmetrics.functional.regression import spearman_corrcoef

from inversion.core import pixels
from inversion.core.drawing import stacked
from inversion.core.file_kinds import printable
from inversion.results.trained import TrainedRun
from inversion.studies.result import Result, columns_figure
from inversion.studies.subject import Subject, check_range
from inversion.training.metrics import image_scores


def extremes_figure(subject: Subject, run: TrainedRun, title: str, mse: Tensor, number: int) -> Image.Image:
    order = mse.argsort()
    columns: dict[str, Tensor] = {}
    for name, places in (("Best", order[:number]), ("Worst", order[-number:].flip(0))):
        images, errors = pixels.to_input(subject.images[places]), mse[places]
        columns |= {name: images, f"{name}, MSE {errors.min():.4f} to {errors.max():.4f}": run.reconstruct(images)}
    return columns_figure(columns, title=title)


def compare_layers(subject: Subject, folder: Path, shown: int, extremes: int) -> Result:
    check_range(1, shown=shown, extremes=extremes)
    files, originals = subject.datamodule.examples(subject.part, shown)
    columns = {"Original": originals}
    rows: list[dict[str, object]] = []
    figures, findings = [], []
    errors: dict[str, Tensor] = {}
    for title, run in subject.runs.items():
        columns[title] = run.reconstruct(originals)
        (scores,) = image_scores([subject.native_reconstructions(run)], subject.truth())
        mse = errors[title] = scores["mse"]
        for i, file in enumerate(subject.files):
            numbers = {key: float(value[i]) for key, value in scores.items()}
            rows.append({"run": title, "file": printable(file), "class": subject.classes[subject.labels[i]], **numbers})
        best, worst = (printable(Path(subject.files[int(i)]).name) for i in (mse.argmin(), mse.argmax()))
        findings.append(
            f"{title}: MSE {mse.mean():.4f}, PSNR {scores['psnr'].mean():.2f} dB, SSIM {scores['ssim'].mean():.3f} (native "
            f"size); best {best}, worst {worst}."
        )
        figures.append(extremes_figure(subject, run, title, mse, extremes))
    if len(errors) > 1 and len(subject.files) > 1:
        (first, a), *_, (last, b) = errors.items()
        findings.append(
            f"Images hard for {first} are hard for {last}: rank correlation of their errors {spearman_corrcoef(a, b):.2f}."
        )
    names = [printable(Path(file).name) for file in files]
    figure = columns_figure(columns, names, tile=pixels.INPUT_SIZE)
    return Result({"samples": figure, "extremes": stacked(figures)}, rows, findings)
