"""One optimizer step: forward, criterion, backward, check, update, average."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from oculox.config.schema import InputConfig
from oculox.data.preprocess import to_floats
from oculox.errors import TrainingError
from oculox.losses.criterion import Criterion
from oculox.models import YOLOX
from oculox.training.ema import Ema
from oculox.training.optim import gradient_norm, scale_gradients, set_learning_rate
from oculox.types import Batch, LossTerms, Targets

TERM_NAMES = ("box", "objectness", "classes", "l1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepLoss:
    """The loss of a step over the global batch, normalised as in the paper (plain numbers)."""

    box: float
    objectness: float
    classes: float
    l1: float
    positives: float
    objects: float
    gradient_norm: float

    @property
    def total(self) -> float:
        """What is minimised."""
        return self.box + self.objectness + self.classes + self.l1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stepper:
    """The parts that a step needs; `model` is `network`, possibly wrapped for several processes."""

    accelerator: Accelerator
    network: YOLOX
    model: nn.Module
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    ema: Ema | None
    input_config: InputConfig
    accumulate: int
    clip_grad_norm: float

    def run(
        self, batch: Batch, *, rate: float, size_hw: tuple[int, int], use_l1: bool, step: int
    ) -> StepLoss:
        """Train on one batch (this process's part of the global batch).

        The sums of the loss are propagated and the gradients then divided by the number of
        positives of the global batch: the same for any number of processes and micro-batches.

        Args:
            batch: letterboxed images and labels.
            rate: learning rate of this step.
            size_hw: input size of this step; the batch is resized to it.
            use_l1: whether the L1 term counts.
            step: number of the step, for error messages.

        Raises:
            TrainingError: when the loss is not finite; nothing was updated.
        """
        set_learning_rate(self.optimizer, rate)
        images, targets = prepare_inputs(
            batch,
            size_hw=size_hw,
            device=self.accelerator.device,
            input_config=self.input_config,
        )
        local = self._backward(images, targets, use_l1=use_l1)
        sums = self.accelerator.reduce(local, reduction="sum")
        norm = self._finish_gradients(sums[4], images=len(images))
        # The one place where a step waits for the device.
        *values, length = torch.cat((sums, norm[None])).tolist()
        loss = _normalised(values, length)
        # Under fp16 the scaler skips a step whose gradients overflowed; that is no fault.
        suspects = values if self.accelerator.scaler else [*values, length]
        if not all(map(math.isfinite, suspects)):
            self.optimizer.zero_grad(set_to_none=True)
            raise _not_finite(loss, batch, step)
        self._update()
        return loss

    def _backward(self, images: Tensor, targets: Targets, *, use_l1: bool) -> Tensor:
        """Gradients of the summed loss over a fixed number; the six sums of `LossTerms`."""
        total = torch.zeros(len(LossTerms._fields), device=images.device)
        size = -(-len(images) // self.accumulate)
        starts = range(0, len(images), size)
        for start in starts:
            part = slice(start, start + size)
            waits = start != starts[-1]
            with self.accelerator.no_sync(self.model) if waits else contextlib.nullcontext():
                raw = self.model(images[part])
                terms = self.criterion(raw, Targets(*(t[part] for t in targets)), use_l1=use_l1)
                objective = terms.box + terms.objectness + terms.classes + terms.l1
                # A constant keeps fp16 gradients in range until the positives are known.
                self.accelerator.backward(objective / len(images))
            total += torch.stack([t.detach().float() for t in terms])
        return total

    def _finish_gradients(self, positives: Tensor, *, images: int) -> Tensor:
        """Divide the gradients by the positives, clip them; their norm before clipping."""
        # Processes average their gradients of local sums; undo that and the constant, and divide
        # by the positives of all processes.
        total = images * self.accelerator.num_processes
        scale_gradients(self.network.parameters(), total / positives.clamp(min=1))
        self.accelerator.unscale_gradients(self.optimizer)
        norm = gradient_norm(self.network.parameters())
        if self.clip_grad_norm > 0:
            shrink = (self.clip_grad_norm / (norm + 1e-6)).clamp(max=1)
            scale_gradients(self.network.parameters(), shrink)
        return norm

    def _update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.network)


def prepare_inputs(
    batch: Batch,
    *,
    size_hw: tuple[int, int],
    device: torch.device,
    input_config: InputConfig,
) -> tuple[Tensor, Targets]:
    """Move a batch to the device, as floats of the network's range, at the step's size."""
    targets = Targets(*(t.to(device, non_blocking=True) for t in batch.targets))
    # Contiguous on purpose: PyTorch's channels-last batch norm sums in plain float32 on a CPU and
    # moves the losses of a fresh batch by a thousandth (docs/experiments.md).
    images = to_floats(batch.images, input_config, device=device).contiguous()
    height, width = images.shape[-2:]
    if (height, width) == size_hw:
        return images, targets
    images = F.interpolate(images, size=size_hw, mode="bilinear", align_corners=False)
    ratio = targets.boxes.new_tensor([size_hw[1] / width, size_hw[0] / height] * 2)
    return images, targets._replace(boxes=targets.boxes * ratio)


def _normalised(sums: Sequence[float], length: float) -> StepLoss:
    values = dict(zip(LossTerms._fields, sums, strict=True))
    positives = max(values["positives"], 1.0)
    terms = {name: values[name] / positives for name in TERM_NAMES}
    return StepLoss(
        positives=values["positives"],
        objects=values["objects"],
        gradient_norm=length,
        **terms,
    )


def _not_finite(loss: StepLoss, batch: Batch, step: int) -> TrainingError:
    terms = ", ".join(f"{name} {getattr(loss, name):.4g}" for name in TERM_NAMES)
    terms += f", gradient norm {loss.gradient_norm:.4g}"
    ids = ", ".join(str(i) for i in batch.image_ids[:16])
    return TrainingError(
        f"the loss is not finite at step {step} ({terms}); images of the batch: {ids}; stopped "
        "before the update, what was saved before is good. Try a lower optimizer.lr, "
        "optimizer.clip_grad_norm=10, or train.precision=bf16 instead of fp16"
    )
