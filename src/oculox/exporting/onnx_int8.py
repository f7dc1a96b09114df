"""Int8 for ONNX Runtime: quantise-dequantise pairs around the network's convolutions."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oculox.exporting.calibration import CalibrationFeeds
from oculox.exporting.job import Job
from oculox.extras import require
from oculox.runtime.exported import METADATA_KEY, Array

if TYPE_CHECKING:
    import onnx

FLOAT_LAYERS = ("reg_preds", "obj_preds", "cls_preds")
"""Predictors stay in float: their outputs are the results."""
# Outputs of convolutions stay in float as well: they are inputs of SiLU, which flattens the
# negative half of their range, and 8 bits over all of it cost YOLOX-Nano 0.09 AP and more.
_OPTIONS = {"OpTypesToExcludeOutputQuantization": ["Conv"]}
# TensorRT takes no zero point but 0, and quantised values of 8 bits alone (biases have 32).
_SYMMETRIC = {"ActivationSymmetric": True, "QuantizeBias": False}


def quantize_onnx(model: onnx.ModelProto, job: Job, *, symmetric: bool = False) -> onnx.ModelProto:
    """A quantised copy of a model from `build_onnx`.

    Only convolutions and what lies between them are quantised: the decoding, with its
    exponentials and pixels, and the NMS stay in float.

    Args:
        model: in float32.
        job: with calibration images.
        symmetric: signed activations whose zero point is 0, for TensorRT; else unsigned ones
            with a zero point of their own, which lose less.

    Raises:
        MissingExtraError: when onnxruntime is not installed.
    """
    import onnx

    require("onnxruntime", extra="onnx", purpose="an int8 ONNX export")
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as scratch:
        before, prepared, after = (Path(scratch) / f"{n}.onnx" for n in ("a", "b", "c"))
        onnx.save(model, before)
        quant_pre_process(before, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            after,
            _reader(job),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=[node.name for node in model.graph.node if _stays_float(node)],
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={**_OPTIONS, **(_SYMMETRIC if symmetric else {})},
        )
        quantized: onnx.ModelProto = onnx.load(after)
    onnx.helper.set_model_props(quantized, {METADATA_KEY: job.metadata.to_json()})
    return quantized


def _stays_float(node: onnx.NodeProto) -> bool:
    """Predictors, and depthwise convolutions: little arithmetic and most of the error."""
    depthwise = any(a.name == "group" and a.i > 1 for a in node.attribute)
    return depthwise or any(f".{layer}." in node.name for layer in FLOAT_LAYERS)


def _reader(job: Job) -> Any:
    """Calibration inputs one at a time, as ONNX Runtime requests them."""
    from onnxruntime.quantization import CalibrationDataReader

    feeds = iter(CalibrationFeeds(job))

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """One feed at each call, then None."""

        def get_next(self) -> dict[str, Array] | None:
            feed = next(feeds, None)
            return None if feed is None else {job.metadata.input_name: feed}

    return Reader()
