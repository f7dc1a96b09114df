"""LiteRT (TensorFlow Lite) files through LiteRT's interpreter."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Self

from oculox.errors import CheckpointError
from oculox.extras import existing, require
from oculox.runtime.exported import METADATA_KEY, Array, ExportedBackend, ExportMetadata


class LitertBackend(ExportedBackend):
    """Runs an exported `.tflite`, on the CPU.

    Args:
        interpreter: an ``ai_edge_litert`` interpreter, which the runner needs alive.
        metadata: from the file.
    """

    kind = "litert"

    def __init__(self, interpreter: Any, metadata: ExportMetadata) -> None:
        super().__init__(metadata)
        self._interpreter = interpreter
        self._runner = interpreter.get_signature_runner()

    @classmethod
    def from_file(cls, path: Path, *, threads: int | None = None) -> Self:
        """Open a file.

        Raises:
            MissingExtraError: when ai-edge-litert is not installed.
            CheckpointError: when the file is missing, damaged or not exported by Oculox.
        """
        runtime = require(
            "ai_edge_litert.interpreter", extra="litert", purpose="running a LiteRT model"
        )
        existing(path)
        try:
            with zipfile.ZipFile(path) as archive:
                text = archive.read(f"{METADATA_KEY}.json").decode()
        except (zipfile.BadZipFile, KeyError):
            text = None
        metadata = ExportMetadata.from_json(text, where=str(path))
        try:
            interpreter = runtime.Interpreter(str(path), num_threads=threads)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            detail = str(error).splitlines()[0]
            raise CheckpointError(f"{path}: damaged or no LiteRT model ({detail})") from None
        return cls(interpreter, metadata)

    def run(self, inputs: Array) -> tuple[Array, ...]:
        """See `ExportedBackend.run`."""
        results = self._runner(**{self.metadata.input_name: inputs})
        return tuple(results[name] for name in self.metadata.output_names)
