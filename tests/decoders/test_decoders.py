from types import SimpleNamespace

import pytest
import torch
from conftest import REPOSITORY
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.decoders.compact import CompactDecoder, sizes_between
from inversion.decoders.ensemble import Ensemble
from inversion.decoders.published import PublishedDecoder
from inversion.encoders.alexnet import TAPS
from inversion.training.building import build_decoder


def published(*arguments, batch_norm=(), nearest=True, **options):
    return PublishedDecoder(*arguments, batch_norm=batch_norm, last_activation=True, nearest=nearest, **options)


def configured(decoder, layer, native_size=64, *options):
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        config = compose("config", [f"decoder={decoder}", f"layer={layer}", *options])
    return build_decoder(config.decoder, SimpleNamespace(feature_shape=TAPS[layer].shape), native_size)


@pytest.mark.parametrize("layer", TAPS)
@pytest.mark.parametrize(("name", "options"), [("compact", []), ("published", ["decoder.last_activation=false"])])
def test_every_layer_gives_a_linear_image_of_the_inputs_size(name, options, layer):
    decoder = configured(name, layer, 64, *options).eval()
    with torch.no_grad():
        image = decoder(torch.randn(2, *TAPS[layer].shape))
    assert image.shape == (2, 3, 227, 227)
    last = [module for module in decoder.modules() if not isinstance(module, nn.ModuleList)][-1]
    assert isinstance(last, nn.Conv2d | nn.ConvTranspose2d)


# By hand, weights and biases: three 3x3 convolutions, five 5x5 up-convolutions, three fully connected layers of 4096, and
# batch normalisation of 256 channels, for vectors of 64 more.
UP = sum(25 * a * b + b for a, b in [(256, 256), (256, 128), (128, 64), (64, 32), (32, 3)]) + 2 * 256


@pytest.mark.parametrize(
    ("layer", "weights", "working_size"),
    [
        ("conv5", 3 * (9 * 256 * 256 + 256) + UP, 192),
        ("conv2", 9 * 192 * 256 + 256 + 2 * (9 * 256 * 256 + 256) + UP, 416),
        ("fc6", 3 * (4096 * 4096 + 4096) + UP + 2 * 64, 128),
        ("fc8", 1000 * 4096 + 4096 + 2 * (4096 * 4096 + 4096) + UP + 2 * 64, 128),
        ("conv1", 9 * 64 * 256 + 256 + 2 * (9 * 256 * 256 + 256) + 25 * (256 * 64 + 64 * 32 + 32 * 3) + 99 + 2 * 64, 216),
    ],
)
def test_published_sizes_are_the_published_ones(layer, weights, working_size):
    decoder = configured("published", layer)
    assert sum(parameter.numel() for parameter in decoder.parameters()) == weights
    with torch.no_grad():
        assert decoder.eval().body(torch.zeros(1, *TAPS[layer].shape)).shape[-1] == working_size


def test_published_is_the_published_codes_sequence_with_its_faults():
    """A LeakyReLU on the image, and a resize by nearest neighbour; or, where chosen so, neither."""
    body = configured("published", "fc8").body
    assert [type(module).__name__ for module in body] == [
        *(["Linear", "LeakyReLU"] * 3),
        *("Unflatten", "ConvTranspose2d", "BatchNorm2d", "LeakyReLU", "ConvTranspose2d", "LeakyReLU"),
        *("ConvTranspose2d", "BatchNorm2d", "LeakyReLU", *(["ConvTranspose2d", "LeakyReLU"] * 2)),
    ]
    decoder = configured("published", "conv5").eval()
    linear = configured("published", "conv5", 64, "decoder.last_activation=false", "decoder.nearest=false").eval()
    linear.load_state_dict(decoder.state_dict())
    features = 100 * torch.randn(2, 256, 6, 6)  # the image then has both signs
    with torch.no_grad():
        image = linear.predict(features)
        expected = nn.functional.interpolate(nn.functional.leaky_relu(image, 0.2), 227, mode="nearest")
        assert image.shape[-1] == 192 and image.min() < 0
        torch.testing.assert_close(decoder.predict(features), expected)
        torch.testing.assert_close(decoder(features), expected.clamp(-1, 1))


