import pytest
import torch
from torch import nn

from inversion import pixels
from inversion.losses import MSELoss


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
    pixels._gram_matrix.cache_clear()
    pixels.resize_matrix.cache_clear()
    target = torch.zeros(1, 3, 64, 64)
    with torch.inference_mode():
        pixels.squared_distance(target, target)
    prediction = torch.ones(1, 3, 64, 64, requires_grad=True)
    MSELoss()(prediction, target).backward()
    assert prediction.grad.abs().sum() > 0
