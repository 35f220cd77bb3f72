"""The studies: numbers with known answers, then all of them on a small sweep."""

import csv
import math

import pytest
import torch
from conftest import REPOSITORY, Outcome, experiment, run_experiment
from hydra import compose, initialize_config_dir
from PIL import Image
from torch import nn

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.encoders.alexnet import Encoder
from inversion.results.trained import TrainedRun
from inversion.studies import (
    channels,
    compare_layers,
    controls,
    frequency,
    interpolate,
    optimise,
    perturb,
    position_colour,
)
from inversion.studies.subject import Subject, check_range, image_scores


@pytest.fixture(scope="module")
def images():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def smooth():
    """Four images without a repeating pattern, (4, 3, 227, 227) in [0, 1]."""
    return pixels.resize(torch.rand(4, 3, 20, 20, generator=torch.Generator().manual_seed(0)), 227)


@pytest.fixture(scope="module")
def subject(sweep):
    return Subject(str(sweep), "val", device="cpu")


# frequency


def test_the_identity_recovers_every_band_and_the_mean_image_none(images):
    r2 = frequency.r2_by_frequency
    mean = images.mean(0)
    assert torch.allclose(r2(images, images, mean), torch.ones(17, dtype=torch.float64))
    assert torch.allclose(r2(images, mean.expand_as(images), mean), torch.zeros(17, dtype=torch.float64), atol=1e-6)


def test_a_blur_of_gain_h_keeps_one_less_the_square_of_what_it_takes(images):
    frequencies = torch.fft.fftfreq(32, 1 / 32)
    radius = (frequencies[:, None].square() + frequencies[None].square()).sqrt()
    gain = torch.exp(-((radius.round() / 8) ** 2))  # one gain a band
    blurred = torch.fft.ifft2(torch.fft.fft2(images) * gain).real
    expected = 1 - (1 - torch.exp(-((torch.arange(17.0) / 8) ** 2))) ** 2
    found = frequency.r2_by_frequency(images, blurred, torch.zeros(3, 32, 32))
    assert torch.allclose(found, expected.double(), atol=1e-4)


def test_grey_pictures_miss_all_of_chrominance_and_nothing_of_luminance(images):
    grey = (images * frequency.LUMINANCE[:, None, None]).sum(1, keepdim=True).expand_as(images)
    mean = grey.mean(0)
    found = frequency.unexplained_by_colour(images, grey, mean)
    assert found["luminance"] == pytest.approx(0, abs=1e-9) and found["chrominance"] == pytest.approx(1)
    found = frequency.unexplained_by_colour(images, mean.expand_as(images), mean)
    assert found == pytest.approx({"luminance": 1, "chrominance": 1})


@pytest.mark.parametrize("cycles", [12, 48, 96])
def test_a_pattern_that_repeats_is_a_peak(cycles):
    white = torch.fft.fft2(torch.randn(8, 3, 227, 227, generator=torch.Generator().manual_seed(0)))
    radius = torch.fft.fftfreq(227, 1 / 227).square()
    images = torch.fft.ifft2(white / (1 + (radius + radius[:, None]).sqrt())).real  # spectra fall as those of photos do
    coarse = pixels.resize(pixels.resize(images, 64), 227)  # repeats its low frequencies around 64 cycles, which is no peak
    for plain in (images, coarse):
        assert frequency.largest_peak(frequency.spectrum(plain))[0] < 1.25
    pattern = 0.3 * images.std() * torch.cos(2 * math.pi * cycles * torch.arange(227) / 227)
    for patterned in (coarse + pattern, coarse + pattern[:, None]):
        rise, place = frequency.largest_peak(frequency.spectrum(patterned))
        assert rise > 1.3 and place == cycles


# perturb


def test_signs_keep_the_norm():
    features = torch.tensor([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0], [-1.0, 1.0, 1.0]])
    binarised = perturb.binarised
    found = binarised(features)
    assert torch.allclose(found[0], torch.tensor([5.0, 0.0, 5.0]) / math.sqrt(2))
    assert torch.equal(found[1], features[1]) and torch.allclose(found[2], features[2])
    maps = torch.rand(2, 4, 3, 3)
    assert torch.allclose(binarised(maps).flatten(1).norm(dim=1), maps.flatten(1).norm(dim=1))


