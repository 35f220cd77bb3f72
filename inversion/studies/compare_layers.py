"""What do the layers give back of the same images, and which images do they reconstruct best and worst?

The samples figure, each layer's best and worst images by MSE, and a table with every image's scores, at the native size.
"""

from collections.abc import Sequence
from pathlib import Path
from random import Random

from PIL import Image
from torch import Tensor
from torchmetrics.functional.regression import spearman_corrcoef

from inversion.core import pixels
from inversion.core.drawing import side_by_side, stacked
from inversion.core.errors import InputError
from inversion.results.trained import TrainedRun
from inversion.studies.result import Result, samples
from inversion.studies.subject import Subject, check_range, image_scores


def chosen_images(subject: Subject, shown: int, random: int | None, chosen: Sequence[str] | None) -> tuple[list[str], Tensor]:
    """File names and images, (N, 3, 227, 227) in [-1, 1]. Raises InputError: a chosen name fits no image, or several."""
    if chosen is None and random is None:
        return subject.datamodule.samples(subject.part, shown)
    files = subject.datamodule.split.files(subject.part)
    if chosen is None:
        places = sorted(Random(random).sample(range(len(files)), min(shown, len(files))))
    else:
        places = []
        for name in chosen:
            fitting = [i for i, file in enumerate(files) if file.endswith(str(name))]
            if len(fitting) != 1:
                raise InputError(
                    f"chosen={name} fits {len(fitting)} of the {subject.part} images: give the end of one file's name."
                )
            places += fitting
    return [files[i] for i in places], pixels.to_input(subject.datamodule.images(subject.part)[places])


def extremes_figure(subject: Subject, run: TrainedRun, title: str, mse: Tensor, number: int) -> Image.Image:
    order = mse.argsort()
    figures = []
    for name, places in (("best", order[:number]), ("worst", order[-number:].flip(0))):
        images = pixels.to_input(subject.images[places])
        columns = {"Original": images, f"MSE {mse[places].min():.4f} to {mse[places].max():.4f}": run.reconstruct(images)}
        figures.append(samples(columns, title=f"{title}, {name}"))
    return side_by_side(figures)


def compare_layers(
    subject: Subject, folder: Path, shown: int, random: int | None, chosen: Sequence[str] | None, extremes: int
) -> Result:
    check_range(1, shown=shown, extremes=extremes)
    files, originals = chosen_images(subject, shown, random, chosen)
    columns = {"Original": originals}
    rows: list[dict[str, object]] = []
    figures, findings = [], []
    errors: dict[str, Tensor] = {}
    for title, run in subject.runs.items():
        columns[title] = run.reconstruct(originals)
        scores = image_scores(subject.truth(), subject.native_reconstructions(run))
        mse = errors[title] = scores["mse"]
        for i, file in enumerate(subject.files):
            numbers = {key: float(value[i]) for key, value in scores.items()}
            rows.append({"run": title, "file": file, "class": subject.classes[subject.labels[i]], **numbers})
        best, worst = (Path(subject.files[int(i)]).name for i in (mse.argmin(), mse.argmax()))
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
    names = [Path(file).name for file in files]
    return Result({"samples": samples(columns, names, tile=pixels.INPUT_SIZE), "extremes": stacked(figures)}, rows, findings)
