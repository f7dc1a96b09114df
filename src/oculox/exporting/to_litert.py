"""LiteRT, formerly TensorFlow Lite: one `.tflite` file."""

import contextlib
import io
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from oculox.exporting.graph import DetectionGraph
from oculox.exporting.job import Job
from oculox.exporting.onnx_model import quiet
from oculox.extras import require
from oculox.runtime.exported import CELL_OUTPUTS, METADATA_KEY


class _Named(nn.Module):
    """Outputs by name, which become the names of the file's signature."""

    def __init__(self, graph: DetectionGraph) -> None:
        super().__init__()
        self.detector = graph

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(CELL_OUTPUTS, self.detector(images), strict=True))


def write_litert(job: Job, path: Path) -> None:
    """Convert with litert-torch; the metadata is a zip entry at the end of the file.

    Appended zip entries are where LiteRT's own tools keep a model's extra files.

    Raises:
        MissingExtraError: when litert-torch is not installed.
    """
    litert_torch = require("litert_torch", extra="litert", purpose="a LiteRT export")
    # The converter prints every step on both streams.
    with torch.no_grad(), quiet(), contextlib.redirect_stderr(io.StringIO()):
        feed = {"images": job.example()}
        model = litert_torch.convert(_Named(job.graph()).eval(), sample_kwargs=feed)
        model.export(str(path))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{METADATA_KEY}.json", job.metadata.to_json())
