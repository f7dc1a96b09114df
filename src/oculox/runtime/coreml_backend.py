"""Core ML packages through coremltools; only macOS can run them."""

import platform
from pathlib import Path

from oculox.errors import UsageError
from oculox.extras import existing, require
from oculox.runtime.exported import METADATA_KEY, Array, ExportMetadata, Opened


def open_coreml(path: Path) -> Opened:
    """Open an exported `.mlpackage`.

    Raises:
        UsageError: anywhere but on macOS.
        MissingExtraError: when coremltools is not installed.
        CheckpointError: when the package is missing or was not exported by Oculox.
    """
    existing(path)
    if platform.system() != "Darwin":
        raise UsageError(f"{path}: Core ML models run only on macOS and iOS")
    tools = require("coremltools", extra="coreml", purpose="running a Core ML model")
    model = tools.models.MLModel(str(path))
    text = model.user_defined_metadata.get(METADATA_KEY)
    metadata = ExportMetadata.from_json(text, where=str(path))

    def run(inputs: Array) -> tuple[Array, ...]:
        results = model.predict({metadata.input_name: inputs})
        return tuple(results[name] for name in metadata.output_names)

    return Opened(metadata, run)
