"""Core ML packages through coremltools; macOS alone can run them."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, Self

from oculox.errors import UsageError
from oculox.extras import existing, require
from oculox.runtime.exported import METADATA_KEY, Array, ExportedBackend, ExportMetadata


class CoremlBackend(ExportedBackend):
    """Runs an exported `.mlpackage`.

    Args:
        model: a ``coremltools.models.MLModel``.
        metadata: from the package.
    """

    kind = "coreml"

    def __init__(self, model: Any, metadata: ExportMetadata) -> None:
        super().__init__(metadata)
        self._model = model

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Open a package.

        Raises:
            UsageError: anywhere but on macOS.
            MissingExtraError: when coremltools is not installed.
            CheckpointError: when the package is missing or not exported by Oculox.
        """
        existing(path)
        if platform.system() != "Darwin":
            raise UsageError(f"{path}: Core ML models run on macOS and iOS alone")
        tools = require("coremltools", extra="coreml", purpose="running a Core ML model")
        model = tools.models.MLModel(str(path))
        text = model.user_defined_metadata.get(METADATA_KEY)
        return cls(model, ExportMetadata.from_json(text, where=str(path)))

    def run(self, inputs: Array) -> tuple[Array, ...]:
        """See `ExportedBackend.run`."""
        results = self._model.predict({self.metadata.input_name: inputs})
        return tuple(results[name] for name in self.metadata.output_names)
