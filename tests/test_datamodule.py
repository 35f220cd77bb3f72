import shutil
from collections import Counter

import pytest
import torch
from conftest import ARCHIVE, needs_real_data
from PIL import Image
from test_image_folder import fill

from inversion import pixels
from inversion.alexnet import Encoder
from inversion.batches import Views
from inversion.datamodule import ImageDataModule, ImageFolder, MadeImages, TinyImageNet, to_input
from inversion.errors import InputError


@pytest.fixture
def data(made_root):
    return TinyImageNet(str(made_root), classes=3, val_per_class=2, batch_size=5)


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


def test_a_last_batch_of_one_is_dropped(made_root):
    data = TinyImageNet(str(made_root), classes=3, val_per_class=2, batch_size=11)
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
    files, images = data.samples("val", 3)
    assert images.shape == (3, 3, 227, 227)
    assert len({name.split("/")[1] for name in files}) == 3
    assert files == TinyImageNet(str(data.root), classes=3, val_per_class=2).samples("val", 3)[0]


@pytest.fixture
def cached(made_root, tmp_path):
    def make(**options):
        return TinyImageNet(str(made_root), classes=3, val_per_class=2, batch_size=5, cache=str(tmp_path / "cache"), **options)

    return make


def test_one_pass_caches_the_features_of_several_layers(cached, monkeypatch):
    layers = ["conv2", "conv5", "fc8"]
    encoders = {layer: Encoder(layer, "random") for layer in layers}
    cached().cache_features(encoders["fc8"], layers, torch.device("cpu"))
    monkeypatch.setattr(ImageDataModule, "_encode", None)  # nothing is encoded from here on
    for layer, encoder in encoders.items():
        data = cached()
        assert data.has_features(encoder)
        data.cache_features(encoder, [layer], torch.device("cpu"))
        for loader in (data.train_dataloader(), data.val_dataloader()):
            batch = next(iter(loader))
            assert batch.features.dtype == torch.float16
            assert torch.allclose(batch.features.float(), encoder(to_input(batch.images)), rtol=2e-3, atol=2e-3)


def by_hand(image, move, mirrored):
    """A view of an image (3, n, n), drawn slowly: moved by pixels (down, right) with reflected borders, then mirrored."""
    padded = torch.nn.functional.pad(image[None].float(), (8, 8, 8, 8), mode="reflect")[0].to(torch.uint8)
    down, right = move
    moved = padded[:, 8 + down : 72 + down, 8 + right : 72 + right]
    return moved.flip(-1) if mirrored else moved


