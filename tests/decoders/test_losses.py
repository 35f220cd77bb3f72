from types import SimpleNamespace

import pytest
import torch
from torch import nn

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.decoders.losses import MSELoss, PerceptualLoss
from inversion.encoders.alexnet import Encoder
from inversion.training.module import InversionModule


@pytest.mark.parametrize("size", [64, 192, 227])
@pytest.mark.parametrize("mixed", [False, True])
def test_mse_and_its_gradient_are_torchs_at_227(size, mixed):
    target = torch.rand(2, 3, 64, 64) * 2 - 1
    losses, gradients = [], []
    for loss, is_resized in ((MSELoss(), False), (nn.MSELoss(), True)):
        prediction = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).requires_grad_()
        arguments = [prediction, target]
        if is_resized:
            arguments = [pixels.resize(images, pixels.INPUT_SIZE) for images in arguments]
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed and not is_resized):
            value = loss(*arguments)
        value.backward()
        losses.append(value.item())
        gradients.append(prediction.grad)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-9)


def test_mse_learns_after_a_validation_that_came_first():
    """Lightning validates in inference mode, whose tensors can't be trained with."""
    pixels._gram_and_inverse.cache_clear()
    target = torch.zeros(1, 3, 64, 64)
    with torch.inference_mode():
        pixels.squared_distance(target, target)
    prediction = torch.ones(1, 3, 64, 64, requires_grad=True)
    MSELoss()(prediction, target).backward()
    assert prediction.grad.abs().sum() > 0


def native(number=2, seed=0):
    return torch.rand(number, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_another_librarys_loss_is_taken_at_227():
    prediction, target = native(seed=0), native(seed=1)
    expected = nn.L1Loss()(pixels.resize(prediction, 227), pixels.resize(target, 227))
    found = InversionModule._loss(SimpleNamespace(loss=nn.L1Loss()), prediction, target)
    assert found == pytest.approx(float(expected)) and found != pytest.approx(float(nn.L1Loss()(prediction, target)))


def test_total_variation_is_the_mean_difference_of_neighbours():
    """A ramp of one step a pixel from left to right: 226 differences in each row of 227, and none in the columns."""
    ramp = torch.arange(227.0).expand(2, 3, 227, 227)
    assert MSELoss(tv=3.0)(ramp, ramp) == pytest.approx(3.0 * 226 / 227 / 2)
    assert MSELoss(tv=3.0)(native(), native()) > MSELoss()(native(), native()) == 0


@pytest.fixture(scope="module")
def comparator():
    return Encoder("conv5", "random")


def test_perceptual_loss_is_the_share_of_the_features_that_is_missed(comparator):
    prediction, target = native(seed=0), native(seed=1)
    with torch.no_grad():
        got, wanted = (comparator(pixels.resize(images, 227)) for images in (prediction, target))
    share = float((got - wanted).square().sum() / wanted.square().sum())
    assert PerceptualLoss(comparator, 1.0, 0.0)(prediction, target) == pytest.approx(share, rel=1e-4)
    both = PerceptualLoss(comparator, 2.0, 3.0)(prediction, target)
    assert both == pytest.approx(2 * share + 3 * float(MSELoss()(prediction, target)), rel=1e-4)
    assert PerceptualLoss(comparator, 1.0, 1.0)(target, target) == 0


def test_perceptual_loss_teaches_the_reconstruction_and_not_the_comparator(comparator):
    prediction = native().requires_grad_()
    PerceptualLoss(comparator, 1.0, 0.0)(prediction, native(seed=1)).backward()
    assert prediction.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in comparator.parameters())


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_weights_must_be_numbers_from_zero(comparator, weight, one_line):
    for build in (
        lambda: MSELoss(tv=weight),
        lambda: PerceptualLoss(comparator, weight, 1.0),
        lambda: PerceptualLoss(comparator, 1.0, weight),
    ):
        with pytest.raises(InputError) as error:
            build()
        assert "weight" in one_line(str(error.value)) or "loss.tv" in str(error.value)
