from functools import partial

import pytest
import torch
from lightning import Trainer
from torch import nn

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.data.batches import Batch
from inversion.data.tiny_imagenet import TinyImageNet
from inversion.decoders.compact import CompactDecoder
from inversion.decoders.ensemble import Ensemble
from inversion.decoders.losses import MSELoss
from inversion.decoders.standardize import Standardize
from inversion.encoders.alexnet import Encoder
from inversion.training.module import InversionModule


@pytest.fixture(scope="module")
def encoder():
    return Encoder("conv5", "random")


def make(encoder, lr=1e-3, step_size=4, loss=None):
    torch.manual_seed(0)
    decoder = CompactDecoder(encoder.feature_shape, 64, channels=[32, 16, 8, 8], depth=[1, 1, 1, 0])
    return InversionModule(
        encoder,
        decoder,
        loss=loss or MSELoss(),
        optimizer=partial(torch.optim.Adam, lr=lr),
        scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=step_size, gamma=0.5),
        standardize=Standardize(encoder.feature_shape),
    )


def fit(model, synthetic_root, epochs, batch_size=8, val=1, **options):
    data = TinyImageNet(str(synthetic_root), classes=4, val_per_class=val, batch_size=batch_size, **options)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, datamodule=data)
    return trainer


def test_loss_falls_in_a_few_steps(encoder, synthetic_root):
    losses = []

    class Watched(InversionModule):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            losses.append(loss.item())
            return loss

    model = make(encoder)
    model.__class__ = Watched
    fit(model, synthetic_root, epochs=4, batch_size=5)
    assert len(losses) == 16
    assert losses[-1] < 0.7 * losses[0]


def test_one_batch_can_be_overfitted(encoder, synthetic_root):
    model = make(encoder, lr=3e-3)
    images = pixels.normalize(TinyImageNet(str(synthetic_root), classes=4, val_per_class=5).images("train"))  # four
    features = encoder(pixels.resize(images, 227))
    model.standardize.fit([features])
    optimizer = model.configure_optimizers()["optimizer"]
    for _ in range(200):
        loss = model.loss(model.decoder.predict(model.standardize(features)), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    variance = (images - images.mean(0)).square().mean()
    assert loss < 0.1 * variance


def test_each_member_has_a_loss_of_its_own(encoder):
    """The loss of their mean would give all of them the same gradients."""
    torch.manual_seed(0)
    decoder = Ensemble([CompactDecoder(encoder.feature_shape, 64, channels=[32, 8], depth=[1, 0]) for _ in range(2)])
    model = make(encoder)
    model.decoder, model.log = decoder, lambda *args, **kwargs: None
    batch = Batch(torch.rand(4, 3, 64, 64), torch.randn(4, *encoder.feature_shape), torch.zeros(4))
    loss = model.training_step(batch, 0)
    losses = [model.loss(prediction, batch.images) for prediction in decoder.predictions(batch.features)]
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    assert loss > 1.05 * model.loss(decoder.predict(batch.features), batch.images)


def test_only_the_decoder_learns_and_the_encoder_stays_in_eval(encoder, synthetic_root):
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    model = make(encoder)
    start = [parameter.clone() for parameter in model.decoder.parameters()]
    fit(model, synthetic_root, epochs=1)
    model.train()
    assert not any(module.training for module in encoder.modules())
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    changed = [not torch.equal(old, new) for old, new in zip(start, model.decoder.parameters(), strict=True)]
    assert sum(changed) > len(changed) * 0.9


def losses_with(encoder, synthetic_root, **options):
    return fit(make(encoder), synthetic_root, epochs=2, **options).callback_metrics


def test_cached_features_train_as_features_computed_each_step(encoder, synthetic_root, tmp_path):
    exact = losses_with(encoder, synthetic_root)
    for run in ("computed", "found"):
        cached = losses_with(encoder, synthetic_root, cache=str(tmp_path), feature_type="float32")
        for key in ("train/loss", "val/loss"):
            assert cached[key] == pytest.approx(exact[key].item(), abs=1e-5), run
    half = losses_with(encoder, synthetic_root, cache=str(tmp_path), feature_type="float16")
    assert half["train/loss"] == pytest.approx(exact["train/loss"].item(), rel=1e-2)
    assert len(list(tmp_path.glob("conv5-train-features-*.npy"))) == 2


def test_features_that_take_too_much_room_are_computed_each_step(encoder, synthetic_root, tmp_path):
    limited = losses_with(encoder, synthetic_root, cache=str(tmp_path), feature_gib=0)
    assert limited["train/loss"] == losses_with(encoder, synthetic_root)["train/loss"]
    assert not list(tmp_path.glob("*features*"))


def test_any_loss_is_given_images_at_the_inputs_size(encoder, synthetic_root):
    """torch's MSE of images that were resized is ours of images that weren't."""
    ours, torchs = (fit(make(encoder, loss=loss), synthetic_root, epochs=1) for loss in (MSELoss(), nn.MSELoss()))
    for key in ("train/loss", "val/loss"):
        assert ours.callback_metrics[key] == pytest.approx(torchs.callback_metrics[key].item(), rel=1e-3)


def test_the_state_dict_leaves_the_encoder_out_and_misses_nothing_else(encoder):
    model = make(encoder)
    state = model.state_dict()
    assert not any(key.startswith("encoder.") for key in state)
    assert {"standardize.mean", "decoder.leave.1.weight"} <= set(state)
    model.load_state_dict(state)
    del state["decoder.leave.1.weight"]
    with pytest.raises(RuntimeError, match=r"decoder\.leave\.1\.weight"):
        model.load_state_dict(state)


def test_the_learning_rate_halves_every_step_size_epochs(encoder, synthetic_root):
    trainer = fit(make(encoder, step_size=1), synthetic_root, epochs=2)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3 * 0.25)


def test_lightnings_way_to_load_names_the_one_that_works(encoder):
    with pytest.raises(InputError, match=r"inversion\.load"):
        InversionModule.load_from_checkpoint("best.ckpt")


def test_dropout_is_of_layers_that_it_reaches():
    assert Encoder("fc6", "random", dropout=True).dropout and not Encoder("conv5", "random", dropout=True).dropout


def test_dropout_of_the_encoder_is_on_in_training_only():
    encoder = Encoder("fc6", "random", dropout=True)
    decoder = CompactDecoder(encoder.feature_shape, 64, channels=[8], depth=[0], bottleneck=4, hidden=1, dropout=0.0)
    options = {"loss": MSELoss(), "optimizer": None, "scheduler": None, "standardize": nn.Identity()}
    model = InversionModule(encoder, decoder, **options)
    images, cached = torch.rand(2, 3, 64, 64), torch.ones(2, 4096)
    batch = Batch(images, cached, torch.zeros(2))
    assert torch.equal(model.eval()._features(batch), cached)
    first, second = model.train()._features(batch), model._features(batch)
    assert not torch.equal(first, second) and not torch.equal(first, cached)
