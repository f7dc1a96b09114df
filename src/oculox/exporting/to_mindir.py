"""MindIR, MindSpore's own format, for MindSpore and MindSpore Lite."""

import tempfile
from pathlib import Path

from oculox.errors import ExportError, first_line
from oculox.exporting.job import Job
from oculox.extras import require
from oculox.runtime.exported import METADATA_KEY
from oculox.weights.interop.protobuf_wire import bytes_field

_USER_INFO = 14


def write_mindir(job: Job, path: Path) -> None:
    """Write a `.mindir` of one batch and input size.

    Raises:
        MissingExtraError: when MindSpore is not installed.
        ExportError: when it fails.
    """
    mindspore = require("mindspore", extra="mindspore", purpose="a MindIR export")
    from oculox.exporting.mindspore_network import DetectionNetwork

    metadata = job.metadata
    network = DetectionNetwork(job.graph(), metadata.spec.input.size)
    network.set_train(False)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            mindspore.export(
                network,
                mindspore.Tensor(job.example().numpy()),
                file_name=str(Path(scratch) / "model"),
                file_format="MINDIR",
            )
        except (RuntimeError, ValueError, TypeError) as error:
            raise ExportError(f"MindSpore could not export: {first_line(error)}") from error
        content = (Path(scratch) / "model.mindir").read_bytes()
    # Messages are merged by writing one after the other: this adds one `user_info`.
    entry = bytes_field(1, METADATA_KEY.encode()) + bytes_field(2, metadata.to_json().encode())
    path.write_bytes(content + bytes_field(_USER_INFO, entry))
