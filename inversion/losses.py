"""Losses: functions of (prediction, target), both float images around [-1, 1], to a scalar.

Any callable will do, such as torch's own, and is given both at the input's size, (B, 3, 227, 227). One that says
`resizes = True` takes them as they are, the prediction at the decoder's working size and the target at the native one, and
sees to the resize itself.
"""

from torch import Tensor, nn

from inversion import pixels


class MSELoss(nn.Module):
    """Mean squared error at 227 x 227, as `torch.nn.MSELoss` gives it, without drawing images of that size."""

    resizes = True

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(B, 3, s, s) and (B, 3, n, n) -> scalar, see `pixels.squared_distance`."""
        return pixels.squared_distance(prediction, target).mean() / (target.shape[1] * pixels.INPUT_SIZE**2)