def test_the_top_outputs_and_all_others():
    features, mean = torch.tensor([[1.0, 9.0, 5.0]]), torch.tensor([0.1, 0.2, 0.3])
    only_top = perturb.only_top
    assert torch.equal(only_top(features, 1, mean), torch.tensor([[0.1, 9.0, 0.3]]))
    assert torch.equal(only_top(features, 1, mean, others=True), torch.tensor([[1.0, 0.2, 5.0]]))


def test_dropping_and_noise_are_as_large_as_asked():
    ones = torch.ones(100, 100)
    generator = torch.Generator().manual_seed(0)
    features = 2 * torch.randn(1000, 100, generator=generator)

    def changed(layer, drop):
        return perturb.changes(layer, features, top=[], noise=[0.5], drop=drop)

    assert changed("fc6", 0.3)["dropped", 0.3](ones).mean() == pytest.approx(0.7, abs=0.02)
    assert torch.equal(changed("fc6", 0.0)["dropped", 0.0](ones), ones)
    assert torch.equal(changed("fc8", 1.0)["dropped", 1.0](ones)[7], features.mean(0))
    assert (changed("fc6", 0.0)["noise", 0.5](ones) - ones).std() == pytest.approx(1, abs=0.03)


# compare_layers


def test_each_images_scores(images):
    scores = image_scores(images, images)
    assert torch.equal(scores["mse"], torch.zeros(6)) and torch.equal(scores["psnr"], torch.full((6,), 100.0))
    assert torch.allclose(scores["ssim"], torch.ones(6))
    grey, lighter = torch.full((2, 3, 32, 32), 0.5), torch.stack([torch.full((3, 32, 32), value) for value in (0.6, 0.7)])
    assert torch.allclose(image_scores(grey, lighter)["mse"], torch.tensor([0.01, 0.04]))


# position_colour


@pytest.mark.parametrize(("right", "down"), [(8, 0), (0, 8), (-31, 0), (0, -5), (0, 0)])
def test_a_shift_is_estimated_as_what_it_is(smooth, right, down):
    moved = position_colour.shifted(smooth, right, down)
    assert moved.shape == smooth.shape
    assert position_colour.estimated_shift(smooth, moved, -1 if right else -2).tolist() == [right or down] * 4


def test_what_is_shifted_goes_right_and_down():
    image = torch.zeros(1, 3, 227, 227)
    image[..., 100, 50] = 1
    moved = position_colour.shifted(image, 8, -3)
    assert moved[0, 0, 97, 58] == 1 and moved.sum() == 3


def test_without_a_clue_no_shift_is_estimated():
    flat = torch.full((1, 3, 227, 227), 0.5)
    assert position_colour.estimated_shift(flat, flat, -1).item() == 0


@pytest.mark.parametrize("degrees", [-150, -30, 0, 90])
def test_a_rotation_of_hues_is_estimated_as_what_it_is(images, degrees):
    pale = 0.4 + 0.2 * images  # so that no rotated colour leaves [0, 1]
    rotated = position_colour.rotated(pale, degrees)
    estimates = position_colour.estimated_rotation(pale, rotated)
    assert torch.allclose(estimates, torch.full((6,), float(degrees)), atol=0.05)
    assert torch.allclose(position_colour.grey(rotated), position_colour.grey(pale), atol=1e-5)  # the luminance stays
    assert position_colour.circular_difference(torch.tensor([179.0, -170.0]), -175).tolist() == [-6, 5]


def test_grey_has_no_colour(images):
    grey = position_colour.grey(images)
    assert position_colour.chroma(grey).abs().max() < 1e-3  # YIQ's published digits don't quite add up to zero


