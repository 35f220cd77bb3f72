"""Several decoders as one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from inversion.decoders.base import Decoder


class Ensemble(Decoder):
    """Predicts the mean of its members' images. They are trained side by side, each on its own loss, and differ where the
    training images leave a choice: the squared error of the mean is at most the mean of theirs (Hansen and Salamon 1990, doi
    10.1109/34.58871). They are built alike, with initial weights of their own.
    """

    def __init__(self, members: Sequence[Decoder]) -> None:
        super().__init__(members[0].feature_shape, members[0].native_size)
        self.members = nn.ModuleList(members)

    def predict(self, features: Tensor) -> Tensor:
        return torch.stack(self.predictions(features)).mean(0, dtype=torch.float32)

    def predictions(self, features: Tensor) -> list[Tensor]:
        return [member.predict(features) for member in self.members]  # type: ignore[operator]
