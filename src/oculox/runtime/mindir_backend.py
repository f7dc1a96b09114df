"""MindIR files through MindSpore."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from oculox.errors import CheckpointError
from oculox.extras import existing, require
from oculox.runtime.exported import METADATA_KEY, Array, ExportedBackend, ExportMetadata
from oculox.weights.interop.protobuf_wire import read_metadata


class MindirBackend(ExportedBackend):
    """Runs an exported `.mindir` on the device that MindSpore was built for.

    Args:
        network: a ``mindspore.nn.GraphCell``.
        tensor: ``mindspore.Tensor``.
        metadata: from the file.
    """

    kind = "mindir"

    def __init__(self, network: Any, tensor: Any, metadata: ExportMetadata) -> None:
        super().__init__(metadata)
        self._network = network
        self._tensor = tensor

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Open a file.

        Raises:
            MissingExtraError: when MindSpore is not installed.
            CheckpointError: when the file is missing, damaged or not exported by Oculox.
        """
        existing(path)
        text = read_metadata(path).get(METADATA_KEY)
        metadata = ExportMetadata.from_json(text, where=str(path))
        mindspore = require("mindspore", extra="mindspore", purpose="running a MindIR file")
        try:
            network = mindspore.nn.GraphCell(mindspore.load(str(path)))
        except (RuntimeError, ValueError, TypeError) as error:
            detail = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CheckpointError(f"{path}: damaged or no MindIR file ({detail})") from None
        return cls(network, mindspore.Tensor, metadata)

    def run(self, inputs: Array) -> tuple[Array, ...]:
        """See `ExportedBackend.run`."""
        return tuple(output.asnumpy() for output in self._network(self._tensor(inputs)))