@pytest.mark.parametrize("layer", TAPS)
def test_compact_is_smaller_than_published(layer):
    sizes = [sum(p.numel() for p in configured(name, layer).parameters()) for name in ("compact", "published")]
    assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize("native_size", [16, 50, 64, 101, 227])
@pytest.mark.parametrize("layer", ["conv1", "conv5", "fc8"])
def test_compact_follows_the_datas_resolution(native_size, layer):
    decoder = configured("compact", layer, native_size).eval()
    with torch.no_grad():
        features = torch.zeros(1, *TAPS[layer].shape)
        assert decoder.predict(features).shape == (1, 3, native_size, native_size)
        assert decoder(features).shape == (1, 3, 227, 227)


def test_compact_draws_at_its_share_of_the_datas_resolution():
    decoder = configured("compact", "fc8", 64, "decoder.members=1").eval()
    with torch.no_grad():
        image = decoder.predict(torch.randn(2, 1000))
    assert decoder.sizes == [4, 8, 16] and image.shape == (2, 3, 64, 64) and image.std() > 0
    waves = ((torch.arange(64)[:, None] + 0.5) / 64 * torch.pi * torch.arange(64)).cos()
    coefficients = waves.T @ image @ waves
    coefficients[..., :16, :16] = 0
    assert coefficients.abs().max() < 1e-3  # nothing finer than what 16 pixels hold


@pytest.mark.parametrize(
    ("kernels", "decoder"),
    [
        ([5, 5, 5], lambda: CompactDecoder((8, 4, 4), 64, channels=[8, 4], depth=[1, 1], kernel=5)),
        (
            [1, 7],
            lambda: published((8, 4, 4), 64, channels=[8], up_channels=[3], kernel=1, up_kernel=7, nearest=False),
        ),
    ],
)
def test_kernels_of_any_odd_side_keep_the_sizes(kernels, decoder):
    built = decoder().eval()
    convolutions = [m for m in built.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    sides = [m.kernel_size[0] for m in convolutions]
    assert sides == kernels or [side for side in sides if side > 1] == kernels  # compact has 1x1 ones beside
    with torch.no_grad():
        image = built.predict(torch.zeros(1, 8, 4, 4))
    assert image.shape == (1, 3, *[64 if isinstance(built, CompactDecoder) else 8] * 2)


def test_an_ensemble_predicts_the_mean_of_its_members():
    members = [CompactDecoder((8, 4, 4), 64, channels=[8, 4], depth=[1, 1]) for _ in range(3)]
    ensemble, features = Ensemble(members), torch.randn(2, 8, 4, 4)
    images = ensemble.predictions(features)
    for image, member in zip(images, members, strict=True):
        torch.testing.assert_close(image, member.predict(features))
    torch.testing.assert_close(ensemble.predict(features), torch.stack(images).mean(0))
    assert ensemble(features).shape == (2, 3, 227, 227)


@pytest.mark.parametrize("decoder", ["compact", "published"])
def test_members_start_from_weights_of_their_own(decoder):
    torch.manual_seed(0)
    alone = [configured(decoder, "conv5", 64, "decoder.members=1").state_dict() for _ in range(3)]
    torch.manual_seed(0)
    ensemble = configured(decoder, "conv5", 64, "decoder.members=3")
    for member, state in zip(ensemble.members, alone, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in member.state_dict().items())


@pytest.mark.parametrize("members", [0, 1.5, "many"])
def test_a_number_of_members_that_makes_no_sense_is_refused(members, one_line):
    with pytest.raises(InputError, match=f"decoder.members={members}") as error:
        configured("compact", "conv5", 64, f"decoder.members={members}")
    one_line(str(error.value))


def test_a_decoder_that_samples_is_one_network(one_line):
    with pytest.raises(InputError, match="decoder.members=2") as error:
        configured("flow", "conv5", 64, "+decoder.members=2")
    one_line(str(error.value))


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 64, 32), (12288,)])
def test_a_decoder_that_gives_no_images_is_refused(shape, monkeypatch, one_line):
    monkeypatch.setattr(CompactDecoder, "predict", lambda self, features: torch.zeros(len(features), *shape))
    with pytest.raises(InputError, match=r"must give \(B, 3, s, s\)") as error:
        configured("compact", "conv5", 64, "decoder.members=1")
    one_line(str(error.value))


