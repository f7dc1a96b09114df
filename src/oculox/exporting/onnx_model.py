"""The ONNX model that ONNX Runtime, OpenVINO and TensorRT exports start from."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from oculox.errors import ExportError, UsageError
from oculox.exporting.job import DEFAULT_OPSET, Job
from oculox.exporting.onnx_parts import letterbox_part, nms_part
from oculox.extras import require
from oculox.runtime.exported import METADATA_KEY, ExportMetadata

if TYPE_CHECKING:
    import onnx

PREDICTOR = "_preds."
"""In the names of the head's last convolutions; what follows them is called ``decoding/...``."""
OPSETS = range(18, 24)
"""Operator sets that can be written."""


def build_onnx(job: Job, *, half: bool = False) -> onnx.ModelProto:
    """Convert and assemble: letterbox where wanted, network, decoding, NMS.

    Args:
        job: says which parts there are, batch and size.
        half: the network in float16; inputs, outputs and decoding stay in float32.

    Returns:
        A checked model in memory, its metadata inside.

    Raises:
        MissingExtraError: when onnx or onnxscript is not installed.
        UsageError: when the operator set is not supported.
        ExportError: when the converter fails.
    """
    metadata, opset = job.metadata, job.opset
    if opset not in OPSETS:
        raise UsageError(f"opset must be {OPSETS[0]} to {OPSETS[-1]}, got {opset}")
    onnx = require("onnx", extra="onnx", purpose="an ONNX export")
    require("onnxscript", extra="onnx", purpose="an ONNX export")
    model = _network(job, half=half)
    if metadata.nms is not None:
        text = nms_part(metadata.nms, opset=opset, num_classes=metadata.spec.num_classes)
        part = onnx.parser.parse_model(text)
        pairs = [("boxes", "all_boxes"), ("scores", "all_scores")]
        model = onnx.compose.merge_models(
            onnx.compose.add_prefix(model, "network/", rename_inputs=False),
            onnx.compose.add_prefix(part, "nms/", rename_outputs=False),
            io_map=[(f"network/{a}", f"nms/{b}") for a, b in pairs],
        )
    if metadata.preprocess:
        model = _with_letterbox(model, metadata, opset)
    model.producer_name, model.producer_version = "oculox", metadata.oculox
    onnx.helper.set_model_props(model, {METADATA_KEY: metadata.to_json()})
    onnx.checker.check_model(model, full_check=True)
    return model


def free_dimensions(metadata: ExportMetadata) -> dict[str, dict[int, Any]] | None:
    """The dimensions of the input that stay free, as `torch.export` takes them; None for none."""
    dims: dict[int, Any] = {}
    if metadata.spec.batch is None:
        dims[0] = torch.export.Dim.DYNAMIC
    if metadata.spec.dynamic_size:
        stride = max(metadata.spec.strides)
        dims[2] = stride * torch.export.Dim("rows", min=1, max=256)
        dims[3] = stride * torch.export.Dim("columns", min=1, max=256)
    return {"images": dims} if dims else None


def _network(job: Job, *, half: bool) -> onnx.ModelProto:
    metadata, opset = job.metadata, job.opset
    with quiet():
        program = torch.onnx.export(
            job.graph(half=half),
            (job.example(),),
            dynamo=True,
            opset_version=opset,
            input_names=["images"],
            output_names=["boxes", "scores"],
            dynamic_shapes=free_dimensions(metadata),
            verbose=False,
        )
    if program is None:
        raise ExportError("PyTorch's ONNX converter gave no model")
    model: onnx.ModelProto = program.model_proto
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get("") != opset:
        raise ExportError(
            f"the converter made operator set {versions.get('')} instead of {opset}; "
            f"export with `opset` {DEFAULT_OPSET}"
        )
    _tidy(model, metadata)
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back the converters' remarks about their own internals; errors still come through."""
    loggers = [logging.getLogger(name) for name in ("torch", "coremltools", "nncf")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        # Progress bars belong to standard error: a script may read the output.
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _tidy(model: onnx.ModelProto, metadata: ExportMetadata) -> None:
    """Name free dimensions and convolutions, in place, and drop notes about Python code."""
    names = {0: "batch", 2: "height", 3: "width"}
    renamed: dict[str, str] = {}
    for axis, dim in enumerate(model.graph.input[0].type.tensor_type.shape.dim):
        if dim.dim_param:
            renamed[dim.dim_param] = names[axis]
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = renamed.get(dim.dim_param, "cells")
    # Shapes inside the graph still carry the old names; runtimes infer their own.
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    weights = {initializer.name for initializer in model.graph.initializer}
    predicted: set[str] = set()
    shared: dict[str, int] = {}
    for node in model.graph.node:  # in topological order
        del node.metadata_props[:]
        node.doc_string = ""
        # A convolution is called after the module it came from, so that people and the
        # quantisers' lists of exceptions can find it.
        owners = [name for name in node.input if name in weights and name.endswith(".weight")]
        if node.op_type == "Conv" and owners:
            node.name = owners[0].removesuffix(".weight")
            # Equal weights are one initializer: the convolutions that share it are numbered.
            shared[node.name] = shared.get(node.name, 0) + 1
            if shared[node.name] > 1:
                node.name = f"{node.name}/{shared[node.name]}"
        if PREDICTOR in node.name or predicted.intersection(node.input):
            predicted.update(node.output)
            if PREDICTOR not in node.name:
                node.name = f"decoding/{node.name}"


def _with_letterbox(
    model: onnx.ModelProto, metadata: ExportMetadata, opset: int
) -> onnx.ModelProto:
    """Put the letterbox before the model and its inverse after the boxes."""
    import onnx

    text = letterbox_part(metadata.spec.input, opset=opset)
    part = onnx.compose.add_prefix(onnx.parser.parse_model(text), "letterbox/", rename_inputs=False)
    outputs = [output.name for output in model.graph.output]
    merged = onnx.compose.merge_models(
        part,
        model,
        io_map=[("letterbox/letterboxed", "images")],
        outputs=[*outputs, "letterbox/shift", "letterbox/scale"],
    )
    for node in merged.graph.node:
        for i, name in enumerate(node.output):
            if name == "boxes":
                node.output[i] = "input_boxes"
    merged.graph.node.extend(
        [
            onnx.helper.make_node("Sub", ["input_boxes", "letterbox/shift"], ["shifted_boxes"]),
            onnx.helper.make_node("Div", ["shifted_boxes", "letterbox/scale"], ["boxes"]),
        ]
    )
    kept = [output for output in merged.graph.output if not output.name.startswith("letterbox/")]
    del merged.graph.output[:]
    merged.graph.output.extend(kept)
    return merged
