"""MindIR files through MindSpore."""

from pathlib import Path

from oculox.errors import CheckpointError, first_line
from oculox.extras import require
from oculox.runtime.exported import METADATA_KEY, Array, ExportMetadata, Opened
from oculox.weights.interop.protobuf_wire import read_metadata


def open_mindir(path: Path) -> Opened:
    """Open an exported `.mindir` on the device that MindSpore was built for.

    Raises:
        MissingExtraError: when MindSpore is not installed.
        CheckpointError: when the file is missing, damaged or was not exported by Oculox.
    """
    text = read_metadata(path).get(METADATA_KEY)
    metadata = ExportMetadata.from_json(text, where=str(path))
    mindspore = require("mindspore", extra="mindspore", purpose="running a MindIR file")
    try:
        network = mindspore.nn.GraphCell(mindspore.load(str(path)))
    except (RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: damaged, or not a MindIR file ({first_line(error)})"
        ) from None

    def run(inputs: Array) -> tuple[Array, ...]:
        return tuple(output.asnumpy() for output in network(mindspore.Tensor(inputs)))

    return Opened(metadata, run)
