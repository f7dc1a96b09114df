"""ONNX files through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oculox.errors import CheckpointError, UsageError, first_line
from oculox.extras import existing, require
from oculox.runtime.exported import METADATA_KEY, Array, ExportedBackend, ExportMetadata


class OnnxBackend(ExportedBackend):
    """Runs an exported `.onnx`.

    Args:
        path: the file.
        device: ``cpu``, ``cuda`` (needs onnxruntime-gpu) or ``auto``.
        threads: of one operator; None for one per core.

    Raises:
        MissingExtraError: when onnxruntime is not installed.
        UsageError: when this build of ONNX Runtime has no such device.
        CheckpointError: when the file is missing, damaged or not exported by Oculox.
    """

    kind = "onnx"

    def __init__(self, path: Path, *, device: str = "cpu", threads: int | None = None) -> None:
        runtime = require("onnxruntime", extra="onnx", purpose="running an ONNX file")
        existing(path)
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors; the rest is about its own optimisations
        if threads is not None:
            options.intra_op_num_threads = threads
        state = runtime.capi.onnxruntime_pybind11_state
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=_providers(runtime, device)
            )
        except (state.Fail, state.InvalidProtobuf) as error:
            raise CheckpointError(
                f"{path}: damaged, or not an ONNX file ({first_line(error)})"
            ) from None
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        super().__init__(ExportMetadata.from_json(text, where=str(path)))

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
