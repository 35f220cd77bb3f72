"""What do the layers give back of the same images, and which images does each of them keep best and worst?

python experiments/compare_layers.py runs=outputs/<sweep>
python experiments/compare_layers.py runs=outputs/<sweep> random=7                      # eight random images
python experiments/compare_layers.py runs=outputs/<sweep> chosen=[val_12.JPEG,val_345.JPEG]

Writes the samples figure, the images that each layer gives back best and worst, and a table with every image's scores.
"""

import random
from pathlib import Path

from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from torchmetrics.functional.regression import spearman_corrcoef

from inversion.core import pixels
from inversion.core.drawing import samples_figure, side_by_side, stacked
from inversion.core.errors import InputError
from inversion.data.datamodule import to_input
from inversion.launch import command_line
from inversion.results.trained import TrainedRun
from inversion.studies.shared import Study, image_scores, publish


def chosen_images(cfg: DictConfig, study: Study) -> tuple[list[str], Tensor]:
    """The images that the samples figure shows: file names, and (N, 3, 227, 227) in [-1, 1].

    Raises:
        InputError: a chosen name fits no image, or several.
    """
    if cfg.chosen is None and cfg.random is None:
        return study.samples(cfg.shown)
    files = study.datamodule.split.files(study.part)
    if cfg.chosen is None:
        places = sorted(random.Random(cfg.random).sample(range(len(files)), min(cfg.shown, len(files))))
    else:
        places = []
        for name in cfg.chosen:
            fitting = [i for i, file in enumerate(files) if file.endswith(str(name))]
            if len(fitting) != 1:
                raise InputError(
                    f"chosen={name} fits {len(fitting)} of the {study.part} images: give the end of one file's name."
                )
            places += fitting
    return [files[i] for i in places], to_input(study.datamodule.images(study.part)[places])


def extremes_figure(study: Study, run: TrainedRun, title: str, mse: Tensor, number: int) -> Image.Image:
    """The images that a run gives back best, and those it gives back worst, beside their reconstructions."""
    order = mse.argsort()
    figures = []
    for name, places in (("best", order[:number]), ("worst", order[-number:].flip(0))):
        images = to_input(study.images[places])
        columns = {"Original": images, f"MSE {mse[places].min():.4f} to {mse[places].max():.4f}": run.reconstruct(images)}
        shown = {key: pixels.to_uint8(pixels.denormalize(value)) for key, value in columns.items()}
        figures.append(samples_figure(shown, tile=128, title=f"{title}, {name}"))
    return side_by_side(figures)


def compare_layers(cfg: DictConfig, folder: Path) -> None:
    """Writes `compare_layers.png`, `compare_layers_extremes.png` and their tables into the folder."""
    study = Study(cfg)
    for name, most in (("shown", None), ("extremes", len(study.files))):
        if cfg[name] < 1 or (most and cfg[name] > most):
            raise InputError(f"{name}={cfg[name]} must be at least 1{f' and at most {most}' if most else ''}.")
    files, shown = chosen_images(cfg, study)
    columns = {"Original": pixels.to_uint8(pixels.denormalize(shown))}
    rows: list[dict[str, object]] = []
    figures, findings = [], []
    errors: dict[str, Tensor] = {}
    for title, run in study.runs.items():
        columns[title] = pixels.to_uint8(pixels.denormalize(run.reconstruct(shown)))
        scores = image_scores(study.truth(), study.native_reconstructions(run))
        errors[title] = scores["mse"]
        for i, file in enumerate(study.files):
            numbers = {key: float(value[i]) for key, value in scores.items()}
            rows.append({"run": title, "file": file, "class": study.classes[study.labels[i]], **numbers})
        best, worst = (study.files[int(i)] for i in (errors[title].argmin(), errors[title].argmax()))
        mse, psnr, ssim = (float(scores[key].mean()) for key in ("mse", "psnr", "ssim"))
        findings.append(
            f"{title}: MSE {mse:.4f}, PSNR {psnr:.2f} dB, SSIM {ssim:.3f} (native size); best {Path(best).name}, worst "
            f"{Path(worst).name}."
        )
        figures.append(extremes_figure(study, run, title, errors[title], cfg.extremes))
    if len(errors) > 1 and len(study.files) > 1:
        (first, a), *_, (last, b) = errors.items()
        findings.append(
            f"Images hard for {first} are hard for {last}: rank correlation of their errors {spearman_corrcoef(a, b):.2f}."
        )
    publish(folder, f"{cfg.name}_extremes", stacked(figures), rows, [])
    labels = [Path(file).name for file in files]
    publish(folder, cfg.name, samples_figure(columns, rows=labels), rows, findings)


if __name__ == "__main__":
    command_line.run(compare_layers, "compare_layers")
