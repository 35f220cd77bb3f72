"""The studies: numbers with known answers, then each of them on a small sweep."""

import csv
import importlib.util
import math
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY
from PIL import Image


def study(name):
    """experiments/<name>.py as a module."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def images():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_identity_recovers_every_band_and_the_mean_image_none(images):
    r2 = study("frequency").r2_by_frequency
    mean = images.mean(0)
    assert torch.allclose(r2(images, images, mean), torch.ones(17, dtype=torch.float64))
    assert torch.allclose(r2(images, mean.expand_as(images), mean), torch.zeros(17, dtype=torch.float64), atol=1e-6)


def test_a_blur_of_gain_h_keeps_one_less_the_square_of_what_it_takes(images):
    frequencies = torch.fft.fftfreq(32, 1 / 32)
    radius = (frequencies[:, None].square() + frequencies[None].square()).sqrt()
    gain = torch.exp(-((radius.round() / 8) ** 2))  # one gain a band
    blurred = torch.fft.ifft2(torch.fft.fft2(images) * gain).real
    expected = 1 - (1 - torch.exp(-((torch.arange(17.0) / 8) ** 2))) ** 2
    found = study("frequency").r2_by_frequency(images, blurred, torch.zeros(3, 32, 32))
    assert torch.allclose(found, expected.double(), atol=1e-4)


def test_grey_pictures_miss_all_of_chrominance_and_nothing_of_luminance(images):
    frequency = study("frequency")
    grey = (images * frequency.LUMINANCE[:, None, None]).sum(1, keepdim=True).expand_as(images)
    mean = grey.mean(0)
    found = frequency.unexplained_by_colour(images, grey, mean)
    assert found["luminance"] == pytest.approx(0, abs=1e-9) and found["chrominance"] == pytest.approx(1)
    found = frequency.unexplained_by_colour(images, mean.expand_as(images), mean)
    assert found == pytest.approx({"luminance": 1, "chrominance": 1})


def test_signs_keep_the_norm():
    features = torch.tensor([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0], [-1.0, 1.0, 1.0]])
    found = study("perturb").binarised(features)
    assert torch.allclose(found[0], torch.tensor([5.0, 0.0, 5.0]) / math.sqrt(2))
    assert torch.equal(found[1], features[1]) and torch.allclose(found[2], features[2])
    maps = torch.rand(2, 4, 3, 3)
    assert torch.allclose(study("perturb").binarised(maps).flatten(1).norm(dim=1), maps.flatten(1).norm(dim=1))


def test_the_top_outputs_and_all_others():
    features, mean = torch.tensor([[1.0, 9.0, 5.0]]), torch.tensor([0.1, 0.2, 0.3])
    only_top = study("perturb").only_top
    assert torch.equal(only_top(features, 1, mean), torch.tensor([[0.1, 9.0, 0.3]]))
    assert torch.equal(only_top(features, 1, mean, others=True), torch.tensor([[1.0, 0.2, 5.0]]))


def test_dropping_and_noise_are_as_large_as_asked():
    perturb, ones = study("perturb"), torch.ones(100, 100)
    generator = torch.Generator().manual_seed(0)
    assert perturb.dropped(ones, 0.3, generator).mean() == pytest.approx(0.7, abs=0.02)
    assert torch.equal(perturb.dropped(ones, 0.0, generator), ones)
    noisy = perturb.with_noise(ones, 2 * torch.ones(100), 0.5, generator)
    assert (noisy - ones).std() == pytest.approx(1, abs=0.03)


def run(name, *arguments):
    command = [sys.executable, str(REPOSITORY / "experiments" / f"{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(("name", "options"), [("frequency", []), ("perturb", ["shown=2", "top=[1,5]"])])
def test_a_study_writes_figure_table_and_findings(sweep, tmp_path, name, options):
    done = run(name, f"runs={sweep}", *options, f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / f"{name}.csv").open()))
    assert {row["run"] for row in rows} == {"Conv5", "FC8"}
    with Image.open(tmp_path / f"{name}.png") as figure:
        assert figure.width > 500
    assert list((tmp_path / "tensorboard").iterdir())
    findings = [line for line in done.stdout.splitlines() if line.startswith("Finding")]
    assert [line.split()[1].rstrip(":") for line in findings] == ["Conv5", "FC8"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["runs=/nowhere"], "holds no finished run"),
        (["runs={sweep}", "images=1000"], "images=1000"),
        (["runs={sweep}", "part=train"], "part=train"),
    ],
)
def test_what_cant_be_studied_is_said(sweep, tmp_path, one_line, arguments, expected):
    done = run("frequency", *(argument.format(sweep=sweep) for argument in arguments), f"hydra.run.dir={tmp_path}")
    assert done.returncode == 1 and expected in one_line(done.stderr)
