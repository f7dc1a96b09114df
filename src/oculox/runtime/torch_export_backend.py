"""PyTorch's own exports: TorchScript and exported programs."""

import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._export.verifier import SpecViolationError

from oculox.distributed.devices import usable_device
from oculox.errors import CheckpointError, UsageError, first_line
from oculox.extras import existing
from oculox.runtime.exported import METADATA_KEY, Array, ExportMetadata, Opened

_Program = Callable[[Tensor], tuple[Tensor, ...]]
# PyTorch looks at what it reads by using it.
_FAULTS = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError),
    *(RuntimeError, TypeError, ValueError),
    *(SpecViolationError, pickle.UnpicklingError, zipfile.BadZipFile),
)


def open_torchscript(path: Path, *, device: str) -> Opened:
    """Open an exported `.torchscript`; see `_opened` for the errors."""

    def load(target: torch.device, extra: dict[str, Any]) -> _Program:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as a whole
            program: _Program = torch.jit.load(  # type: ignore[no-untyped-call]
                str(path), map_location=target, _extra_files=extra
            )
        return program

    return _opened(path, load, device=device)


def open_pt2(path: Path, *, device: str) -> Opened:
    """Open an exported `.pt2`; see `_opened` for the errors."""

    def load(target: torch.device, extra: dict[str, Any]) -> _Program:
        return program_on(torch.export.load(path, extra_files=extra), target)

    return _opened(path, load, device=device)


def program_on(program: torch.export.ExportedProgram, target: torch.device) -> nn.Module:
    """An exported program as a module on a device; its operations name the CPU, where it was made.

    Raises:
        UsageError: this version of PyTorch cannot move it there.
    """
    if target.type == "cpu":
        return program.module()
    try:
        from torch.export.passes import move_to_device_pass
    except ImportError:
        raise UsageError(
            f"device {str(target)!r}: PyTorch {torch.__version__} runs a .pt2 file on the CPU "
            "only; use a newer PyTorch, or another format"
        ) from None
    return move_to_device_pass(program, str(target)).module()


def _opened(
    path: Path, load: Callable[[torch.device, dict[str, Any]], _Program], *, device: str
) -> Opened:
    """A program that PyTorch exported and loads again.

    Args:
        path: the file.
        load: gives the program on a device, and fills in the values of a mapping from the file.
        device: where to run.

    Raises:
        UsageError: when PyTorch has no such device.
        CheckpointError: when the file is missing, damaged or was not exported by Oculox.
    """
    existing(path)
    target = usable_device(device)
    extra: dict[str, Any] = {METADATA_KEY: ""}
    try:
        program = load(target, extra)
    except _FAULTS as error:
        raise CheckpointError(
            f"{path}: damaged, or not such a PyTorch export ({first_line(error)})"
        ) from None
    metadata = ExportMetadata.from_json(extra[METADATA_KEY] or None, where=str(path))

    def run(inputs: Array) -> tuple[Array, ...]:
        try:
            with torch.inference_mode():
                outputs = program(torch.from_numpy(inputs).to(target))
            return tuple(output.cpu().numpy() for output in outputs)
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: cannot be run; damaged, or too large ({first_line(error)})"
            ) from None

    return Opened(metadata, run)