def test_images_themselves_are_measured_right(smooth):
    rows = position_colour.measures(lambda images: images, 0.4 + 0.2 * smooth, shifts=[-8, 16], turns=[30])
    found = {(row["what"], row["done"]): row for row in rows}
    assert found["shift", -8]["estimate"] == -8 and found["shift", 16]["error"] == 0
    assert found["turn", 30]["estimate"] == pytest.approx(30, abs=0.1)
    assert found["grey", 0]["estimate"] < 0.02


# interpolate


def test_from_one_feature_to_another():
    way = interpolate.between(torch.cat([torch.zeros(2, 3), torch.ones(2, 3)]), 5)
    assert way.shape == (2, 5, 3) and way[0, :, 0].tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_the_mean_of_a_class():
    values, labels = torch.tensor([[1.0], [3.0], [10.0]]), torch.tensor([4, 4, 7])
    assert interpolate.class_means(values, labels, [7, 4]).tolist() == [[10], [2]]


def test_a_random_feature_has_each_units_own_values():
    features = torch.stack([torch.arange(5.0), 100 + torch.arange(5.0)], dim=1)[:, :, None, None]
    found = interpolate.random_features(features, 200, torch.Generator().manual_seed(0))
    assert found.shape == (200, 2, 1, 1)
    assert set(found[:, 0].flatten().tolist()) == set(range(5)) and set(found[:, 1].flatten().tolist()) == set(range(100, 105))
    together = torch.corrcoef(found.flatten(1).T)[0, 1]
    assert abs(together) < 0.25  # units are independent, though in the images they are not


def test_detail_is_the_mean_difference_of_neighbours():
    stripes = torch.zeros(1, 3, 100, 100)
    stripes[..., ::2] = 1
    detail = interpolate.detail
    assert detail(stripes) == pytest.approx(0.5, rel=0.02) and detail(torch.ones(2, 3, 9, 9)) == 0


# channels


class SumOfTwo:
    """A run whose decoder gives the sum of the first two of three channels in grey."""

    layer = "conv5"

    def predict(self, features):
        return features[:, :2].sum(1, keepdim=True).expand(-1, 3, -1, -1)


def test_a_dead_channel_changes_nothing_and_a_live_one_what_it_should(subject):
    grey = subject.on("val")
    truth = pixels.normalize(grey.images)[:, 0]
    grey.images = grey.images[:, :1].expand(-1, 3, -1, -1)  # so that the decoder can be right
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    features = torch.stack([truth - 0.25, torch.full_like(truth, 0.25), noise], dim=1)
    mean = features.mean(0)
    rises = channels.importance(grey, SumOfTwo(), features, mean, torch.arange(3))
    assert rises[0] > 1e-3 and rises[1:].abs().max() < 1e-7
    assert channels.variances(features, mean)[1] == 0


def test_channels_are_replaced_whichever_side_is_the_mean():
    features, mean = torch.rand(4, 3, 2, 2), torch.zeros(3, 2, 2)
    one = torch.tensor([1])
    without, alone = channels.replaced(features, one, mean), channels.replaced(mean, one, features)
    assert without[:, 1].abs().max() == 0 and torch.equal(without + alone, features)


def test_a_unit_reaches_what_moves_it_and_nothing_else():
    encoder, reach = Encoder("conv1", "random"), channels.reach
    image = pixels.resize(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1, 227)
    channel = int(encoder(image)[0, :, 13, 13].argmax())
    rows, columns = reach(encoder, image, channel, 13 * 27 + 13)
    assert rows.stop - rows.start == columns.stop - columns.start == 11  # of the pool's window, the convolution that won
    for inside in (False, True):
        other = torch.rand(1, 3, 227, 227) if not inside else image.clone()
        other[..., rows, columns] = image[..., rows, columns] * (2 if inside else 1)
        moved = (encoder(other)[0, channel, 13, 13] - encoder(image)[0, channel, 13, 13]).abs() > 1e-4
        assert moved == inside or (not inside and encoder(other)[0, channel, 13, 13] > encoder(image)[0, channel, 13, 13])


