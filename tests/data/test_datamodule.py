import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ARCHIVE, needs_real_data
from PIL import Image
from test_image_folder import fill

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.core.pixels import to_input
from inversion.data.batches import Shuffle
from inversion.data.features import FeatureCache
from inversion.data.image_folder import ImageFolder
from inversion.data.split import Split
from inversion.data.synthetic import SyntheticImages
from inversion.data.tiny_imagenet import TinyImageNet
from inversion.encoders.alexnet import Encoder


@pytest.fixture
def data(synthetic_root):
    return TinyImageNet(str(synthetic_root), classes=3, val_per_class=2, batch_size=5)


def test_batches_are_whole_native_and_bytes(data):
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (5, 3, 64, 64) and batch.images.dtype == torch.uint8
    assert batch.features is None
    large = to_input(batch.images)
    assert large.shape == (5, 3, 227, 227) and large.dtype == torch.float32
    assert -1 <= large.min() < -0.3 and 0.3 < large.max() <= 1


def test_every_image_comes_once_an_epoch_in_an_order_of_seed_and_epoch(data):
    loader = data.train_dataloader()

    def order(epoch):
        loader.sampler.set_epoch(epoch)
        return torch.cat([batch.images for batch in loader])

    first = order(0)
    assert len(first) == 12
    assert torch.equal(first, order(0)) and not torch.equal(first, order(1))
    assert torch.equal(first.flatten(1).sum(1).sort()[0], data.images("train").flatten(1).sum(1).sort()[0])


def test_neighbouring_seeds_and_epochs_have_unrelated_orders():
    def order(seed, epoch):
        shuffle = Shuffle(50, seed, flip=False)
        shuffle.set_epoch(epoch)
        return tuple(shuffle)

    assert len({order(seed, epoch) for seed in range(4) for epoch in range(4)}) == 16


def test_a_last_batch_of_one_is_dropped(synthetic_root):
    data = TinyImageNet(str(synthetic_root), classes=3, val_per_class=2, batch_size=11)
    assert [len(batch.images) for batch in data.train_dataloader()] == [11]


def test_the_test_split_is_left_alone_until_asked_for(data):
    data.setup("fit")
    assert set(data._images) == {"train", "val"}
    assert len(data.images("test")) == 6


def test_native_size_follows_the_data(tmp_path, data):
    assert data.native_size == 64
    for name, size, native in (("small", (40, 30), 30), ("large", (900, 600), 227), ("tiny", (2, 1), 16)):
        fill(tmp_path / name, 5, size)
        assert ImageFolder(str(tmp_path / name)).native_size == native


def test_a_source_without_images_is_told(data, monkeypatch, one_line):
    monkeypatch.setattr(data, "find_split", lambda: Split(Path("here"), {}, [], [], []))
    with pytest.raises(InputError, match="here has no train images") as error:
        data.native_size  # noqa: B018
    one_line(str(error.value))


def test_broken_images_are_named(tmp_path, one_line):
    fill(tmp_path, 12)
    (tmp_path / "5.png").write_bytes((tmp_path / "5.png").read_bytes()[:50])
    (tmp_path / "7.png").write_text("<html>")
    for seed in range(2):
        with pytest.raises(InputError, match=r"[57]\.png") as error:
            ImageFolder(str(tmp_path), seed=seed).setup("fit")
        one_line(str(error.value))


def test_the_mean_image_is_the_train_images_mean(data):
    by_hand = pixels.normalize(data.images("train")).double().mean(0)
    assert torch.allclose(data.mean_image().double(), by_hand, atol=1e-5)


def test_samples_are_the_same_every_time_and_spread_over_classes(data):
    files, images = data.examples("val", 3)
    assert images.shape == (3, 3, 227, 227)
    assert len({name.split("/")[1] for name in files}) == 3
    assert files == TinyImageNet(str(data.root), classes=3, val_per_class=2).examples("val", 3)[0]


@pytest.fixture
def cached(synthetic_root, tmp_path):
    def make(**options):
        return TinyImageNet(
            str(synthetic_root), classes=3, val_per_class=2, batch_size=5, cache=str(tmp_path / "cache"), **options
        )

    return make


