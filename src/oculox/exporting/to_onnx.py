"""ONNX files, in float32, float16 or, with quantise-dequantise pairs, in int8."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from oculox.exporting.job import Job
from oculox.exporting.onnx_int8 import quantize_onnx
from oculox.exporting.onnx_model import build_onnx
from oculox.extras import require

if TYPE_CHECKING:
    import onnx


def onnx_of(job: Job, *, symmetric: bool = False) -> onnx.ModelProto:
    """The model in the job's precision; `symmetric` is for int8 (see `quantize_onnx`).

    Raises:
        MissingExtraError: when onnx, onnxscript or onnxruntime is not installed.
        UsageError: when the operator set is not supported.
        ExportError: when a converter fails.
    """
    model = build_onnx(job, half=job.metadata.precision == "fp16")
    if job.metadata.precision == "int8":
        model = quantize_onnx(model, job, symmetric=symmetric)
    return model


def write_onnx(job: Job, path: Path) -> None:
    """Write a `.onnx`; see `onnx_of` for the errors."""
    onnx = require("onnx", extra="onnx", purpose="an ONNX export")
    onnx.save(onnx_of(job), path)
