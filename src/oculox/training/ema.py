"""Exponential moving average of the weights (official `ema.py`)."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from oculox.models import YOLOX


def ema_decay(updates: int, *, decay: float, ramp: float) -> float:
    """Decay of an update, counted from 1: ``decay * (1 - exp(-updates / ramp))``."""
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

    @torch.no_grad()
    def update(self, network: YOLOX) -> None:
        """Move the average towards `network` (same class and device)."""
        self.updates += 1
        decay = ema_decay(self.updates, decay=self._decay, ramp=self._ramp)
        averages: list[Tensor] = []
        currents: list[Tensor] = []
        current_state = network.state_dict()
        for key, average in self.network.state_dict().items():
            if average.is_floating_point():
                averages.append(average)
                currents.append(current_state[key])
            else:
                average.copy_(current_state[key])
        torch._foreach_mul_(averages, decay)
        torch._foreach_add_(averages, currents, alpha=1 - decay)
