"""The studies: numbers with known answers, then each of them on a small sweep."""

import csv
import math
import shutil

import pytest
import torch
from conftest import Outcome, experiment, run_experiment
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from inversion.core import pixels
from inversion.encoders.alexnet import Encoder
from inversion.studies.shared import Study, image_scores


@pytest.fixture(scope="module")
def images():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def smooth():
    """Four images without a pattern that repeats, (4, 3, 227, 227) in [0, 1]."""
    return pixels.resize(torch.rand(4, 3, 20, 20, generator=torch.Generator().manual_seed(0)), 227)


# frequency


def test_the_identity_recovers_every_band_and_the_mean_image_none(images):
    r2 = experiment("frequency").r2_by_frequency
    mean = images.mean(0)
    assert torch.allclose(r2(images, images, mean), torch.ones(17, dtype=torch.float64))
    assert torch.allclose(r2(images, mean.expand_as(images), mean), torch.zeros(17, dtype=torch.float64), atol=1e-6)


def test_a_blur_of_gain_h_keeps_one_less_the_square_of_what_it_takes(images):
    frequencies = torch.fft.fftfreq(32, 1 / 32)
    radius = (frequencies[:, None].square() + frequencies[None].square()).sqrt()
    gain = torch.exp(-((radius.round() / 8) ** 2))  # one gain a band
    blurred = torch.fft.ifft2(torch.fft.fft2(images) * gain).real
    expected = 1 - (1 - torch.exp(-((torch.arange(17.0) / 8) ** 2))) ** 2
    found = experiment("frequency").r2_by_frequency(images, blurred, torch.zeros(3, 32, 32))
    assert torch.allclose(found, expected.double(), atol=1e-4)


def test_grey_pictures_miss_all_of_chrominance_and_nothing_of_luminance(images):
    frequency = experiment("frequency")
    grey = (images * frequency.LUMINANCE[:, None, None]).sum(1, keepdim=True).expand_as(images)
    mean = grey.mean(0)
    found = frequency.unexplained_by_colour(images, grey, mean)
    assert found["luminance"] == pytest.approx(0, abs=1e-9) and found["chrominance"] == pytest.approx(1)
    found = frequency.unexplained_by_colour(images, mean.expand_as(images), mean)
    assert found == pytest.approx({"luminance": 1, "chrominance": 1})


@pytest.mark.parametrize("cycles", [12, 48, 96])
def test_a_pattern_that_repeats_is_a_peak(cycles):
    frequency = experiment("frequency")
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
    binarised = experiment("perturb").binarised
    found = binarised(features)
    assert torch.allclose(found[0], torch.tensor([5.0, 0.0, 5.0]) / math.sqrt(2))
    assert torch.equal(found[1], features[1]) and torch.allclose(found[2], features[2])
    maps = torch.rand(2, 4, 3, 3)
    assert torch.allclose(binarised(maps).flatten(1).norm(dim=1), maps.flatten(1).norm(dim=1))


def test_the_top_outputs_and_all_others():
    features, mean = torch.tensor([[1.0, 9.0, 5.0]]), torch.tensor([0.1, 0.2, 0.3])
    only_top = experiment("perturb").only_top
    assert torch.equal(only_top(features, 1, mean), torch.tensor([[0.1, 9.0, 0.3]]))
    assert torch.equal(only_top(features, 1, mean, others=True), torch.tensor([[1.0, 0.2, 5.0]]))


def test_dropping_and_noise_are_as_large_as_asked():
    perturb, ones = experiment("perturb"), torch.ones(100, 100)
    generator = torch.Generator().manual_seed(0)
    zero = torch.zeros(())
    assert perturb.dropped(ones, 0.3, generator, zero).mean() == pytest.approx(0.7, abs=0.02)
    assert torch.equal(perturb.dropped(ones, 0.0, generator, zero), ones)
    assert torch.equal(perturb.dropped(ones, 1.0, generator, torch.arange(100.0))[7], torch.arange(100.0))
    noisy = perturb.with_noise(ones, 2 * torch.ones(100), 0.5, generator)
    assert (noisy - ones).std() == pytest.approx(1, abs=0.03)


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
    study = experiment("position_colour")
    moved = study.shifted(smooth, right, down)
    assert moved.shape == smooth.shape
    assert study.estimated_shift(smooth, moved, -1 if right else -2).tolist() == [right or down] * 4


