"""One training step: forward, loss, gradients, update, average."""

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from oculox.data.preprocess import to_floats
from oculox.errors import TrainingError
from oculox.training.build import Parts
from oculox.training.log import StepLoss
from oculox.training.optim import scale_gradients, set_learning_rate
from oculox.types import Batch, LossTerms, Targets


def train_step(
    parts: Parts,
    batch: Batch,
    *,
    rate: float,
    size_hw: tuple[int, int],
    use_l1: bool,
    step: int,
    stop: bool = False,
) -> StepLoss:
    """Train on one batch (this process's part of the global batch).

    The sums of the loss are propagated and the gradients then divided by the number of
    positives of the global batch: the same for any number of processes and micro-batches.

    Args:
        parts: network, criterion, optimizer, average.
        batch: letterboxed images and labels.
        rate: learning rate of this step.
        size_hw: input size of this step; the batch is resized to it.
        use_l1: whether the L1 term counts.
        step: number of the step, for error messages.
        stop: whether this process was asked to stop; all learn of it.

    Raises:
        TrainingError: when a box or the loss is not finite; nothing was updated.
    """
    if not batch.targets.boxes.isfinite().all():
        raise TrainingError(
            f"a box of step {step} is not finite, and nothing was updated; images of the batch: "
            f"{_ids(batch)}; `oculox data check` looks at all annotations"
        )
    set_learning_rate(parts.optimizer, rate)
    images, targets = _prepare_inputs(parts, batch, size_hw=size_hw)
    local = _backward(parts, images, targets, use_l1=use_l1)
    # Filled there: a tensor made of Python's numbers would wait for its copy.
    local = torch.cat((local, local.new_full((1,), float(stop))))
    sums = parts.accelerator.reduce(local, reduction="sum")
    norm = _finish_gradients(parts, sums[4], images=len(images))
    # The one place where a step waits for the device.
    *values, stops, length = torch.cat((sums, norm[None])).tolist()
    terms = dict(zip(LossTerms._fields, values, strict=True))
    positives = max(terms["positives"], 1.0)
    terms.update({name: terms[name] / positives for name in ("box", "objectness", "classes", "l1")})
    loss = StepLoss(**terms, gradient_norm=length, stops=stops)
    # Under fp16 the scaler skips a step whose gradients overflowed; that is not an error.
    suspects = values if parts.accelerator.scaler else [*values, length]
    if not all(map(math.isfinite, suspects)):
        parts.optimizer.zero_grad(set_to_none=True)
        raise _not_finite(loss, batch, step)
    parts.optimizer.step()
    parts.optimizer.zero_grad(set_to_none=True)
    if parts.ema is not None:
        parts.ema.update(parts.network)
    return loss


def _prepare_inputs(
    parts: Parts, batch: Batch, *, size_hw: tuple[int, int]
) -> tuple[Tensor, Targets]:
    """Move a batch to the device, as floats of the network's range, at the step's size."""
    device = parts.accelerator.device
    targets = Targets(*(t.to(device, non_blocking=True) for t in batch.targets))
    # Loaders hand over channels-last memory, and convolutions would keep it: whether they do is
    # train.channels_last's decision alone, by the memory of the weights.
    images = to_floats(batch.images, parts.input_config, device=device).contiguous()
    height, width = images.shape[-2:]
    if (height, width) == size_hw:
        return images, targets
    images = F.interpolate(images, size=size_hw, mode="bilinear", align_corners=False)
    x, y = targets.boxes[..., ::2], targets.boxes[..., 1::2]
    boxes = torch.stack((x * (size_hw[1] / width), y * (size_hw[0] / height)), dim=-1).flatten(-2)
    return images, targets._replace(boxes=boxes)


def _backward(parts: Parts, images: Tensor, targets: Targets, *, use_l1: bool) -> Tensor:
    """Gradients of the summed loss over a fixed number; the six sums of `LossTerms`."""
    total = torch.zeros(len(LossTerms._fields), device=images.device)
    size = -(-len(images) // parts.accumulate)
    starts = range(0, len(images), size)
    for start in starts:
        part = slice(start, start + size)
        waits = start != starts[-1]
        with parts.accelerator.no_sync(parts.model) if waits else contextlib.nullcontext():
            raw = parts.model(images[part])
            terms = parts.criterion(raw, Targets(*(t[part] for t in targets)), use_l1=use_l1)
            objective = terms.box + terms.objectness + terms.classes + terms.l1
            # A constant keeps fp16 gradients in range until the positives are known.
            parts.accelerator.backward(objective / len(images))
        total += torch.stack([t.detach().float() for t in terms])
    return total


def _finish_gradients(parts: Parts, positives: Tensor, *, images: int) -> Tensor:
    """Divide the gradients by the positives, clip them; their norm before clipping."""
    # Processes average their gradients of local sums; undo that and the constant, and divide
    # by the positives of all processes.
    total = images * parts.accelerator.num_processes
    scale_gradients(parts.network.parameters(), total / positives.clamp(min=1))
    parts.accelerator.unscale_gradients(parts.optimizer)
    return torch.nn.utils.clip_grad_norm_(
        parts.network.parameters(), parts.clip_grad_norm or math.inf
    )


def _not_finite(loss: StepLoss, batch: Batch, step: int) -> TrainingError:
    return TrainingError(
        f"the loss is not finite at step {step} (box {loss.box:.4g}, objectness "
        f"{loss.objectness:.4g}, classes {loss.classes:.4g}, l1 {loss.l1:.4g}, gradient norm "
        f"{loss.gradient_norm:.4g}); images of the batch: {_ids(batch)}; stopped before the "
        "update, saved checkpoints are intact. Try a lower optimizer.lr, "
        "optimizer.clip_grad_norm=10, or train.precision=bf16 instead of fp16"
    )


def _ids(batch: Batch) -> str:
    return ", ".join(str(i) for i in batch.image_ids[:16])
