"""Core ML: an `.mlpackage` folder, an ML program for macOS 13, iOS 16 and later."""

from pathlib import Path

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
        precision = tools.precision
        model = tools.convert(
            job.traced(),
            inputs=[tools.TensorType("images", shape=tuple(job.example().shape))],
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