def test_what_is_shifted_goes_right_and_down():
    image = torch.zeros(1, 3, 227, 227)
    image[..., 100, 50] = 1
    moved = experiment("position_colour").shifted(image, 8, -3)
    assert moved[0, 0, 97, 58] == 1 and moved.sum() == 3


def test_without_a_clue_no_shift_is_estimated():
    flat = torch.full((1, 3, 227, 227), 0.5)
    assert experiment("position_colour").estimated_shift(flat, flat, -1).item() == 0


@pytest.mark.parametrize("degrees", [-150, -30, 0, 90])
def test_a_turn_of_hues_is_estimated_as_what_it_is(images, degrees):
    study = experiment("position_colour")
    pale = 0.4 + 0.2 * images  # so that no turned colour leaves [0, 1]
    turned = study.turned(pale, degrees)
    assert torch.allclose(study.estimated_turn(pale, turned), torch.full((6,), float(degrees)), atol=0.05)
    assert torch.allclose(study.grey(turned), study.grey(pale), atol=1e-5)  # the luminance stays
    assert study.circular_error(torch.tensor([179.0, -170.0]), -175).tolist() == [6, 5]


def test_grey_has_no_colour(images):
    study = experiment("position_colour")
    assert study.chroma(study.grey(images)).abs().max() < 1e-3  # YIQ's published digits don't sum to nothing quite


def test_images_themselves_are_measured_right(smooth):
    cfg = OmegaConf.create({"shifts": [-8, 16], "turns": [30]})
    rows = experiment("position_colour").measures(cfg, None, 0.4 + 0.2 * smooth)
    found = {(row["what"], row["done"]): row for row in rows}
    assert found["shift", -8]["estimate"] == -8 and found["shift", 16]["error"] == 0
    assert found["turn", 30]["estimate"] == pytest.approx(30, abs=0.1)
    assert found["grey", 0]["estimate"] < 0.02


# interpolate


def test_from_one_feature_to_another():
    way = experiment("interpolate").between(torch.zeros(2, 3), torch.ones(2, 3), 5)
    assert way.shape == (5, 2, 3) and way[:, 0, 0].tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_the_mean_of_a_class():
    values, labels = torch.tensor([[1.0], [3.0], [10.0]]), torch.tensor([4, 4, 7])
    assert experiment("interpolate").class_means(values, labels, [7, 4]).tolist() == [[10], [2]]


def test_a_random_feature_has_each_units_own_values():
    features = torch.stack([torch.arange(5.0), 100 + torch.arange(5.0)], dim=1)[:, :, None, None]
    found = experiment("interpolate").drawn(features, 200, torch.Generator().manual_seed(0))
    assert found.shape == (200, 2, 1, 1)
    assert set(found[:, 0].flatten().tolist()) == set(range(5)) and set(found[:, 1].flatten().tolist()) == set(range(100, 105))
    together = torch.corrcoef(found.flatten(1).T)[0, 1]
    assert abs(together) < 0.25  # the units are drawn apart, though in the images they go together


def test_detail_is_the_mean_difference_of_neighbours():
    stripes = torch.zeros(1, 3, 100, 100)
    stripes[..., ::2] = 1
    detail = experiment("interpolate").detail
    assert detail(stripes) == pytest.approx(0.5, rel=0.02) and detail(torch.ones(2, 3, 9, 9)) == 0


# channels


class Sum(nn.Module):
    """A decoder that draws the sum of the first two of three channels in grey."""

    def predict(self, features):
        return features[:, :2].sum(1, keepdim=True).expand(-1, 3, -1, -1)


class FakeRun:
    layer = "conv5"
    decoder = Sum()
    standardize = nn.Identity()


def test_a_dead_channel_changes_nothing_and_a_live_one_what_it_should(sweep):
    channels = experiment("channels")
    study = Study(OmegaConf.create({"runs": str(sweep), "weights": None, "part": "val", "images": None}))
    n = study.native_size
    truth = pixels.normalize(study.images)[:, 0]
    study.images = study.images[:, :1].expand(-1, 3, -1, -1)  # grey, so that the decoder can be right
    noise = torch.randn(len(truth), n, n, generator=torch.Generator().manual_seed(0))
    features = torch.stack([truth - 0.25, torch.full_like(truth, 0.25), noise], dim=1)
    mean = features.mean(0)
    rises = channels.importance(study, FakeRun(), features, mean, torch.arange(3))
    assert rises[0] > 1e-3 and rises[1:].abs().max() < 1e-7
    assert torch.equal(channels.alone(features, mean, torch.arange(3)), features)
    assert torch.equal(channels.held(features, mean, torch.tensor([1]))[:, 1], mean[1].expand(len(truth), n, n))
    order = torch.tensor([0, 1, 2])
    one, *_, whole = channels.keeping(study, FakeRun(), features, mean, order, [0.01, 1.0])
    assert one == pytest.approx(whole, abs=1e-7) and whole < 1e-7
    assert channels.variances(features, mean)[1] == 0


