"""ONNX files through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from oculox.errors import CheckpointError, UsageError
from oculox.extras import existing, require
from oculox.runtime.exported import METADATA_KEY, Array, ExportedBackend, ExportMetadata


class OnnxBackend(ExportedBackend):
    """Runs an exported `.onnx`.

    Args:
        session: an ``onnxruntime.InferenceSession``.
        metadata: from the file.
    """

    kind = "onnx"

    def __init__(self, session: Any, metadata: ExportMetadata) -> None:
        super().__init__(metadata)
        self._session = session

    @classmethod
    def from_file(cls, path: Path, *, device: str = "cpu", threads: int | None = None) -> Self:
        """Open a file.

        Args:
            path: the `.onnx`.
            device: ``cpu``, ``cuda`` (needs onnxruntime-gpu) or ``auto``.
            threads: of one operator; None for one per core.

        Raises:
            MissingExtraError: when onnxruntime is not installed.
            UsageError: when this build of ONNX Runtime has no such device.
            CheckpointError: when the file is missing, damaged or not exported by Oculox.
        """
        runtime = require("onnxruntime", extra="onnx", purpose="running an ONNX file")
        existing(path)
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors; the rest is about its own optimisations
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            session = runtime.InferenceSession(
                str(path), options, providers=_providers(runtime, device)
            )
        except runtime.capi.onnxruntime_pybind11_state.Fail as error:
            raise _damaged(path, error) from None
        except runtime.capi.onnxruntime_pybind11_state.InvalidProtobuf as error:
            raise _damaged(path, error) from None
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        return cls(session, ExportMetadata.from_json(text, where=str(path)))

    def run(self, inputs: Array) -> tuple[Array, ...]:
        """See `ExportedBackend.run`."""
        return tuple(
            self._session.run(list(self.metadata.output_names), {self.metadata.input_name: inputs})
        )


def _providers(runtime: Any, device: str) -> list[str]:
    usable = runtime.get_available_providers()
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    wants_cuda = device.startswith("cuda")
    if device == "cpu" or (device == "auto" and cuda not in usable):
        return [cpu]
    if device == "auto" or (wants_cuda and cuda in usable):
        return [cuda, cpu]
    raise UsageError(
        f"device {device!r}: this ONNX Runtime runs on {', '.join(usable)}"
        + ("; install onnxruntime-gpu for CUDA" if wants_cuda else "")
    )


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: damaged or no ONNX file ({str(error).splitlines()[0]})")
