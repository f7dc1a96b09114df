"""Checkpoints through a faster runtime than PyTorch, converted when they are opened."""

import importlib.util
import tempfile
from pathlib import Path

from oculox.config.schema import Precision
from oculox.distributed.devices import usable_device
from oculox.errors import UsageError
from oculox.exporting.job import ExportOptions, make_job
from oculox.exporting.targets import find_target
from oculox.runtime.backend import Backend
from oculox.runtime.open_model import format_of, open_model
from oculox.weights import load_weights
from oculox.weights.download import locate_weights

RUNTIMES = ("auto", "torch", "onnx", "openvino")
"""What a checkpoint can be run with."""

# The order of the timings in docs/benchmarks.md; another CPU may have another.
_PREFERRED: dict[str, tuple[str, ...]] = {
    "openvino": ("openvino", "onnx", "onnxscript"),
    "onnx": ("onnxruntime", "onnx", "onnxscript"),
}


def preferred_runtime(device: str) -> str:
    """On a CPU the first one installed of OpenVINO, ONNX Runtime and PyTorch, else PyTorch."""
    if usable_device(device).type == "cpu":
        for name, packages in _PREFERRED.items():
            if all(importlib.util.find_spec(package) for package in packages):
                return name
    return "torch"


def open_with(
    path: str | Path,
    *,
    backend: str | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
    size_hw: tuple[int, int] | None = None,
    dynamic_size: bool = False,
) -> Backend:
    """Open a model, a checkpoint with a runtime of choice.

    An exported file has its own runtime. The conversion of a checkpoint takes some seconds and
    is not kept: `oculox export` writes a file to keep, and checks it first.

    Args:
        path: a checkpoint, or an exported file.
        backend: for checkpoints one of `RUNTIMES`, ``auto`` takes `preferred_runtime`; None for
            the file's own.
        device: where to run.
        precision: of the network; only PyTorch takes another than ``fp32``.
        size_hw: the input size, fixed by a conversion; None for the checkpoint's own.
        dynamic_size: convert so that it takes other sizes too.

    Raises:
        UsageError: when the runtime is unknown or cannot do what is requested.
        MissingExtraError: when it is not installed.
        CheckpointError: when the file cannot be used.
    """
    path = locate_weights(path)
    if backend is None or format_of(path) != "torch":
        named = None if backend == "auto" else backend
        return open_model(path, device=device, precision=precision, backend=named)
    if backend not in RUNTIMES:
        raise UsageError(
            f"a checkpoint cannot be run with {backend!r}; there are {', '.join(RUNTIMES)}"
        )
    runtime = backend
    if runtime == "auto":
        runtime = preferred_runtime(device) if precision == "fp32" else "torch"
    if runtime == "torch":
        return open_model(path, device=device, precision=precision)
    if precision != "fp32":
        raise UsageError(f"precision {precision} is for PyTorch; {runtime} converts to fp32")
    weights = load_weights(path)
    options = ExportOptions(format=runtime, size_hw=size_hw, dynamic_size=dynamic_size)
    target = find_target(options)
    job = make_job(weights, options)
    with tempfile.TemporaryDirectory(prefix="oculox-") as folder:
        converted = Path(folder) / f"model{target.suffix}"
        target.convert(job, converted)
        return open_model(converted, device=device)
