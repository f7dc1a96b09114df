"""Core ML: an `.mlpackage` folder, an ML program for macOS 13, iOS 16 and later."""

from __future__ import annotations

from pathlib import Path

import torch

from oculox.exporting.job import Job
from oculox.exporting.onnx_model import quiet
from oculox.extras import require
from oculox.runtime.exported import CELL_OUTPUTS, METADATA_KEY


def write_coreml(job: Job, path: Path) -> None:
    """Convert with coremltools, through TorchScript; needs no Mac.

    Raises:
        MissingExtraError: when coremltools is not installed.
    """
    with quiet():
        tools = require("coremltools", extra="coreml", purpose="a Core ML export")
        size = (job.metadata.spec.batch or 1, 3, *job.metadata.spec.input.size)
        with torch.inference_mode():
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                job.graph(), (torch.zeros(size),), check_trace=False
            )
        precision = tools.precision
        model = tools.convert(
            traced,
            inputs=[tools.TensorType("images", shape=size)],
            outputs=[tools.TensorType(name) for name in CELL_OUTPUTS],
            convert_to="mlprogram",
            minimum_deployment_target=tools.target.iOS16,
            compute_precision=precision.FLOAT16
            if job.metadata.precision == "fp16"
            else precision.FLOAT32,
        )
        model.user_defined_metadata[METADATA_KEY] = job.metadata.to_json()
        model.license = job.metadata.license
        model.save(str(path))
