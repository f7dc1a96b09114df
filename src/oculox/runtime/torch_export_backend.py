"""PyTorch's own exports: TorchScript and exported programs."""

from __future__ import annotations

import abc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oculox.distributed.devices import usable_device
from oculox.errors import CheckpointError, first_line
from oculox.extras import existing
from oculox.runtime.exported import METADATA_KEY, Array, ExportedBackend, ExportMetadata

_Program = Callable[[Tensor], tuple[Tensor, ...]]


class _TorchExportBackend(ExportedBackend):
    """A program that PyTorch exported and loads again.

    Raises:
        UsageError: when PyTorch has no such device.
        CheckpointError: when the file is missing, damaged or not exported by Oculox.
    """

    def __init__(self, path: Path, *, device: str = "cpu") -> None:
        existing(path)
        self._device = usable_device(device)
        extra: dict[str, Any] = {METADATA_KEY: ""}
        try:
            self._program = self._load(path, extra)
        except (RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"{path}: damaged, or not such a PyTorch export ({first_line(error)})"
            ) from None
        text = extra[METADATA_KEY]
        text = text.decode() if isinstance(text, bytes) else text
        super().__init__(ExportMetadata.from_json(text or None, where=str(path)))

    @abc.abstractmethod
    def _load(self, path: Path, extra: dict[str, Any]) -> _Program:
        """The program on the device; fills in the values of `extra` from the file."""

    def run(self, inputs: Array) -> tuple[Array, ...]:
        """See `ExportedBackend.run`."""
        with torch.inference_mode():
            outputs = self._program(torch.from_numpy(inputs).to(self._device))
        return tuple(output.cpu().numpy() for output in outputs)


class TorchScriptBackend(_TorchExportBackend):
    """Runs an exported `.torchscript`."""

    kind = "torchscript"

    def _load(self, path: Path, extra: dict[str, Any]) -> _Program:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as a whole
            program: _Program = torch.jit.load(  # type: ignore[no-untyped-call]
                str(path), map_location=self._device, _extra_files=extra
            )
        return program


class Pt2Backend(_TorchExportBackend):
    """Runs an exported `.pt2`."""

    kind = "pt2"

    def _load(self, path: Path, extra: dict[str, Any]) -> _Program:
        return torch.export.load(path, extra_files=extra).module().to(self._device)
