"""Devices and processes, through accelerate."""

from __future__ import annotations

import atexit
import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast, get_args

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import gather_object, is_npu_available

from oculox.config.schema import TrainConfig
from oculox.distributed.launch import is_launched
from oculox.errors import ConfigError

_MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


Kind = Literal["auto", "cpu", "cuda", "mps", "npu"]


def device_kind(device: str) -> Kind:
    """The kind of a device named by the user (``cuda:1`` is ``cuda``).

    Raises:
        ConfigError: for an unknown kind.
    """
    for kind in get_args(Kind):
        if device.split(":")[0] == kind:
            return cast("Kind", kind)
    raise ConfigError(f"unknown device {device!r}; there are {', '.join(get_args(Kind))}")


def own_device(device: str) -> str:
    """The device of this process: where several share a machine's GPUs, each has its own."""
    if not is_launched():
        return device
    kind = "cuda" if device == "auto" and torch.cuda.is_available() else device
    return f"{kind}:{os.environ['LOCAL_RANK']}" if kind in ("cuda", "npu") else device


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
        "npu": is_npu_available(),
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
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if wanted > 1 and not {"RANK", "LOCAL_RANK", "MASTER_ADDR"} <= os.environ.keys():
        raise ConfigError(
            f"WORLD_SIZE is {wanted}, but nothing tells this process its place among them; start "
            "several with --devices, torchrun or accelerate launch"
        )
    accelerator = Accelerator(mixed_precision=_MIXED[train.precision], cpu=on_cpu)
    try:
        if accelerator.num_processes != wanted:
            # Each would train alone into the same folder.
            raise ConfigError(
                f"WORLD_SIZE is {wanted}, but {accelerator.num_processes} processes found each "
                "other; start them with --devices, torchrun or accelerate launch"
            )
        yield accelerator
    finally:
        # The processes stay connected until they end: torchrun lets them meet only once, and a
        # program may train and evaluate, or evaluate twice.
        if accelerator.num_processes > 1:
            atexit.register(_disconnect)
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()


def _disconnect() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes that share a job, this one being number `rank`.

    Attributes:
        rank: this process, from 0.
        world_size: how many there are.
        gather: joins the lists of all processes, in every process; None where there is one.
        device: what this process computes on.
    """

    rank: int
    world_size: int
    gather: Callable[[list[Any]], list[Any]] | None
    device: str


@contextmanager
def open_processes(device: Kind) -> Iterator[Processes]:
    """Find the other processes of this job, for work other than training.

    Raises:
        ConfigError: the device is absent.
    """
    if not is_launched():
        yield Processes(rank=0, world_size=1, gather=None, device=device)
        return
    with open_accelerator(TrainConfig(device=device)) as accelerator:
        yield Processes(
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            gather=gather_lists if accelerator.num_processes > 1 else None,
            device=str(accelerator.device),
        )


def gather_lists(items: list[Any]) -> list[Any]:
    """The lists of all processes joined in process order; every process gets the whole."""
    gathered: list[Any] = gather_object(items)
    return gathered


def _has_accelerator() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available() or is_npu_available()
