"""Core ML packages through coremltools; only macOS can run them."""

from __future__ import annotations

import platform
from pathlib import Path

from oculox.errors import UsageError
from oculox.extras import existing, require
from oculox.runtime.exported import METADATA_KEY, Array, ExportedBackend, ExportMetadata


class CoremlBackend(ExportedBackend):
    """Runs an exported `.mlpackage`.

    Raises:
        UsageError: anywhere but on macOS.
        MissingExtraError: when coremltools is not installed.
        CheckpointError: when the package is missing or not exported by Oculox.
    """

    kind = "coreml"

    def __init__(self, path: Path) -> None:
        existing(path)
        if platform.system() != "Darwin":
            raise UsageError(f"{path}: Core ML models run only on macOS and iOS")
        tools = require("coremltools", extra="coreml", purpose="running a Core ML model")
        self._model = tools.models.MLModel(str(path))
        text = self._model.user_defined_metadata.get(METADATA_KEY)
        super().__init__(ExportMetadata.from_json(text, where=str(path)))

    def run(self, inputs: Array) -> tuple[Array, ...]:
        """See `ExportedBackend.run`."""
        results = self._model.predict({self.metadata.input_name: inputs})
        return tuple(results[name] for name in self.metadata.output_names)
