"""Batch normalisation that doesn't depend on how many processes share a batch."""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNorm(_BatchNorm):
    """torch's BatchNorm1d and BatchNorm2d, for (B, C) and (B, C, H, W). Where several processes train together, mean and
    variance are those of the whole batch, however it is shared out, on any device (torch's SyncBatchNorm needs a GPU).
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
        number = _SumOverProcesses.apply(torch.tensor(x.numel() / x.shape[1], device=x.device))
        mean = _SumOverProcesses.apply(x.float().sum(axes)) / number
        centred = x.float() - mean.view(shape)
        variance = _SumOverProcesses.apply(centred.square().sum(axes)) / number
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * number / (number - 1), self.momentum)
            self.num_batches_tracked += 1  # type: ignore[assignment, operator]
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)


class _SumOverProcesses(torch.autograd.Function):
    """The sum of all processes' tensors, with gradients to all of them (torch's own, `distributed.nn`, is deprecated)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _SumOverProcesses.apply(gradient)
