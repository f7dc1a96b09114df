"""OpenVINO's intermediate representation (`.xml` beside `.bin`) through OpenVINO."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import local
from typing import Any

import numpy as np

from oculox.errors import CheckpointError, UsageError
from oculox.extras import existing, require
from oculox.runtime.exported import (
    CELLS_BEFORE_NMS,
    METADATA_KEY,
    NMS_OUTPUTS,
    Array,
    ExportMetadata,
    Opened,
    Parts,
    Run,
)


def open_openvino(path: Path, *, device: str, threads: int | None) -> Opened:
    """Open an exported `.xml`.

    Args:
        path: the file; its `.bin` lies beside it.
        device: ``cpu`` (also for ``auto``), ``gpu`` or ``npu`` (Intel's).
        threads: of the CPU; None for one per core.

    Raises:
        MissingExtraError: when openvino is not installed.
        UsageError: when OpenVINO sees no such device.
        CheckpointError: when a file is missing, damaged or was not exported by Oculox.
    """
    openvino = require("openvino", extra="openvino", purpose="running an OpenVINO model")
    existing(path)
    existing(path.with_suffix(".bin"))
    core = _core(openvino)
    with _told(path, "damaged, or not an OpenVINO model"):
        model = core.read_model(path)
        text = None
        if model.has_rt_info(METADATA_KEY):
            text = str(model.get_rt_info(METADATA_KEY).astype(str))
        metadata = ExportMetadata.from_json(text, where=str(path))
        if not metadata.preprocess:
            model = taking_bytes(openvino, model, pixel_max=metadata.spec.input.pixel_max)
    config: dict[str, Any] = {}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    target = "CPU" if device == "auto" else device.upper()
    if target == "CPU":
        # Some CPUs compute in bfloat16 by default.
        config["INFERENCE_PRECISION_HINT"] = "f32"
    if target not in {name.split(".")[0] for name in core.available_devices}:
        raise UsageError(f"device {device!r}: OpenVINO sees {', '.join(core.available_devices)}")

    def compiled(**more: Any) -> Run:
        with _told(path, f"damaged, or not usable on {target}"):
            network = core.compile_model(model, target, config | more)
        own = local()

        def run(inputs: Array) -> tuple[Array, ...]:
            with _told(path, "cannot be run; damaged, or too large"):
                if not hasattr(own, "request"):
                    own.request = network.create_infer_request()
                results = own.request.infer([inputs], share_inputs=True)
                return tuple(results[name] for name in metadata.output_names)

        return run

    quick = Opened(metadata, compiled(PERFORMANCE_HINT="LATENCY"), takes_bytes=True)
    quick = quick._replace(
        cut=lambda: _cut(openvino, model, lambda part: core.compile_model(part, target, config))
    )
    if target != "CPU":
        return quick
    return quick._replace(share=lambda callers: compiled(NUM_STREAMS=callers))


@contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    """What OpenVINO raises about a file, as an error for people."""
    try:
        yield
    except (LookupError, RuntimeError, ValueError) as error:
        detail = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise CheckpointError(f"{path}: {what} ({detail})") from None


def taking_bytes(openvino: Any, model: Any, *, pixel_max: int) -> Any:
    """A model of float32 (B, 3, H, W) -> one of uint8 (B, H, W, 3); see `to_float_array`.

    OpenVINO computes the floats on all cores, together with the first layer.
    """
    change = openvino.preprocess.PrePostProcessor(model)
    change.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    change.input().model().set_layout(openvino.Layout("NCHW"))
    steps = change.input().preprocess().convert_element_type(openvino.Type.f32)
    if pixel_max == 1:
        steps.scale(255.0)
    return change.build()


def _cut(openvino: Any, model: Any, compiled: Callable[[Any], Any]) -> Parts:
    """See `Opened.cut`."""

    def run_of(part: Any, names: Sequence[str]) -> Any:
        network = compiled(part)

        def run(*inputs: Array) -> tuple[Array, ...]:
            results = network(inputs)
            return tuple(results[name] for name in names)

        return run

    before, outputs = _named(model)
    cells = openvino.Model([outputs[n] for n in CELLS_BEFORE_NMS], before.get_parameters())
    after, outputs = _named(model)
    # OpenVINO has made some sizes depend on those of the images.
    [images] = after.get_parameters()
    sides = [1 if side.is_dynamic else side.get_length() for side in images.partial_shape]
    inputs = []
    for name in CELLS_BEFORE_NMS:
        given, users = outputs[name], outputs[name].get_target_inputs()
        inputs.append(openvino.opset13.parameter(given.partial_shape, given.element_type))
        for user in users:
            user.replace_source_output(inputs[-1].output(0))
    boxes, *others = NMS_OUTPUTS
    names = ["input_boxes" if "input_boxes" in outputs else boxes, *others]
    nms = run_of(openvino.Model([outputs[n] for n in names], [*inputs, images]), names)

    def run_nms(boxes: Array, scores: Array) -> tuple[Array, ...]:
        blank = np.zeros((len(boxes), *sides[1:]), np.uint8)
        return tuple(nms(boxes, scores, blank))

    return Parts(run_of(cells, CELLS_BEFORE_NMS), run_nms)


def _named(model: Any) -> tuple[Any, dict[str, Any]]:
    """A copy of a model, and its values by name."""
    copy = model.clone()
    outputs = [output for node in copy.get_ops() for output in node.outputs()]
    return copy, {name: output for output in outputs for name in output.get_names()}


@cache
def _core(openvino: Any) -> Any:
    """OpenVINO itself, opened once in a process and never closed.

    Its CPU part gives the thread that opens it a stack for signal handlers, and frees it when it
    is closed. Of two that are closed in the order they were opened, the second puts the freed
    stack of the first back. The next signal, such as Ctrl-C or the end of a child process, then
    kills this process (seen with OpenVINO 2026.4).
    """
    return openvino.Core()
