"""LiteRT (TensorFlow Lite) files through LiteRT's interpreter."""

from __future__ import annotations

import zipfile
from pathlib import Path

from oculox.errors import CheckpointError, first_line
from oculox.extras import existing, require
from oculox.runtime.exported import METADATA_KEY, Array, ExportedBackend, ExportMetadata


class LitertBackend(ExportedBackend):
    """Runs an exported `.tflite`, on the CPU.

    Raises:
        MissingExtraError: when ai-edge-litert is not installed.
        CheckpointError: when the file is missing, damaged or not exported by Oculox.
    """

    kind = "litert"

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        runtime = require(
            "ai_edge_litert.interpreter", extra="litert", purpose="running a LiteRT model"
        )
        existing(path)
        try:
            with zipfile.ZipFile(path) as archive:
                text = archive.read(f"{METADATA_KEY}.json").decode()
        except (zipfile.BadZipFile, KeyError):
            text = None
        super().__init__(ExportMetadata.from_json(text, where=str(path)))
        try:
            # Kept: the runner needs it alive.
            self._interpreter = runtime.Interpreter(str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: damaged, or not a LiteRT model ({first_line(error)})"
            ) from None
        self._runner = self._interpreter.get_signature_runner()

    def run(self, inputs: Array) -> tuple[Array, ...]:
        """See `ExportedBackend.run`."""
        results = self._runner(**{self.metadata.input_name: inputs})
        return tuple(results[name] for name in self.metadata.output_names)
