"""Batch norm over several processes; also on a CPU, where PyTorch's SyncBatchNorm does not run."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with the mean and variance of the batches of all processes.

    Parameter and buffer names are those of `nn.BatchNorm2d`, so that checkpoints do not differ.
    Outside training, or with one process, it is exactly its parent.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the parent's name
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        x = input.float()
        count = torch.full((1,), float(x.numel() // x.shape[1]), device=x.device)
        # Sum over processes, differentiable: every process's loss depends on all inputs.
        packed = torch.cat((x.sum((0, 2, 3)), count))
        totals = _sum_over_processes(packed)
        count = totals[-1]
        mean = totals[:-1] / count
        centered = x - mean[None, :, None, None]
        squares = _sum_over_processes(centered.square().sum((0, 2, 3)))
        variance = squares / count
        self._update_statistics(mean.detach(), (squares / (count - 1)).detach())
        scale = (variance + self.eps).rsqrt() * self.weight
        out = centered * scale[None, :, None, None] + self.bias[None, :, None, None]
        return out.to(input.dtype)

    @torch.no_grad()
    def _update_statistics(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def share_buffers(network: nn.Module) -> None:
    """Give every process the buffers of the first one, batch-norm statistics among them."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


class _SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over all processes.

    Every process's result depends on every process's input, so the gradient is the sum too.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        del ctx
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        del ctx
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def _sum_over_processes(values: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(values)  # type: ignore[no-untyped-call]
    return total


def to_sync_batch_norm(network: nn.Module, *, device_type: str) -> nn.Module:
    """Replace batch norms by ones over all processes; weights and statistics are kept."""
    if device_type != "cpu":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(  # type: ignore[no-untyped-call]
            network
        )
        return converted
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = CpuSyncBatchNorm  # which differs in nothing but its methods
    return network
