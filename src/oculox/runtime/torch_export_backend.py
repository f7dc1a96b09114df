"""PyTorch's own exports: TorchScript and exported programs."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from oculox.distributed.devices import usable_device
from oculox.errors import CheckpointError
from oculox.extras import existing
from oculox.runtime.exported import METADATA_KEY, Array, ExportedBackend, ExportMetadata

_Call = Callable[[Tensor], tuple[Tensor, ...]]


class _TorchExportBackend(ExportedBackend):
    """A loaded program.

    Args:
        call: the program.
        metadata: from the file.
        device: where it runs.
    """

    def __init__(self, call: _Call, metadata: ExportMetadata, device: torch.device) -> None:
        super().__init__(metadata)
        self._call = call
        self._device = device

    def run(self, inputs: Array) -> tuple[Array, ...]:
        """See `ExportedBackend.run`."""
        with torch.inference_mode():
            outputs = self._call(torch.from_numpy(inputs).to(self._device))
        return tuple(output.cpu().numpy() for output in outputs)


class TorchScriptBackend(_TorchExportBackend):
    """Runs an exported `.torchscript`."""

    kind = "torchscript"

    @classmethod
    def from_file(cls, path: Path, *, device: str = "cpu") -> Self:
        """Open a file.

        Raises:
            UsageError: when PyTorch has no such device.
            CheckpointError: when the file is missing, damaged or not exported by Oculox.
        """
        existing(path)
        target = usable_device(device)
        extra: dict[str, Any] = {METADATA_KEY: ""}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as a whole
                module = torch.jit.load(  # type: ignore[no-untyped-call]
                    str(path), map_location=target, _extra_files=extra
                )
        except RuntimeError as error:
            raise _damaged(path, error) from None
        text = extra[METADATA_KEY]
        text = text.decode() if isinstance(text, bytes) else text
        return cls(module, ExportMetadata.from_json(text or None, where=str(path)), target)


class Pt2Backend(_TorchExportBackend):
    """Runs an exported `.pt2`."""

    kind = "pt2"

    @classmethod
    def from_file(cls, path: Path, *, device: str = "cpu") -> Self:
        """Open a file.

        Raises:
            UsageError: when PyTorch has no such device.
            CheckpointError: when the file is missing, damaged or not exported by Oculox.
        """
        existing(path)
        target = usable_device(device)
        extra: dict[str, Any] = {METADATA_KEY: ""}
        try:
            program = torch.export.load(path, extra_files=extra)
        except (RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise _damaged(path, error) from None
        metadata = ExportMetadata.from_json(extra[METADATA_KEY] or None, where=str(path))
        return cls(program.module().to(target), metadata, target)


def _damaged(path: Path, error: Exception) -> CheckpointError:
    detail = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CheckpointError(f"{path}: damaged or no such PyTorch export ({detail})")
