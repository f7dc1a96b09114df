"""Devices and processes, through accelerate."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import gather_object

from oculox.config.schema import TrainConfig
from oculox.errors import ConfigError

_MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def check_device(device: str) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        ConfigError: naming what is absent.
    """
    present = {
        "auto": True,
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "npu": _npu_is_available(),
    }
    if not present[device]:
        raise ConfigError(
            f"train.device={device}: no such device here; use train.device=auto or cpu"
        )


@contextmanager
def open_accelerator(train: TrainConfig) -> Iterator[Accelerator]:
    """An `Accelerator` for a run; its process-wide state is cleared afterwards.

    Raises:
        ConfigError: the device is absent, or cannot compute in the wanted precision.
    """
    check_device(train.device)
    on_cpu = train.device == "cpu" or not _has_accelerator()
    if train.precision == "fp16" and on_cpu:
        raise ConfigError("train.precision=fp16 needs an accelerator; use bf16 or fp32 on a CPU")
    accelerator = Accelerator(mixed_precision=_MIXED[train.precision], cpu=on_cpu)
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    # Processes that do not find each other would each train alone into the same folder.
    assert accelerator.num_processes == wanted, (accelerator.num_processes, wanted)
    try:
        yield accelerator
    finally:
        if accelerator.num_processes > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()


def gather_lists(items: list[Any]) -> list[Any]:
    """The lists of all processes joined in process order; every process gets the whole."""
    gathered: list[Any] = gather_object(items)
    return gathered


def _has_accelerator() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available() or _npu_is_available()


def _npu_is_available() -> bool:
    npu = getattr(torch, "npu", None)
    return npu is not None and bool(npu.is_available())
