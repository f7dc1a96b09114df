"""ONNX files through ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from oculox.distributed.devices import own_device
from oculox.errors import CheckpointError, UsageError, first_line
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


def open_onnx(path: Path, *, device: str, threads: int | None) -> Opened:
    """Open an exported `.onnx`.

    Args:
        path: the file.
        device: ``cpu``, ``cuda`` or ``cuda:1`` (need onnxruntime-gpu), or ``auto``.
        threads: of one operator; None for one per core.

    Raises:
        MissingExtraError: when onnxruntime is not installed.
        UsageError: when this build of ONNX Runtime has no such device, or cannot start it.
        CheckpointError: when the file is missing, damaged or was not exported by Oculox.
    """
    runtime = require("onnxruntime", extra="onnx", purpose="running an ONNX file")
    existing(path)
    providers = choose_providers(runtime.get_available_providers(), device)

    def opened(cores: int | None) -> Any:
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors; the rest is about its own optimisations
        # Its threads would wait for the next image in a busy loop, and slow down what decodes it.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if cores is not None:
            options.intra_op_num_threads = cores
        # On the CPU alone there is nothing to fall back to: it would only print that it does.
        return runtime.InferenceSession(
            str(path), options, providers=providers, enable_fallback=len(providers) > 1
        )

    faults = _faults(runtime)

    try:
        session = opened(threads)
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    except faults as error:
        raise CheckpointError(
            f"{path}: damaged, or not an ONNX file ({first_line(error)})"
        ) from None
    if device.startswith("cuda") and "CUDAExecutionProvider" not in session.get_providers():
        raise UsageError(
            f"device {device!r}: ONNX Runtime has CUDA but could not start it, and would use the "
            "CPU; its message above says why, such as another version of CUDA or cuDNN"
        )
    metadata = ExportMetadata.from_json(text, where=str(path))

    def run_of(session: Any) -> Run:
        names, name = list(metadata.output_names), metadata.input_name

        def run(inputs: Array) -> tuple[Array, ...]:
            try:
                return tuple(session.run(names, {name: inputs}))
            except faults as error:
                raise CheckpointError(
                    f"{path}: cannot be run; damaged, or too large ({first_line(error)})"
                ) from None

        return run

    whole = Opened(metadata, run_of(session), takes_bytes=metadata.preprocess)
    whole = whole._replace(cut=lambda: _cut(runtime, path, metadata, providers))
    if len(providers) > 1:
        return whole
    cores = threads or torch.get_num_threads()
    return whole._replace(share=lambda callers: run_of(opened(max(1, cores // callers))))


def _cut(runtime: Any, path: Path, metadata: ExportMetadata, providers: list[Any]) -> Parts:
    """See `Opened.cut`."""
    onnx = require("onnx", extra="onnx", purpose="comparing an ONNX file with PyTorch")
    whole = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(onnx.load(path)))

    def run_of(inputs: Sequence[str], outputs: Sequence[str]) -> Any:
        part = whole.extract_model(list(inputs), list(outputs)).SerializeToString()
        session = runtime.InferenceSession(part, providers=providers)
        return lambda *values: session.run(outputs, dict(zip(inputs, values, strict=True)))

    boxes, *others = NMS_OUTPUTS
    found = ["input_boxes" if metadata.preprocess else boxes, *others]
    return Parts(run_of([metadata.input_name], CELLS_BEFORE_NMS), run_of(CELLS_BEFORE_NMS, found))


def _faults(runtime: Any) -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises; its own errors have no class in common."""
    own = vars(runtime.capi.onnxruntime_pybind11_state).values()
    kinds = [kind for kind in own if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*kinds, RuntimeError, ValueError)


def choose_providers(usable: Sequence[str], device: str) -> list[Any]:
    """What ONNX Runtime shall run a model with, best first.

    Args:
        usable: the providers of this build.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``auto``, which takes CUDA where it can be used:
            the process's own GPU where several processes share a machine.

    Raises:
        UsageError: when this build has no such device.
    """
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    if device == "auto":
        device = own_device("cuda") if cuda in usable else "cpu"
    kind, colon, number = device.partition(":")
    if device == "cpu":
        return [cpu]
    if kind == "cuda" and cuda in usable and (number.isdecimal() or not colon):
        # TF32 keeps 10 bits of a float32's 23, too few to call the result float32.
        return [(cuda, {"device_id": int(number or 0), "use_tf32": 0}), cpu]
    raise UsageError(
        f"device {device!r}: this ONNX Runtime runs on {', '.join(usable)}"
        + ("; install onnxruntime-gpu for CUDA" if kind == "cuda" and cuda not in usable else "")
    )
