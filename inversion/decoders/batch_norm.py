"""Batch normalisation that doesn't depend on how many processes share a batch."""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNorm(_BatchNorm):
    """torch's BatchNorm1d and BatchNorm2d, for (B, C) and (B, C, H, W). Where several processes train together, moments are
    those of all their shares of the batch, whatever the sizes of these, on any device (torch's SyncBatchNorm knows no CPU).
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        """The same shape and type."""
        shared = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        if not (shared and self.training):
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        shape = (1, -1, *[1] * (x.dim() - 2))
        axes = [0, *range(2, x.dim())]
        origin = self.running_mean.clone()  # the same everywhere; taken off, so that no precision is lost in the squares
        offset = x.float() - origin.view(shape)
        number = torch.full_like(origin, offset.numel() / len(origin))
        total, squares, number = _SumOverProcesses.apply(torch.stack([offset.sum(axes), offset.square().sum(axes), number]))
        mean = total / number
        variance = (squares / number - mean.square()).clamp_min(0)
        with torch.no_grad():
            self.running_mean.lerp_(origin + mean, self.momentum)
            self.running_var.lerp_(variance * number / (number - 1), self.momentum)
            self.num_batches_tracked += 1  # type: ignore[assignment, operator]
        scale = self.weight * (variance + self.eps).rsqrt()
        return ((offset - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)).to(x.dtype)


class _SumOverProcesses(torch.autograd.Function):
    """The sum of all processes' tensors, through which gradients flow back to all of them."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _SumOverProcesses.apply(gradient.contiguous())