def test_patches_are_of_the_images_that_excite_a_channel_most():
    encoder = Encoder("conv2", "random")
    native = torch.randint(256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = encoder(pixels.resize(pixels.normalize(native), 227))
    features[1, 5] = 1e3  # whatever it shows
    features[:, 6] = 0
    run = TrainedRun(encoder, nn.Identity(), nn.Identity(), {})
    patches = channels.exciting_patches(run, native, features, 5)
    assert patches.shape == (3, 3, 227, 227) and patches.abs().max() <= 1
    alone = channels.exciting_patches(run, native[1:2], features[1:2], 5)
    assert torch.equal(patches[0], alone[0]) and not torch.equal(patches[0], patches[1])


# optimise


def test_priors_have_the_values_they_should():
    ramp = torch.arange(10.0).expand(1, 3, 10, 10)
    assert optimise.total_variation(ramp, 2).item() == pytest.approx(1) and optimise.total_variation(2 * ramp, 1).item() == 2
    features = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    assert optimise.distances(torch.zeros(2, 2), features).tolist() == [1, 1]
    assert optimise.distances(features, features).tolist() == [0, 0]


def test_optimisation_comes_closer_whoever_is_in_the_batch():
    encoder = Encoder("conv1", "random")
    native = pixels.resize(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1, 64)
    wanted = encoder(pixels.resize(native, 227))
    noise = optimise.starting_noise(2, 64)
    assert not torch.equal(noise[0], noise[1])
    options = {"steps": 15, "lr": 0.1, "tv": 0.01, "beta": 2.0, "alpha": 6, "bound": 0.01}
    found = optimise.invert(encoder, wanted, noise, **options)
    assert found.shape == (2, 3, 227, 227)
    before = optimise.distances(encoder(pixels.resize(noise, 227)), wanted)
    assert (optimise.distances(encoder(found), wanted) < 0.5 * before).all()
    alone = optimise.invert(encoder, wanted[1:], noise[1:], **options)
    assert torch.allclose(alone[0], found[1], atol=1e-3)


def test_optimised_images_are_saved_and_the_other_layers_resumed(subject, tmp_path):
    options = {"steps": 2, "lr": 0.05, "tv": 3.0, "beta": 2.0, "alpha": 6, "bound": 0.02}
    first = optimise.optimise(subject, tmp_path, shown=2, **options)
    conv5, fc8 = (tmp_path / "images" / f"{name}.pt" for name in ("Conv5", "FC8"))
    before = conv5.stat().st_mtime_ns
    fc8.unlink()
    again = optimise.optimise(subject, tmp_path, shown=2, **options)
    assert [row["mse"] for row in again.rows] == [row["mse"] for row in first.rows]
    assert conv5.stat().st_mtime_ns == before and fc8.is_file()
    with pytest.raises(InputError, match="made with other options"):
        optimise.optimise(subject, tmp_path, shown=2, **{**options, "lr": 1})


# controls


def test_the_nearest_is_found_whichever_batch_it_is_in(monkeypatch):
    class Means:
        """A run whose features are the colours' means."""

        layer, device = "conv5", torch.device("cpu")

        def encode(self, images):
            return images.mean(dim=(2, 3))

    monkeypatch.setattr(controls, "BATCH", 2)
    images = (25 * torch.arange(5, dtype=torch.uint8)).view(5, 1, 1, 1).expand(5, 3, 8, 8)
    wanted = Means().encode(pixels.to_input(images)).flip(0) + 0.01
    assert torch.equal(controls.nearest_images(Means(), wanted, images), images.flip(0))


def test_the_features_error_is_0_for_the_same_and_1_for_their_mean():
    features = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    error = controls.feature_error
    assert error(features, features) == 0
    assert error(features.mean(0).expand_as(features), features) == pytest.approx(1)


def test_a_control_has_its_runs_recipe_but_for_what_is_compared(subject):
    run = subject.runs["FC8"]
    config = controls.config_of(run, 7, "random")
    assert config.decoder == run.metadata["config"]["decoder"] and config.data == run.metadata["config"]["data"]
    assert config.trainer.max_epochs == config.scheduler.T_max == 7 and not config.test
    assert run.metadata["config"]["trainer"]["max_epochs"] == 2


def test_controls_train_what_they_compare_and_resume(sweep, tmp_path):
    subject = Subject(str(sweep / "conv5"), device="cpu")
    result = controls.controls(subject, tmp_path, epochs=None, autoencoder=True, shown=2)
    rows = {row["method"]: row for row in result.rows}
    assert list(rows) == ["Decoder", "Untrained encoder", "Autoencoder", "Nearest image", "Mean image"]
    assert rows["Nearest image"]["feature_error"] < rows["Mean image"]["feature_error"]
    last = {path.name: path / "checkpoints" / "last.ckpt" for path in (tmp_path / "conv5").iterdir()}
    assert last.keys() == {"untrained", "autoencoder"}
    of_decoder, of_autoencoder = (
        torch.load(last[name], weights_only=True)["state_dict"] for name in ("untrained", "autoencoder")
    )
    assert not any("encoder." in key.replace("decoder.", "") for key in of_decoder)
    started = Encoder("conv5", "random").network.state_dict()
    assert any(not torch.equal(of_autoencoder[f"encoder.network.{key}"], value) for key, value in started.items())
    before = {path: path.stat().st_mtime_ns for path in last.values()}
    again = controls.trained_methods(subject.runs["Conv5"], tmp_path / "conv5", epochs=None, autoencoder=True)
    assert {path: path.stat().st_mtime_ns for path in last.values()} == before
    scores = image_scores(subject.truth(), subject.native_reconstructions(again["Autoencoder"]))
    assert float(scores["mse"].mean()) == pytest.approx(rows["Autoencoder"]["mse"])


# the program

SMALL = {
    "compare_layers": {"shown": 2, "extremes": 2},
    "frequency": {},
    "channels": {"images": 2, "candidates": 3, "shown": 1},
    "position_colour": {"images": 2, "shown": 1, "shifts": "[8]", "turns": "[90]"},
    "perturb": {"shown": 2, "top": "[1,5]"},
    "interpolate": {"pairs": 1, "steps": 3, "classes": 2},
    "optimise": {"shown": 2, "steps": 2},
}


@pytest.fixture(scope="module")
def report(sweep, tmp_path_factory):
    """The folder in which all studies but controls have ended."""
    folder = tmp_path_factory.mktemp("report")
    options = [f"study.{name}.{key}={value}" for name, own in SMALL.items() for key, value in own.items()]
    arguments = [f"runs={sweep}", f"study=[{','.join(SMALL)}]", "images=3", *options, f"hydra.run.dir={folder}"]
    assert run_experiment("study", *arguments) == Outcome(0, "")
    return folder


@pytest.mark.parametrize("name", SMALL)
def test_a_study_writes_figures_and_table_and_the_page_shows_them(report, name):
    rows = list(csv.DictReader((report / name / "table.csv").open()))
    assert {row["run"] for row in rows} >= {"Conv5", "FC8"}
    page = (report / "report.html").read_text()
    assert f'href="{name}/table.csv"' in page
    figures = list((report / name).glob("*.png"))
    assert figures and list((report / name).glob("events*"))
    for path in figures:
        assert f'src="{name}/{path.name}"' in page
        with Image.open(path) as figure:
            assert figure.width > 250 and len(figure.convert("RGB").getcolors(1 << 24)) > 10


def test_the_page_states_questions_and_findings(report):
    page = (report / "report.html").read_text()
    assert "What is lost, by frequency and by colour?" in page and "R2(f) = 1 - sum" in page
    assert page.count("<li>Conv5") == page.count("<li>FC8") == len(SMALL)


def test_by_default_all_studies_run(sweep):
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        assert set(compose("study", ["runs=x"]).study) == {*SMALL, "controls"}
        assert list(compose("study", ["runs=x", "study=frequency"]).study) == ["frequency"]
    assert {path.stem for path in (REPOSITORY / "conf" / "study").iterdir()} == {*SMALL, "controls"}


def test_a_study_that_fails_costs_no_other(sweep, tmp_path, one_line):
    options = ["study=[perturb,frequency]", "study.perturb.drop=2", "images=2"]
    done = run_experiment("study", f"runs={sweep / 'conv5'}", *options, f"hydra.run.dir={tmp_path}")
    assert done.code == 1 and "1 of 2 studies failed (perturb: drop=2 must lie between 0 and 1)" in one_line(done.said)
    page = (tmp_path / "report.html").read_text()
    assert "perturb failed: drop=2" in page and "frequency/spectra.png" in page
    assert (tmp_path / "frequency" / "spectra.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["runs=/nowhere"], "holds no finished run"),
        (["device=gpu"], "device=gpu can't be used here"),
    ],
)
def test_what_cant_be_studied_is_said(sweep, tmp_path, one_line, arguments, expected):
    done = run_experiment("study", "study=frequency", f"runs={sweep / 'conv5'}", *arguments, f"hydra.run.dir={tmp_path}")
    assert done.code == 1 and expected in one_line(done.said)