def test_one_pass_caches_the_features_of_several_layers(cached, monkeypatch):
    layers = ["conv2", "conv5", "fc8"]
    encoders = {layer: Encoder(layer, "random") for layer in layers}
    cached().use_features(encoders["fc8"], layers)
    monkeypatch.setattr(FeatureCache, "_encode", None)  # nothing is encoded from here on
    for layer, encoder in encoders.items():
        data = cached()
        assert not data.lacks_features(encoder)
        data.use_features(encoder, [layer])
        for loader in (data.train_dataloader(), data.val_dataloader()):
            batch = next(iter(loader))
            assert batch.features.dtype == torch.float16
            assert torch.allclose(batch.features.float(), encoder(to_input(batch.images)), rtol=2e-3, atol=2e-3)


def shown(data, epoch):
    """Each training image of an epoch by its file's number, and whether it came mirrored; checks its features on the way."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    upright = {image.numpy().tobytes(): i for i, image in enumerate(data.images("train"))}
    mirrored = {image.flip(-1).numpy().tobytes(): i for i, image in enumerate(data.images("train"))}
    assert not set(upright) & set(mirrored)
    found = []
    for batch in loader:
        for image in batch.images:
            key = image.numpy().tobytes()
            found.append((upright.get(key, mirrored.get(key)), key in mirrored))
    return found


def test_half_of_the_images_are_mirrored_anew_each_epoch(cached):
    data = cached(flip=True, shuffle_seed=3)
    epochs = [shown(data, epoch) for epoch in range(8)]
    number = len(data.images("train"))
    for epoch in epochs:
        assert sorted(index for index, _ in epoch) == list(range(number))
    assert 0.3 < sum(mirrored for epoch in epochs for _, mirrored in epoch) / (8 * number) < 0.7
    assert len({tuple(sorted(epoch)) for epoch in epochs}) > 4
    assert shown(cached(flip=True, shuffle_seed=3), 5) == epochs[5]  # a resumed run's
    assert not any(mirrored for _, mirrored in shown(cached(), 0))


def test_mirrored_images_come_with_their_own_features(cached):
    encoder = Encoder("fc8", "random")
    data = cached(flip=True, feature_type="float32")
    data.use_features(encoder, ["conv2", "fc8"])
    data.use_features(encoder, ["fc8"])
    assert not data.lacks_features(Encoder("conv2", "random"))
    assert not cached(feature_type="float32").lacks_features(encoder)
    for epoch in range(2):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            assert torch.allclose(batch.features, encoder(to_input(batch.images)), rtol=1e-3, atol=1e-4)
    assert cached(flip=True).lacks_features(encoder)  # float16's


@pytest.mark.parametrize(
    "other",
    [
        {"encoder": {"seed": 1}},
        {"encoder": {"input_stats": "imagenet"}},
        {"data": {"seed": 1}},
        {"data": {"feature_type": "float32"}},
    ],
)
def test_features_of_other_weights_inputs_or_images_are_not_taken(cached, other):
    cached().use_features(Encoder("conv5", "random"), ["conv5"])
    assert not cached().lacks_features(Encoder("conv5", "random"))
    assert cached(**other.get("data", {})).lacks_features(Encoder("conv5", "random", **other.get("encoder", {})))


def test_a_changed_image_is_decoded_again(cached, synthetic_root, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(synthetic_root, root)
    options = {"classes": 3, "val_per_class": 2, "cache": str(tmp_path / "cache")}
    before = TinyImageNet(str(root), **options)
    assert torch.equal(TinyImageNet(str(root), **options).images("train"), before.images("train"))
    path = root / before.split.train[0]
    Image.new("RGB", (64, 64), (1, 2, 3)).save(path)
    after = TinyImageNet(str(root), **options).images("train")
    assert not torch.equal(after[0], before.images("train")[0]) and torch.equal(after[1:], before.images("train")[1:])


def test_a_brighter_image_of_another_part_changes_what_is_white(tmp_path):
    """Images of more than 8 bits share one white, which cached ones have to follow."""
    for part, value in {"train": 800, "val": 700, "test": 600}.items():
        (tmp_path / "data" / part).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(np.array([[0, value]] * 32, np.uint16)).save(tmp_path / "data" / part / f"{i}.png")

    def brightest():
        return int(ImageFolder(str(tmp_path / "data"), cache=str(tmp_path / "cache")).images("train").max())

    assert brightest() == brightest() == round(800 / 1023 * 255)
    Image.fromarray(np.array([[0, 3000]] * 32, np.uint16)).save(tmp_path / "data" / "test" / "2.png")
    assert brightest() == round(800 / 4095 * 255)


@pytest.mark.parametrize("room", [True, False])
def test_features_of_another_encoder_are_forgotten(cached, monkeypatch, room):
    """fc6 and fc7 have the same shape: nothing else would tell them apart."""
    first, second = Encoder("fc6", "random"), Encoder("fc7", "random")
    data = cached()
    data.use_features(first)
    if not room:
        monkeypatch.setattr(data.cache, "has_room", lambda entries: False)
    data.use_features(second)
    for batch in data.train_dataloader():
        if room:
            assert torch.allclose(batch.features.float(), second(to_input(batch.images)), rtol=2e-3, atol=2e-3)
        else:
            assert batch.features is None


@pytest.mark.parametrize("room", [True, False])
def test_encoded_images_come_with_the_features_of_several_layers(cached, monkeypatch, room):
    layers, encoder, data = ["conv5", "fc8"], Encoder("fc8", "random"), cached()
    if room:
        data.use_features(encoder, layers, test=True)
        monkeypatch.setattr(FeatureCache, "_encode", None)  # nothing is encoded from here on
    else:
        assert all(len(data.images(part)) for part in ("val", "test"))
        monkeypatch.setattr(data.cache, "has_room", lambda entries: False)
    for part in ("val", "test"):
        batches = list(data.encoded(part, encoder, layers, torch.device("cpu"), "Scoring"))
        assert torch.equal(torch.cat([images for images, _ in batches]), data.images(part)) and len(batches) > 1
        for images, features in batches:
            for layer, expected in encoder.features(to_input(images), layers).items():
                assert features[layer].dtype == torch.float32
                assert torch.equal(features[layer], expected) != room  # those cached are rounded
                assert torch.allclose(features[layer], expected, rtol=2e-3, atol=2e-3)


def test_training_features_are_not_cached_for_their_statistics_alone(cached, monkeypatch, tmp_path):
    encoder, data = Encoder("fc8", "random"), cached()
    data.setup("fit")
    with monkeypatch.context() as context:
        context.setattr(data.cache, "has_room", lambda entries: False)
        data.use_features(encoder)
    for images, features in data.encoded("train", encoder, ["fc8"], torch.device("cpu"), "Measuring"):
        assert torch.equal(features["fc8"], encoder(to_input(images)))
    assert not list((tmp_path / "cache").glob("*features*"))


def test_features_too_large_for_half_precision_are_refused(cached, one_line):
    encoder = Encoder("conv5", "random")
    for parameter in encoder.parameters():
        parameter.mul_(100)
    with pytest.raises(InputError, match="data.feature_type") as error:
        cached().use_features(encoder, ["conv5"])
    one_line(str(error.value))


def test_synthetic_images_are_drawn_by_the_seed_and_never_over_something_else(tmp_path, one_line):
    options = {"train_per_class": 2, "test_per_class": 1, "val_per_class": 1, "classes": 20}
    first, same, other = (
        SyntheticImages(str(tmp_path / name), seed=seed, **options) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    for data in (first, same, other):
        data.prepare_data()
        data.prepare_data()
    assert torch.equal(first.images("train"), same.images("train"))
    assert not torch.equal(first.images("train"), other.images("train"))
    assert len(first.images("test")) == 20
    with pytest.raises(InputError, match="something else") as error:
        SyntheticImages(str(tmp_path / "a"), seed=5, **options).prepare_data()
    one_line(str(error.value))


@pytest.mark.parametrize(
    ("options", "expected"), [({"batch_size": 0}, "data.batch_size"), ({"native_size": 500}, "data.native_size")]
)
def test_impossible_options_are_refused(options, expected):
    with pytest.raises(InputError, match=expected):
        TinyImageNet("anywhere", **options)


@pytest.mark.slow
@needs_real_data
def test_real_tiny_imagenet(tmp_path):
    data = TinyImageNet(str(tmp_path), archive=str(ARCHIVE), seed=0)
    data.prepare_data()
    data.setup("fit")
    assert [len(data.images(part)) for part in ("train", "val", "test")] == [9000, 1000, 1000]
    assert data.native_size == 64 and len(data.split.classes) == 20
    assert data.split.digest == "0a26c7862d786e6a0afa0745aabf90f4019fa18267891aed75454e21889e27f8"  # as ever