@pytest.mark.parametrize("members", [1, 2])
def test_what_is_no_decoder_is_refused(members, one_line):
    encoder = SimpleNamespace(feature_shape=TAPS["conv5"].shape)
    for target in ({}, {"_target_": "torch.nn.Identity"}):
        with pytest.raises(InputError, match="decoder._target_") as error:
            build_decoder(OmegaConf.create({"members": members, **target}), encoder, 64)
        one_line(str(error.value))


def checkers(images):
    """Energy at the finest checkerboards (period 2 along either axis) over that of the frequencies beside them."""
    spectrum = torch.fft.fft2(images - images.mean((-2, -1), keepdim=True)).abs().square().mean((0, 1))
    n = images.shape[-1] // 2
    return max(
        (spectrum[n, 1:n].mean() / spectrum[n - 3, 1:n].mean()), (spectrum[1:n, n].mean() / spectrum[1:n, n - 3].mean())
    )


@pytest.mark.parametrize("layer", ["conv2", "conv5", "fc8"])
def test_compact_does_not_checker(layer):
    """Freshly initialised, where transposed and sub-pixel convolutions checker most."""
    torch.manual_seed(0)
    features = torch.randn(8, *TAPS[layer].shape)
    decoder = configured("compact", layer, 64, "decoder.members=1")
    with torch.no_grad():
        assert checkers(pixels.to_native(decoder.predict(features), decoder.sizes[-1])) < 1.2
        assert layer != "conv5" or checkers(configured("published", layer).eval().body(features)) > 1.2


@pytest.mark.parametrize(
    ("first", "last", "number", "sizes"),
    [
        (4, 32, 4, [4, 8, 16, 32]),
        (6, 32, 3, [6, 14, 32]),
        (13, 32, 1, [32]),
        (13, 32, 0, []),
        (13, 8, 2, [13, 8]),
        (4, 114, 2, [4, 114]),
    ],
)
def test_working_sizes(first, last, number, sizes):
    assert sizes_between(first, last, number) == sizes


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: CompactDecoder((8, 4, 4), 64, channels=[8, 0], depth=[1, 1]), "decoder.channels"),
        (lambda: CompactDecoder((8, 4, 4), 64, channels=[8, 8], depth=[1]), "decoder.depth"),
        (lambda: CompactDecoder((8, 4, 4), 64, channels=[], depth=[]), "decoder.channels"),
        (lambda: CompactDecoder((8,), 64, channels=[8], depth=[1]), "decoder.bottleneck"),
        (lambda: CompactDecoder((8, 4, 4), 64, channels=[8], depth=[1], bottleneck=3), "decoder.bottleneck=3 is for"),
        (lambda: CompactDecoder((8,), 64, channels=[8], depth=[1], bottleneck=3, hidden=0), "decoder.hidden=0"),
        (lambda: CompactDecoder((8,), 64, channels=[8], depth=[1], bottleneck=3, hidden=1), "decoder.dropout=None"),
        (lambda: CompactDecoder((8, 4, 4), 64, channels=8, depth=[1]), "decoder.channels=8 must be a list"),
        (lambda: CompactDecoder((8, 4, 4), 64, channels=[8], depth=1), "decoder.depth=1 must be a list"),
        (lambda: CompactDecoder((8, 4, 4), 64, channels=[8], depth=[1], kernel=4), "decoder.kernel=4"),
        (lambda: CompactDecoder((8, 4, 4), 64, channels=[8], depth=[1], resolution=2.0), "decoder.resolution=2.0"),
        (lambda: published((8, 4, 4), 64, up_channels=[3], up_kernel="5"), "decoder.up_kernel=5"),
        (lambda: published((8,), 64, up_channels=[3], hidden=[100]), "decoder.hidden"),
        (lambda: published((8, 4, 4), 64, up_channels=[3], batch_norm=[2]), "decoder.batch_norm"),
        (lambda: published((8, 4, 4), 64, up_channels=[8, 4]), "must end with 3"),
        (lambda: published((8, 4, 4), 64, up_channels=[3], hidden=[16]), "decoder.hidden"),
    ],
)
def test_options_that_do_not_fit_are_refused(build, expected, one_line):
    with pytest.raises(InputError, match=expected) as error:
        build()
    one_line(str(error.value))