def test_images_that_arent_there_are_refused(subject):
    with pytest.raises(InputError, match="part=train must be val or test"):
        subject.on("train")
    with pytest.raises(InputError, match="images=0 must be at least 1"):
        subject.on("val", 0)
    assert len(subject.on("test", 1000).images) == 6 and len(subject.on("test", 2).files) == 2


@pytest.mark.parametrize(
    ("study", "options", "expected"),
    [
        (perturb.perturb, {"drop": 0.5, "top": [5000], "noise": []}, "top=.5000. must lie between 1 and 1000"),
        (compare_layers.compare_layers, {"random": None, "chosen": ["nothing"], "extremes": 1}, "chosen=nothing fits 0"),
        (position_colour.position_colour, {"images": 2, "shifts": [60], "turns": []}, "shifts=.60."),
        (interpolate.interpolate, {"pairs": 0, "steps": 3, "classes": 1, "draws": 1}, "pairs=0"),
        (controls.controls, {"epochs": 0, "autoencoder": False}, "epochs=0 must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(subject, tmp_path, study, options, expected):
    takes = study.__code__.co_varnames[: study.__code__.co_argcount]
    options |= {"shown": 2} if "shown" in takes else {}
    with pytest.raises(InputError, match=expected):
        study(subject, tmp_path, **options)


def test_ranges_of_options():
    check_range(0, 1, share=1, shares=[0, 0.5])
    with pytest.raises(InputError, match="^steps=0 must be at least 1.$"):
        check_range(1, steps=0)
    with pytest.raises(InputError, match="^shares=.0, 2. must lie between 0 and 1.$"):
        check_range(0, 1, shares=[0, 2])


# a study of the reader's own

MODULE = '''"""How bright are the reconstructions?

The mean pixel of each run's reconstructions, beside that of the images.
"""

from pathlib import Path

from inversion.studies.result import Result, samples
from inversion.studies.subject import Subject


def brightness(subject: Subject, folder: Path, shown: int) -> Result:
    originals = subject.samples(shown)
    columns = {"Original": originals, **{title: run.reconstruct(originals) for title, run in subject.runs.items()}}
    rows = [{"run": title, "brightness": float(images.mean()) / 2 + 0.5} for title, images in columns.items()]
    findings = [f"{row['run']}: mean pixel {row['brightness']:.3f}." for row in rows]
    return Result({"samples": samples(columns)}, rows, findings)
'''
CONFIG = """# @package study.brightness
_target_: brightness.brightness
_partial_: true

# How many images are compared.
shown: 4
"""


def test_a_study_of_ones_own_needs_a_module_and_a_config(sweep, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "brightness.py").write_text(MODULE)
    (tmp_path / "conf" / "study").mkdir(parents=True)
    (tmp_path / "conf" / "study" / "brightness.yaml").write_text(CONFIG)
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        searched = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
        cfg = compose("study", [f"runs={sweep / 'conv5'}", "study=brightness", "study.brightness.shown=2", searched])
    experiment("study").study(cfg, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "brightness" / "table.csv").open()))
    assert [row["run"] for row in rows] == ["Original", "Conv5"]
    assert "How bright are the reconstructions?" in (tmp_path / "out" / "report.html").read_text()