def shown(data, epoch):
    """Each training image of an epoch by its number and view, in the order in which they come."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    images, views = data.images("train"), data.views
    known = {}
    for place, view in enumerate(views.views):
        for i, image in enumerate(images):
            drawn = by_hand(image, views._moves[view.copy, i].tolist(), view.mirrored)
            known.setdefault(drawn.numpy().tobytes(), (i, place))
    assert len(known) > 0.9 * len(images) * len(views.views)  # a copy may happen to stay where the image is
    return [known[image.numpy().tobytes()] for batch in loader for image in batch.images]


VIEWS = {"flip": True, "shifted": 2, "shift": 0.1}


def test_every_image_comes_once_an_epoch_in_a_view_drawn_anew(cached):
    data = cached(**VIEWS, shuffle_seed=3)
    epochs = [shown(data, epoch) for epoch in range(10)]
    number = len(data.images("train"))
    for epoch in epochs:
        assert sorted(index for index, _ in epoch) == list(range(number))
    counts = Counter(view for epoch in epochs for _, view in epoch)
    assert set(counts) == set(range(6)) and max(counts.values()) < 3 * min(counts.values())
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 10
    assert shown(cached(**VIEWS, shuffle_seed=3), 5) == epochs[5]  # a resumed run's
    assert not any(view for _, view in shown(cached(), 0))
    assert {view for _, view in shown(cached(flip=True), 0)} == {0, 1}


def test_copies_are_moved_by_up_to_a_share_of_the_side():
    moves = Views(1000, shifted=2, shift=3)._moves
    assert not moves[0].any() and (moves[1] != moves[2]).any()
    for copy in (1, 2):
        assert set(moves[copy].flatten().tolist()) == set(range(-3, 4))
    assert torch.equal(moves[:, :10], Views(10, shifted=2, shift=3)._moves)  # an image's own, whatever comes after it


@pytest.mark.parametrize("wrong", [{"shifted": -1}, {"shifted": 1.5}, {"shift": -0.1}, {"shift": 0.6}])
def test_shifts_that_make_no_sense_are_refused(cached, one_line, wrong):
    with pytest.raises(InputError, match=f"data.{next(iter(wrong))}") as error:
        cached(**wrong)
    one_line(str(error.value))


def test_every_view_comes_with_its_own_features(cached):
    encoder = Encoder("fc8", "random")
    data = cached(**VIEWS, feature_type="float32")
    data.cache_features(encoder, ["conv2", "fc8"], torch.device("cpu"))
    data.cache_features(encoder, ["fc8"], torch.device("cpu"))
    assert data.has_features(Encoder("conv2", "random")) and cached(feature_type="float32").has_features(encoder)
    for epoch in range(3):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            assert torch.allclose(batch.features, encoder(to_input(batch.images)), rtol=1e-3, atol=1e-4)
    assert cached(flip=True, feature_type="float32").has_features(encoder)
    for other in ({"feature_type": "float16"}, {"shifted": 3}, {"shift": 0.05}):
        assert not cached(**{**VIEWS, "feature_type": "float32", **other}).has_features(encoder)


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
    cached().cache_features(Encoder("conv5", "random"), ["conv5"], torch.device("cpu"))
    assert cached().has_features(Encoder("conv5", "random"))
    assert not cached(**other.get("data", {})).has_features(Encoder("conv5", "random", **other.get("encoder", {})))


def test_a_changed_image_is_decoded_again(cached, made_root, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(made_root, root)
    options = {"classes": 3, "val_per_class": 2, "cache": str(tmp_path / "cache")}
    before = TinyImageNet(str(root), **options)
    assert torch.equal(TinyImageNet(str(root), **options).images("train"), before.images("train"))
    path = root / before.split.train[0]
    Image.new("RGB", (64, 64), (1, 2, 3)).save(path)
    after = TinyImageNet(str(root), **options).images("train")
    assert not torch.equal(after[0], before.images("train")[0]) and torch.equal(after[1:], before.images("train")[1:])


def test_features_too_large_for_half_precision_are_told(cached, one_line):
    encoder = Encoder("conv5", "random")
    for parameter in encoder.parameters():
        parameter.mul_(100)
    with pytest.raises(InputError, match="data.feature_type") as error:
        cached().cache_features(encoder, ["conv5"], torch.device("cpu"))
    one_line(str(error.value))


def test_made_images_are_drawn_by_the_seed_and_never_over_something_else(tmp_path, one_line):
    options = {"train_per_class": 2, "test_per_class": 1, "val_per_class": 1, "classes": 20}
    first, same, other = (
        MadeImages(str(tmp_path / name), seed=seed, **options) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    for data in (first, same, other):
        data.prepare_data()
        data.prepare_data()
    assert torch.equal(first.images("train"), same.images("train"))
    assert not torch.equal(first.images("train"), other.images("train"))
    assert len(first.images("test")) == 20
    with pytest.raises(InputError, match="something else") as error:
        MadeImages(str(tmp_path / "a"), seed=5, **options).prepare_data()
    one_line(str(error.value))


@pytest.mark.parametrize(
    ("options", "expected"), [({"batch_size": 0}, "data.batch_size"), ({"native_size": 500}, "data.native_size")]
)
def test_impossible_options_are_refused(options, expected):
    with pytest.raises(InputError, match=expected):
        TinyImageNet("anywhere", **options)


@needs_real_data
def test_real_tiny_imagenet(tmp_path):
    data = TinyImageNet(str(tmp_path), archive=str(ARCHIVE), seed=0)
    data.prepare_data()
    data.setup("fit")
    assert [len(data.images(part)) for part in ("train", "val", "test")] == [9000, 1000, 1000]
    assert data.native_size == 64 and len(data.split.classes) == 20