def test_a_unit_reaches_what_moves_it_and_nothing_else():
    encoder, reach = Encoder("conv1", "random"), experiment("channels").reach
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
    patches = experiment("channels").exciting_patches(encoder, native, features, 5, 2)
    assert patches.shape == (2, 3, 227, 227) and patches.dtype == torch.uint8
    alone = experiment("channels").exciting_patches(encoder, native[1:2], features[1:2], 5, 1)
    assert torch.equal(patches[0], alone[0]) and not torch.equal(patches[0], patches[1])


# optimise


def test_priors_have_the_values_they_should():
    optimise = experiment("optimise")
    ramp = torch.arange(10.0).expand(1, 3, 10, 10)
    assert optimise.total_variation(ramp, 2).item() == pytest.approx(1) and optimise.total_variation(2 * ramp, 1).item() == 2
    features = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    assert optimise.distances(torch.zeros(2, 2), features).tolist() == [1, 1]
    assert optimise.distances(features, features).tolist() == [0, 0]


def test_optimisation_comes_closer_whoever_is_in_the_batch():
    optimise, encoder = experiment("optimise"), Encoder("conv1", "random")
    native = pixels.resize(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1, 64)
    wanted = encoder(pixels.resize(native, 227))
    noise = torch.stack([optimise.started_from(i, 64, 0) for i in range(2)])
    assert not torch.equal(noise[0], noise[1])
    cfg = OmegaConf.create({"steps": 15, "lr": 0.1, "tv": 0.01, "beta": 2.0, "alpha": 6, "bound": 0.01})
    found = optimise.invert(encoder, wanted, noise, cfg)
    assert found.shape == (2, 3, 227, 227)
    before = optimise.distances(encoder(pixels.resize(noise, 227)), wanted)
    assert (optimise.distances(encoder(found), wanted) < 0.5 * before).all()
    alone = optimise.invert(encoder, wanted[1:], noise[1:], cfg)
    assert torch.allclose(alone[0], found[1], atol=1e-3)


def test_images_that_are_done_are_kept_and_others_go_on(sweep, tmp_path, one_line):
    options = [f"runs={sweep}", "steps=2", "batch=1", f"hydra.run.dir={tmp_path}"]
    assert run_experiment("optimise", *options, "shown=2") == Outcome(0, "")
    done = tmp_path / "images" / "Conv5"
    before = (done / "0.pt").stat().st_mtime_ns
    (done / "1.pt").unlink()
    assert run_experiment("optimise", *options, "shown=2") == Outcome(0, "")
    assert (done / "0.pt").stat().st_mtime_ns == before and (done / "1.pt").is_file()
    outcome = run_experiment("optimise", *options, "shown=2", "lr=1")
    assert outcome.code == 1 and "made with other options" in one_line(outcome.said)


# controls


def test_the_nearest_is_found_whichever_batch_it_is_in():
    features = torch.tensor([[0.0, 0.0], [5.0, 5.0]])
    batches = [torch.tensor([[9.0, 9.0], [4.0, 5.0]]), torch.tensor([[0.1, 0.0], [5.0, 4.5]])]
    assert experiment("controls").nearest(features, batches).tolist() == [2, 3]


def test_the_features_error_is_0_for_the_same_and_1_for_their_mean():
    features = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    error = experiment("controls").feature_error
    assert error(features, features) == 0
    assert error(features.mean(0).expand_as(features), features) == pytest.approx(1)


