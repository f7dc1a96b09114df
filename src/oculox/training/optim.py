"""The optimizer, the gradients before its step, and the average of the weights after it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import SGD, AdamW

from oculox.config.schema import OptimizerConfig
from oculox.models import YOLOX


def parameter_groups(
    *parts: nn.Module, weight_decay: float, lr_ratio: float = 1.0
) -> list[dict[str, object]]:
    """Norm weights, decayed convolution weights, and biases: three groups in that order.

    Parameters without gradient are left out. Every other parameter is in exactly one group.

    Args:
        parts: a network, or parts of one.
        weight_decay: of the convolution weights.
        lr_ratio: their part of the learning rate, see `set_learning_rate`.

    Source: official `yolox_base.py`, `get_optimizer`.
    """
    norms: list[nn.Parameter] = []
    weights: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    for module in (module for part in parts for module in part.modules()):
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if name == "bias":
                biases.append(parameter)
            elif isinstance(module, _NormBase):
                norms.append(parameter)
            else:
                weights.append(parameter)
    grouped = len(norms) + len(weights) + len(biases)
    assert grouped == sum(p.requires_grad for part in parts for p in part.parameters())
    groups: list[dict[str, object]] = [
        {"params": norms, "weight_decay": 0.0, "lr_ratio": lr_ratio},
        {"params": weights, "weight_decay": weight_decay, "lr_ratio": lr_ratio},
        {"params": biases, "weight_decay": 0.0, "lr_ratio": lr_ratio},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(network: YOLOX, config: OptimizerConfig) -> SGD | AdamW:
    """SGD with Nesterov momentum, or AdamW; the learning rate is set at every step."""
    decay, ratio = config.weight_decay, config.body_lr_ratio
    if ratio == 1:
        groups = parameter_groups(network, weight_decay=decay)
    else:
        body = parameter_groups(network.backbone, network.neck, weight_decay=decay, lr_ratio=ratio)
        groups = [*body, *parameter_groups(network.head, weight_decay=decay)]
    # One pass over the parameters instead of one for each term: four times faster.
    fused = next(network.parameters()).device.type in ("cpu", "cuda")
    if config.name == "adamw":
        return AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=fused)
    momentum = config.momentum
    optimizer = SGD(groups, lr=config.lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
    if momentum:
        # Left to the first step, they would be memory that nobody wrote where fp16 skips it.
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its part of a rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_ratio", 1.0)  # absent in older states


@torch.no_grad()
def scale_gradients(parameters: Iterable[nn.Parameter], factor: Tensor) -> None:
    """Multiply all gradients in place by a scalar tensor, without waiting for the device."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    torch._foreach_mul_(gradients, factor)


def freeze_parts(network: nn.Module, parts: Iterable[str]) -> None:
    """Take parts (backbone, neck, head) out of training."""
    for part in parts:
        network.get_submodule(part).requires_grad_(False)


def set_train_mode(network: nn.Module, frozen: Iterable[str]) -> None:
    """Training mode, except for frozen parts, whose batch-norm statistics must not move."""
    network.train()
    for part in frozen:
        network.get_submodule(part).eval()


def ema_decay(updates: int, *, decay: float, ramp: float) -> float:
    """Decay of an update, counted from 1: ``decay * (1 - exp(-updates / ramp))``.

    Source: official `ema.py`.
    """
    return decay * (1 - math.exp(-updates / ramp))


class Ema:
    """A copy of a network that follows it slowly; batch-norm statistics included.

    Attributes:
        network: the average, in evaluation mode, without gradients.
        updates: how often it was updated.
    """

    def __init__(self, network: YOLOX, *, decay: float, ramp: float, updates: int = 0) -> None:
        """Start from a copy of `network`."""
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.updates = updates
        self._decay = decay
        self._ramp = ramp
        self._followed: YOLOX | None = None
        # (tensor of the average, tensor of the followed network): of floats, of counters.
        self._floats: list[tuple[Tensor, Tensor]] = []
        self._counters: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def update(self, network: YOLOX) -> None:
        """Move the average towards `network` (same class and device)."""
        self.updates += 1
        decay = ema_decay(self.updates, decay=self._decay, ramp=self._ramp)
        if self._followed is not network:
            self._follow(network)
        torch._foreach_copy_([own for own, _ in self._counters], [new for _, new in self._counters])
        averages, currents = [pair[0] for pair in self._floats], [pair[1] for pair in self._floats]
        torch._foreach_lerp_(averages, currents, 1 - decay)

    def _follow(self, network: YOLOX) -> None:
        # Once, not at every step: state_dict takes as long as the update itself.
        current = network.state_dict()
        pairs = [(value, current[key]) for key, value in self.network.state_dict().items()]
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]
        self._followed = network
