"""OpenVINO's intermediate representation (`.xml` beside `.bin`) through OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from oculox.errors import CheckpointError, UsageError
from oculox.extras import existing, require
from oculox.runtime.exported import METADATA_KEY, Array, ExportedBackend, ExportMetadata


class OpenVinoBackend(ExportedBackend):
    """Runs an exported `.xml`.

    Args:
        compiled: an ``openvino.CompiledModel``.
        metadata: from the file.
    """

    kind = "openvino"

    def __init__(self, compiled: Any, metadata: ExportMetadata) -> None:
        super().__init__(metadata)
        self._compiled = compiled
        self._request = compiled.create_infer_request()

    @classmethod
    def from_file(cls, path: Path, *, device: str = "cpu", threads: int | None = None) -> Self:
        """Open a file.

        Args:
            path: the `.xml`; its `.bin` lies beside it.
            device: ``cpu`` (also for ``auto``), ``gpu`` or ``npu`` (Intel's).
            threads: of the CPU; None for one per core.

        Raises:
            MissingExtraError: when openvino is not installed.
            UsageError: when OpenVINO sees no such device.
            CheckpointError: when a file is missing, damaged or not exported by Oculox.
        """
        openvino = require("openvino", extra="openvino", purpose="running an OpenVINO model")
        existing(path)
        existing(path.with_suffix(".bin"))
        core = openvino.Core()
        try:
            model = core.read_model(path)
        except RuntimeError as error:
            detail = str(error).strip().splitlines()[-1]
            raise CheckpointError(f"{path}: damaged or no OpenVINO model ({detail})") from None
        text = None
        if model.has_rt_info(METADATA_KEY):
            text = str(model.get_rt_info(METADATA_KEY).astype(str))
        metadata = ExportMetadata.from_json(text, where=str(path))
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        target = "CPU" if device == "auto" else device.upper()
        if target == "CPU":
            # Some CPUs would otherwise compute in bfloat16 without being asked.
            config["INFERENCE_PRECISION_HINT"] = "f32"
        if target not in {name.split(".")[0] for name in core.available_devices}:
            raise UsageError(
                f"device {device!r}: OpenVINO sees {', '.join(core.available_devices)}"
            )
        return cls(core.compile_model(model, target, config), metadata)

    def run(self, inputs: Array) -> tuple[Array, ...]:
        """See `ExportedBackend.run`."""
        results = self._request.infer([inputs], share_inputs=True)
        return tuple(results[name] for name in self.metadata.output_names)
