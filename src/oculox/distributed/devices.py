"""Devices and processes, through accelerate."""

import atexit
import dataclasses
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import InitProcessGroupKwargs, gather_object, is_npu_available

from oculox.config.schema import Precision, TrainPrecision
from oculox.distributed.launch import is_launched
from oculox.errors import ConfigError, UsageError, first_line
from oculox.version import __version__

_MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
_DRIVER = Path("/proc/driver/nvidia/version")
# In the order in which `auto` takes them.
_IS_PRESENT = {
    "cuda": torch.cuda.is_available,
    "npu": is_npu_available,
    "mps": torch.backends.mps.is_available,
}


def usable_device(device: torch.device | str) -> torch.device:
    """The device as PyTorch's value; ``auto`` takes the best present.

    Raises:
        UsageError: when the name is unknown or the device is absent.
    """
    if device == "auto":
        present = (kind for kind, is_present in _IS_PRESENT.items() if is_present())
        return torch.device(next(present, "cpu"))
    kind = str(device).split(":")[0]
    if kind in _IS_PRESENT and not _IS_PRESENT[kind]():
        raise UsageError(f"device '{device}' cannot be used: no such device here; use auto or cpu")
    try:
        target = torch.device(device)
    except RuntimeError:
        hint = "; did you mean cuda?" if "gpu" in kind.lower() or kind.isdigit() else ""
        raise UsageError(
            f"device '{device}' cannot be used: expected auto, cpu, cuda, cuda:1, mps or npu{hint}"
        ) from None
    try:
        torch.zeros(1, device=target)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device '{device}' cannot be used: {first_line(error)}") from error
    return target


def is_out_of_memory(error: RuntimeError, device: torch.device) -> bool:
    """Whether an error of PyTorch means that a CUDA device has too little memory."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    # For want of a workspace too cuDNN finds no algorithm, and PyTorch has no type for that; on a
    # GPU that it does not know, it says the same. PyTorch counts the memory that it could not get.
    return (
        "unable to find an engine to execute this computation" in str(error)
        and torch.cuda.memory_stats(device).get("num_ooms", 0) > 0
    )


def own_device(device: str) -> str:
    """The device of this process: where several share a machine, each has its own of the kind."""
    # Nothing is put on the first device here: every process would take memory of it.
    kind = usable_device(device).type if device == "auto" else device.split(":")[0]
    if kind not in ("cuda", "npu") or not is_launched():
        return device
    return f"{kind}:{os.environ['LOCAL_RANK']}"


def settled_precision(precision: TrainPrecision, device: str) -> Precision:
    """The precision of a run: ``auto`` is bf16 where the device computes it natively, else fp32.

    Processors and GPUs that only emulate bf16 are slower with it than with fp32.

    Raises:
        UsageError: the device is absent.
    """
    if precision != "auto":
        return precision
    kind = usable_device(own_device(device)).type
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = kind == "cpu" and {"avx512_bf16", "amx_bf16", "bf16"} & _cpu_facts()[1]
    return "bf16" if native else "fp32"


@contextmanager
def open_accelerator(
    device: str, *, precision: Precision = "fp32", timeout: float = 600
) -> Iterator[Accelerator]:
    """An `Accelerator` for this process, with the others that were started with it.

    Its process-wide state is cleared afterwards.

    Args:
        device: ``auto`` or a kind; of several devices of a kind each process takes its own.
        precision: in which networks compute.
        timeout: most seconds to wait for another process.

    Raises:
        UsageError: the device is absent, or cannot compute in the wanted precision.
        ConfigError: the environment names several processes, but they do not find each other.
    """
    on_cpu = usable_device(own_device(device)).type == "cpu"
    if precision == "fp16" and on_cpu:
        raise ConfigError("train.precision=fp16 needs an accelerator; use bf16 or fp32 on a CPU")
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if wanted > 1 and not {"RANK", "LOCAL_RANK", "MASTER_ADDR"} <= os.environ.keys():
        raise ConfigError(
            f"WORLD_SIZE is {wanted}, but this process has no rank; start "
            "several with `devices`, torchrun or accelerate launch"
        )
    patience = InitProcessGroupKwargs(timeout=timedelta(seconds=timeout))
    accelerator = Accelerator(
        mixed_precision=_MIXED[precision], cpu=on_cpu, kwargs_handlers=[patience]
    )
    try:
        if accelerator.num_processes != wanted:
            # Each would train alone into the same folder.
            raise ConfigError(
                f"WORLD_SIZE is {wanted}, but {accelerator.num_processes} processes found each "
                "other; start them with `devices`, torchrun or accelerate launch"
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
        device: what this process computes on.
    """

    rank: int = 0
    world_size: int = 1
    device: str = "auto"

    def gather(self, items: list[Any]) -> list[Any]:
        """The lists of all processes joined in process order; every process gets the whole."""
        if self.world_size == 1:
            return items
        gathered: list[Any] = gather_object(items)
        return gathered


def processes_of(accelerator: Accelerator) -> Processes:
    """The processes of an accelerator as a plain value."""
    return Processes(
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        device=str(accelerator.device),
    )


@contextmanager
def open_processes(device: str) -> Iterator[Processes]:
    """Find the other processes of this job, for work other than training.

    Raises:
        UsageError: the device is absent.
    """
    if not is_launched():
        yield Processes(device=device)
        return
    with open_accelerator(device) as accelerator:
        yield processes_of(accelerator)


def describe_machine(threads: int | None = None) -> dict[str, str]:
    """What timings depend on: CPU, threads, GPU and its driver, versions.

    Args:
        threads: of the CPU; None for one per core.
    """
    runtimes = ("torch", "onnxruntime", "openvino", "ncnn", "ai-edge-litert", "tensorrt")
    return {
        "cpu": _cpu_name(),
        **(_gpu_facts() if torch.cuda.is_available() else {}),
        "cores": str(os.cpu_count()),
        "threads": "one per core" if threads is None else str(threads),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "oculox": __version__,
        **_versions(*runtimes),
    }


def _versions(*packages: str) -> dict[str, str]:
    """Of those that are installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _gpu_facts() -> dict[str, str]:
    """The current GPU's name, and the versions of what decides how fast it is."""
    facts = {
        "gpu": torch.cuda.get_device_name(),
        **{
            name: version
            for name in ("cuda", "hip")  # of NVIDIA and of AMD
            if (version := getattr(torch.version, name)) is not None
        },
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        # NMS is torchvision's, and compiled networks run in Triton.
        **_versions("torchvision", "triton", "onnxruntime-gpu"),
    }
    if _DRIVER.is_file() and (found := re.search(r"\b\d+\.[\d.]+", _DRIVER.read_text("utf-8"))):
        facts["driver"] = found[0]
    return facts


def _cpu_name() -> str:
    """The CPU's name, with the extensions that speed up int8 and bfloat16."""
    name, flags = _cpu_facts()
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "bf16")
    extensions = ", ".join(flag for flag in known if flag in flags)
    return f"{name} ({extensions})" if extensions else name


def _cpu_facts() -> tuple[str, set[str]]:
    """The CPU's name and its extensions, in Linux's words for x86 and ARM; none elsewhere."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine(), set()
    fields: dict[str, str] = {}
    for line in info.read_text("utf-8").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags") or fields.get("Features", "")
    return fields.get("model name", platform.machine()), set(flags.split())
