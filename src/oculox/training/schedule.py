"""Phases and learning rate as functions of the epoch and the step.

Source: paper, section 2.1 (two phases); official `yolox_base.py` and `lr_scheduler.py`
(`yoloxwarmcos`). The official code switches augmentation off one epoch early; here the tail is
exactly `tail_epochs` long.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from oculox.config.schema import AugmentConfig, Config, LossConfig, Range, TrainConfig
from oculox.errors import plural

# The largest parts of tail and warm-up where only the total number of epochs is given.
TAIL_SHARE = 0.2
WARMUP_SHARE = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """How many epochs of what.

    Attributes:
        aug: epochs with strong augmentation.
        tail: epochs of the tail after them.
        warmup: epochs of warm-up at the start, a fraction possible.
        notes: what was shortened and why, for the log.
    """

    aug: int
    tail: int
    warmup: float
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """All epochs."""
        return self.aug + self.tail

    def in_tail(self, epoch: int) -> bool:
        """Whether an epoch (from 0) belongs to the tail, without mosaic and mixup."""
        return epoch >= self.aug


def plan_epochs(train: TrainConfig, *, warmup_epochs: float) -> EpochPlan:
    """Split the run into phases, shortening warm-up and tail where the run is short.

    With `train.epochs` the tail takes at most a fifth of it, and a single epoch is no tail.
    Warm-up takes at most a tenth of the run, at least one epoch if the setting is not 0, and never
    more than half of the first phase; a run of only the tail (`aug_epochs=0`, from a checkpoint)
    has none.
    """
    notes = []
    if train.epochs is None:
        aug, tail = train.aug_epochs, train.tail_epochs
    else:
        longest_tail = min(math.ceil(train.epochs * TAIL_SHARE), train.epochs - 1)
        tail = min(train.tail_epochs, longest_tail)
        if train.aug_epochs == 0:
            tail = train.epochs
        aug = train.epochs - tail
        if tail < train.tail_epochs:
            notes.append(
                f"short run: the tail without augmentation takes {tail} of {train.epochs} "
                f"epochs instead of {train.tail_epochs}"
            )
    total = aug + tail
    longest = min(max(1.0, total * WARMUP_SHARE), aug / 2)
    warmup = min(warmup_epochs, longest)
    if warmup < warmup_epochs:
        notes.append(
            f"short run: warm-up takes {warmup:g} of {plural(total, 'epoch')} instead of "
            f"{warmup_epochs:g}"
        )
    return EpochPlan(aug=aug, tail=tail, warmup=warmup, notes=tuple(notes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Quadratic warm-up, cosine, flat end.

    Attributes:
        peak: learning rate after warm-up, for the global batch.
        start: learning rate of the first step where there is warm-up.
        floor: lowest learning rate, which the cosine ends with.
        warmup_steps: length of the warm-up.
        flat_steps: length of the flat end.
        total_steps: length of the run.
    """

    peak: float
    start: float
    floor: float
    warmup_steps: float
    flat_steps: int
    total_steps: int

    def at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step <= self.warmup_steps and self.warmup_steps > 0:
            rise = (step / self.warmup_steps) ** 2
            return (self.peak - self.start) * rise + self.start
        if step >= self.total_steps - self.flat_steps:
            return self.floor
        between = self.total_steps - self.warmup_steps - self.flat_steps
        cosine = math.cos(math.pi * (step - self.warmup_steps) / between)
        return self.floor + 0.5 * (self.peak - self.floor) * (1 + cosine)


def build_learning_rate(config: Config, plan: EpochPlan, *, steps_per_epoch: int) -> LearningRate:
    """The learning rate of a run; values for 64 images are scaled by the global batch."""
    scale = config.train.images_per_step / 64
    if config.optimizer.lr_scaling == "root":
        scale = math.sqrt(scale)
    peak = config.optimizer.lr * scale
    # A run of the tail alone goes on from where another has fallen to.
    falling = config.schedule.tail_lr == "falling" and plan.aug > 0
    return LearningRate(
        peak=peak,
        start=config.schedule.warmup_lr * scale,
        floor=peak * config.schedule.min_lr_ratio,
        warmup_steps=plan.warmup * steps_per_epoch,
        flat_steps=0 if falling else plan.tail * steps_per_epoch,
        total_steps=plan.total * steps_per_epoch,
    )


def l1_is_on(loss: LossConfig, *, in_tail: bool) -> bool:
    """Whether the L1 term counts."""
    return loss.l1 == "always" or (loss.l1 == "tail" and in_tail)


def input_size_at(
    step: int, *, seed: int, augment: AugmentConfig, native: tuple[int, int]
) -> tuple[int, int]:
    """Height and width of a step's input under multi-scale training.

    The size changes every `multiscale_interval` steps and is a function of only (seed, step),
    so that every process and a resumed run agree. The first interval has the native size. The
    aspect ratio is kept as nearly as multiples of 32 allow.
    """
    block = step // augment.multiscale_interval
    if augment.multiscale is None or block == 0:
        return native
    low, high = _row_range(augment.multiscale, native)
    return _of_rows(int(np.random.default_rng((seed, block)).integers(low, high + 1)), native)


def largest_input(augment: AugmentConfig, *, native: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the largest input that a run may have; see `input_size_at`."""
    if augment.multiscale is None:
        return native
    return max(native, _of_rows(_row_range(augment.multiscale, native)[1], native))


def _row_range(multiscale: Range, native: tuple[int, int]) -> tuple[int, int]:
    """Least and most rows, in units of 32 pixels."""
    low, high = (max(1, round(part * native[0] / 32)) for part in multiscale)
    return low, high


def _of_rows(rows: int, native: tuple[int, int]) -> tuple[int, int]:
    return rows * 32, max(1, int(rows * native[1] / native[0])) * 32
