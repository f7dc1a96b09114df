"""OpenVINO's intermediate representation: `.xml` and `.bin`; int8 by NNCF."""

import tempfile
from pathlib import Path
from typing import Any

from oculox.exporting.calibration import CalibrationFeeds
from oculox.exporting.job import Job
from oculox.exporting.onnx_model import build_onnx, quiet
from oculox.extras import require
from oculox.runtime.exported import METADATA_KEY

FLOAT_NODES = (
    r".*(reg|obj)_preds\..*",
    r"(.*/)?decoding/.*",
    r"letterbox/.*",
    r"nms/.*",
    r"(.*/)?(input_)?boxes",
    r"(.*/)?scores",
)
"""Left in float by int8: the predictors of boxes and objectness, whose outputs are the results, and
what is not part of the network. In 8 bits the columns of a 640 pixel input would be off by half a
cell. Predictors of classes lose nothing that could be measured: only their inputs and weights have
8 bits, not their outputs."""
FLOAT_TYPES = ("GroupConvolution",)
"""Depthwise convolutions stay in float too: a few percent of the arithmetic and most of the
error. On YOLOX-Nano they cost 0.02 AP."""


def write_openvino(job: Job, path: Path) -> None:
    """Write a `.xml` and the `.bin` beside it.

    Raises:
        MissingExtraError: when openvino, onnx or, for int8, nncf is not installed.
        ExportError: when a converter fails.
    """
    openvino = require("openvino", extra="openvino", purpose="an OpenVINO export")
    onnx = require("onnx", extra="openvino", purpose="an OpenVINO export")
    with tempfile.TemporaryDirectory() as scratch:
        # OpenVINO reads the weights from this file until the model is saved.
        between = Path(scratch) / "model.onnx"
        onnx.save(build_onnx(job), between)
        model = openvino.convert_model(between)
        if job.metadata.precision == "int8":
            model = _quantized(model, job)
        model.set_rt_info(job.metadata.to_json(), METADATA_KEY)
        openvino.save_model(model, path, compress_to_fp16=job.metadata.precision == "fp16")


def _quantized(model: Any, job: Job) -> Any:
    nncf = require("nncf", extra="openvino", purpose="an int8 OpenVINO export")
    feeds = CalibrationFeeds(job)
    with quiet():
        return nncf.quantize(
            model,
            nncf.Dataset(feeds),
            # Activations of SiLU reach far up and hardly down: no symmetric ranges.
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(feeds),
            ignored_scope=nncf.IgnoredScope(
                patterns=list(FLOAT_NODES), types=list(FLOAT_TYPES), validate=False
            ),
        )