def test_controls_train_what_they_compare_and_go_on(sweep, tmp_path):
    options = [f"runs={sweep / 'fc8'}", "epochs=1", "shown=2", f"hydra.run.dir={tmp_path}"]
    assert run_experiment("controls", *options) == Outcome(0, "")
    rows = {row["method"]: row for row in csv.DictReader((tmp_path / "controls.csv").open())}
    assert list(rows) == ["Decoder", "Untrained encoder", "Autoencoder", "Nearest image", "Mean image"]
    assert float(rows["Nearest image"]["feature_error"]) < float(rows["Mean image"]["feature_error"])
    assert {path.name for path in (tmp_path / "fc8").iterdir()} == {"decoder", "untrained", "autoencoder"}
    of_decoder, of_autoencoder = (
        torch.load(tmp_path / "fc8" / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("decoder", "autoencoder")
    )
    assert not any(key.startswith("encoder.") for key in of_decoder)
    started = Encoder("fc8", "random").network.state_dict()
    assert any(not torch.equal(of_autoencoder[f"encoder.network.{key}"], value) for key, value in started.items())
    before = (tmp_path / "fc8" / "autoencoder" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    assert run_experiment("controls", *options) == Outcome(0, "")
    assert (tmp_path / "fc8" / "autoencoder" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("optimizer.lr=0.5", "optimizer.lr=0.002, not 0.5"),
        ("data.seed=7", "data.seed=0, not 7"),
        ("+optimizer.gone=1", "optimizer.gone=left out, not 1"),
        ("decoder.gone=1", "has options that are no longer there"),
    ],
)
def test_controls_refuse_a_run_whose_options_have_come_to_mean_something_else(sweep, tmp_path, one_line, option, expected):
    """The record is what counts: a default that has changed since is as good as an option that has."""
    run = tmp_path / "fc8"
    shutil.copytree(sweep / "fc8", run)
    options = run / ".hydra" / "overrides.yaml"
    options.write_text(options.read_text() + f"- {option}\n")
    outcome = run_experiment("controls", f"runs={run}", "epochs=1", f"hydra.run.dir={tmp_path / 'controls'}")
    assert outcome.code == 1 and expected in one_line(outcome.said)
    assert not list((tmp_path / "controls").rglob("*.ckpt"))


# each on a small sweep

SMALL = {
    "frequency": [],
    "perturb": ["shown=2", "top=[1,5]"],
    "compare_layers": ["shown=2", "extremes=2"],
    "position_colour": ["images=2", "shown=1", "shifts=[8]", "turns=[90]"],
    "interpolate": ["pairs=1", "steps=3", "classes=2", "draws=2"],
    "channels": ["images=3", "candidates=4", "shown=2", "patches=2"],
    "optimise": ["shown=2", "steps=2"],
}


@pytest.mark.parametrize("name", SMALL)
def test_a_study_writes_figure_table_and_findings(sweep, tmp_path, capsys, name):
    assert run_experiment(name, f"runs={sweep}", *SMALL[name], f"hydra.run.dir={tmp_path}") == Outcome(0, "")
    rows = list(csv.DictReader((tmp_path / f"{name}.csv").open()))
    assert {row["run"] for row in rows} >= {"Conv5", "FC8"}
    figures = list(tmp_path.glob("*.png"))
    assert tmp_path / f"{name}.png" in figures
    for path in figures:
        with Image.open(path) as figure:
            assert figure.width > 250 and len(figure.convert("RGB").getcolors(1 << 24)) > 10
    assert list((tmp_path / "tensorboard").iterdir())
    findings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Finding")]
    assert {line.split()[1].rstrip(":") for line in findings} >= {"Conv5", "FC8"}


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("frequency", ["runs=/nowhere"], "holds no finished run"),
        ("frequency", ["images=1000"], "images=1000"),
        ("frequency", ["part=train"], "part=train"),
        ("perturb", ["drop=2"], "drop=2"),
        ("perturb", ["top=[5000]"], "top=[5000]"),
        ("compare_layers", ["chosen=[nothing]"], "chosen=nothing fits 0"),
        ("compare_layers", ["extremes=100"], "extremes=100"),
        ("position_colour", ["images=2", "shifts=[60]"], "60 pixels"),
        ("interpolate", ["pairs=100"], "pairs=100"),
        ("channels", ["images=3", "patches=1", "kept=[0]"], "kept=[0]"),
        ("channels", ["images=3", "patches=1", "image=100"], "image=100"),
        ("controls", ["epochs=0"], "epochs=0"),
        ("optimise", ["steps=0"], "steps=0"),
        ("optimise", ["tv=-1"], "tv=-1"),
    ],
)
def test_what_cant_be_studied_is_said(sweep, tmp_path, one_line, name, arguments, expected):
    done = run_experiment(name, f"runs={sweep}", *arguments, f"hydra.run.dir={tmp_path}")
    assert done.code == 1 and expected in one_line(done.said)
