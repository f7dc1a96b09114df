"""MindIR files through MindSpore."""

from __future__ import annotations

from pathlib import Path

from oculox.errors import CheckpointError, first_line
from oculox.extras import existing, require
from oculox.runtime.exported import METADATA_KEY, Array, ExportedBackend, ExportMetadata
from oculox.weights.interop.protobuf_wire import read_metadata


class MindirBackend(ExportedBackend):
    """Runs an exported `.mindir` on the device that MindSpore was built for.

    Raises:
        MissingExtraError: when MindSpore is not installed.
        CheckpointError: when the file is missing, damaged or not exported by Oculox.
    """

    kind = "mindir"

    def __init__(self, path: Path) -> None:
        text = read_metadata(existing(path)).get(METADATA_KEY)
        super().__init__(ExportMetadata.from_json(text, where=str(path)))
        mindspore = require("mindspore", extra="mindspore", purpose="running a MindIR file")
        self._tensor = mindspore.Tensor
        try:
            self._network = mindspore.nn.GraphCell(mindspore.load(str(path)))
        except (RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{path}: damaged, or not a MindIR file ({first_line(error)})"
            ) from None

    def run(self, inputs: Array) -> tuple[Array, ...]:
        """See `ExportedBackend.run`."""
        return tuple(output.asnumpy() for output in self._network(self._tensor(inputs)))
