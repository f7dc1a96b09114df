"""`train.batch=auto`: how many images fit into the memory of the devices, found by trial."""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Callable
from typing import Protocol

import torch
from accelerate import Accelerator

from oculox.config import Config, load_config
from oculox.distributed.devices import Processes, is_out_of_memory
from oculox.errors import ConfigError, TrainingError
from oculox.losses.criterion import build_criterion
from oculox.models import YOLOX
from oculox.training.optim import build_optimizer, set_train_mode
from oculox.training.schedule import largest_input
from oculox.types import Targets

_SHARE = 0.85
"""Part of the memory that a step may take; the rest is for several devices and evaluation."""


class Memory(Protocol):
    """The memory of a device."""

    def available(self) -> int:
        """Bytes that this process can take, what it has already included."""

    def peak(self, step: Callable[[], None]) -> int:
        """Call `step`, perhaps twice; the most bytes that this process had meanwhile.

        Raises:
            torch.cuda.OutOfMemoryError: the step needs more than there is.
        """


class CudaMemory:
    """Of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def available(self) -> int:
        """See `Memory`."""
        self._clear()
        free, _ = torch.cuda.mem_get_info(self._device)
        return free + torch.cuda.memory_reserved(self._device)

    def peak(self, step: Callable[[], None]) -> int:
        """See `Memory`."""
        try:
            # Twice: in the first step cuDNN tries its algorithms, with memory that no later one
            # needs.
            for _ in range(2):
                self._clear()
                torch.cuda.reset_peak_memory_stats(self._device)
                step()
                torch.cuda.synchronize(self._device)
            return torch.cuda.max_memory_reserved(self._device)
        except RuntimeError as error:
            if is_out_of_memory(error, self._device):
                raise torch.cuda.OutOfMemoryError(str(error)) from error
            raise
        finally:
            self._clear()

    def _clear(self) -> None:
        gc.collect()
        torch.cuda.empty_cache()


def open_memory(device: torch.device) -> Memory:
    """The memory of a device.

    Raises:
        ConfigError: the device is no CUDA device: elsewhere too large a step does not fail, but
            slows the machine down or ends the process.
    """
    if device.type != "cuda":
        raise ConfigError(
            f"train.batch=auto tries on a CUDA GPU what fits, and this run is on {device.type}; "
            "give a number of images, such as train.batch=8"
        )
    return CudaMemory(device)


def settle_batch(
    config: Config,
    network: YOLOX,
    memory: Memory,
    accelerator: Accelerator,
    processes: Processes,
) -> tuple[Config, str]:
    """The configuration with a number for ``train.batch=auto``, and a note for the log.

    The number is that of the recipe where it fits, else the largest one that fits. The device with
    the least memory decides, and steps are tried at the largest input of the run with as many
    objects as an image may have.

    Args:
        config: with ``train.batch=auto``.
        network: on its device; it stays as it is.
        memory: of the device.
        accelerator: for the precision.
        processes: those that share a step.

    Raises:
        TrainingError: not even one image fits.
    """
    pieces = processes.world_size * config.train.accumulate
    wanted = load_config("yolox-l", [f"recipe={config.recipe}"]).train.images_per_step

    def peak(images: int) -> int:
        return memory.peak(lambda: _try_step(config, network, accelerator, images))

    available = memory.available()
    most = max(1, wanted // pieces)
    own = largest_fit(peak, budget=int(available * _SHARE), most=most)
    fitting = min(processes.gather([own]))
    if not fitting:
        raise TrainingError(
            f"train.batch=auto: a step with one image of {' x '.join(map(str, _size(config)))} "
            f"does not fit into {available / 1e9:.1f} GB on {accelerator.device}; use a smaller "
            "network or input.size, or lower augment.multiscale"
        )
    batch = fitting * pieces
    why = "as the recipe has it" if fitting == most else "the most that fits"
    train = config.train.model_copy(update={"batch": batch})
    return config.model_copy(update={"train": train}), (
        f"train.batch=auto: {batch} images a step, {fitting} at once on each device, {why}"
    )


def largest_fit(peak: Callable[[int], int], *, budget: int, most: int) -> int:
    """The largest number of images whose step stays within a budget; 0 where not even one does.

    One and two images tell what each costs. The number that follows is tried, and halved where
    that takes more than the budget or than there is: small steps do not tell everything.

    Args:
        peak: bytes that a step with so many images takes; raises `OutOfMemoryError`.
        budget: bytes that a step may take.
        most: images that are enough, at least 1.
    """

    def needs(images: int) -> float:
        try:
            return peak(images)
        except torch.cuda.OutOfMemoryError:
            return math.inf

    one = needs(1)
    if one > budget or most == 1:
        return int(one <= budget)
    two = needs(2)
    if two > budget:
        return 1
    images = min(most, 1 + int((budget - one) // max(1, two - one)))
    return images if needs(images) <= budget else max(1, images // 2)


def _size(config: Config) -> tuple[int, int]:
    return largest_input(config.augment, native=config.input.size)


def _try_step(config: Config, network: YOLOX, accelerator: Accelerator, images: int) -> None:
    """A training step of a copy of the network on grey images."""
    device = accelerator.device
    twin = copy.deepcopy(network)
    set_train_mode(twin, config.train.freeze)
    optimizer = build_optimizer(twin, config.optimizer)
    classes, labels = network.head.num_classes, config.data.max_labels
    criterion = build_criterion(config.loss, num_classes=classes, strides=config.model.strides)
    height, width = _size(config)
    pixels = torch.full((images, 3, height, width), 114.0, device=device)
    # Objects of all sizes, each around a centre of its own.
    spread = torch.arange(1, labels + 1, device=device) / (labels + 1)
    centres = torch.stack((spread * width, spread.flip(0) * height), dim=1)
    halves = spread[:, None] * 0.4 * min(height, width)
    boxes = torch.cat((centres - halves, centres + halves), dim=1).repeat(images, 1, 1)
    shape = (images, labels)
    targets = Targets(
        boxes,
        torch.zeros(shape, dtype=torch.long, device=device),
        torch.ones(shape, dtype=torch.bool, device=device),
    )
    with accelerator.autocast():
        raw = twin(pixels)
    terms = criterion(raw, targets, use_l1=True)
    torch.autograd.backward(terms.box + terms.objectness + terms.classes + terms.l1)
    optimizer.step()
