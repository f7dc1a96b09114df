"""OpenVINO's intermediate representation (`.xml` beside `.bin`) through OpenVINO."""

from functools import cache
from pathlib import Path
from threading import local
from typing import Any

from oculox.errors import CheckpointError, UsageError
from oculox.extras import existing, require
from oculox.runtime.exported import METADATA_KEY, Array, ExportMetadata, Opened, Run


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
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        detail = str(error).strip().splitlines()[-1]
        raise CheckpointError(f"{path}: damaged, or not an OpenVINO model ({detail})") from None
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
        network = core.compile_model(model, target, config | more)
        own = local()

        def run(inputs: Array) -> tuple[Array, ...]:
            if not hasattr(own, "request"):
                own.request = network.create_infer_request()
            results = own.request.infer([inputs], share_inputs=True)
            return tuple(results[name] for name in metadata.output_names)

        return run

    quick = Opened(metadata, compiled(PERFORMANCE_HINT="LATENCY"), takes_bytes=True)
    if target != "CPU":
        return quick
    return quick._replace(share=lambda callers: compiled(NUM_STREAMS=callers))


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


@cache
def _core(openvino: Any) -> Any:
    """OpenVINO itself, opened once in a process and never closed.

    Its CPU part gives the thread that opens it a stack for signal handlers, and frees it when it
    is closed. Of two that are closed in the order they were opened, the second puts the freed
    stack of the first back. The next signal, such as Ctrl-C or the end of a child process, then
    kills this process (seen with OpenVINO 2026.4).
    """
    return openvino.Core()
