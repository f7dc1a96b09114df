"""LiteRT (TensorFlow Lite) files through LiteRT's interpreter."""

import zipfile
from pathlib import Path

from oculox.errors import CheckpointError, first_line
from oculox.extras import existing, require
from oculox.runtime.exported import METADATA_KEY, Array, ExportMetadata, Opened


def open_litert(path: Path, *, threads: int | None) -> Opened:
    """Open an exported `.tflite`, on the CPU.

    Raises:
        MissingExtraError: when ai-edge-litert is not installed.
        CheckpointError: when the file is missing, damaged or was not exported by Oculox.
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
        raise CheckpointError(
            f"{path}: damaged, or not a LiteRT model ({first_line(error)})"
        ) from None
    runner = interpreter.get_signature_runner()

    def run(inputs: Array) -> tuple[Array, ...]:
        assert interpreter  # the runner needs it alive
        results = runner(**{metadata.input_name: inputs})
        return tuple(results[name] for name in metadata.output_names)

    return Opened(metadata, run)
