"""A model file in any supported format -> a backend."""

import importlib
from pathlib import Path
from typing import NamedTuple

from oculox.addresses import Location
from oculox.config.schema import Precision
from oculox.errors import CheckpointError, UsageError
from oculox.runtime.backend import Backend
from oculox.runtime.exported import METADATA_KEY, ExportedBackend, Opened
from oculox.weights.download import locate_weights
from oculox.weights.interop.protobuf_wire import read_metadata
from oculox.weights.load import load_weights


class Format(NamedTuple):
    """Which files are of a format, the module that opens them, and which options it takes.

    The module, one of `oculox.runtime`, holds a function called ``open_`` and the format's name.
    """

    suffixes: tuple[str, ...]
    module: str
    takes: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {
    "torch": Format((".pt", ".pth", ".safetensors", ".ckpt"), "torch_backend"),
    "onnx": Format((".onnx",), "onnx_backend", ("device", "threads")),
    "openvino": Format((".xml",), "openvino_backend", ("device", "threads")),
    "torchscript": Format((".torchscript",), "torch_export_backend", ("device",)),
    "pt2": Format((".pt2",), "torch_export_backend", ("device",)),
    "ncnn": Format((".ncnn",), "ncnn_backend", ("threads",)),
    "litert": Format((".tflite",), "litert_backend", ("threads",)),
    "coreml": Format((".mlpackage",), "coreml_backend"),
    "tensorrt": Format((".engine",), "tensorrt_backend", ("device",)),
    "mindir": Format((".mindir",), "mindir_backend"),
}
"""Each kind of backend. Modules are imported when a file needs them: each pulls its own runtime."""


def open_model(
    model: str | Location,
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
    backend: str | None = None,
    threads: int | None = None,
) -> Backend:
    """Open a model.

    Args:
        model: a file or its address, the suffix shows the format; or the name of published
            weights.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ... or ``auto``.
        precision: of the network, for checkpoints.
        backend: one of `FORMATS` where the suffix does not show it.
        threads: of the CPU, where the format's runtime takes a number.

    Raises:
        UsageError: when the format is unknown, the device absent, or `precision` is not the
            one that an export was made with.
        MissingExtraError: when the format's runtime is not installed.
        CheckpointError: when the file is missing, damaged or no such model.
    """
    path = locate_weights(model)
    kind = backend or format_of(path)
    if kind not in FORMATS:
        raise UsageError(f"no backend is called {kind!r}; there are {', '.join(FORMATS)}")
    if kind == "torch":
        from oculox.runtime.torch_backend import TorchBackend

        return TorchBackend.from_weights(
            load_weights(path), device=device, precision=precision, where=str(path)
        )
    if precision != "fp32":
        raise UsageError(
            f"{path}: an export keeps the precision it was made with; precision {precision} is "
            "for checkpoints"
        )
    found = FORMATS[kind]
    if "device" not in found.takes and device not in ("auto", "cpu"):
        raise UsageError(f"{path}: device {device!r}: Oculox runs {kind} models on the CPU")
    given = {"device": device, "threads": threads}
    module = importlib.import_module(f"oculox.runtime.{found.module}")
    opened: Opened = getattr(module, f"open_{kind}")(
        path, **{name: given[name] for name in found.takes}
    )
    return ExportedBackend(kind, opened)


def format_of(path: Path) -> str:
    """The key in `FORMATS` of a file, by its suffix.

    An ONNX file of another project counts as a checkpoint: its weights are taken out.

    Raises:
        UsageError: when no format has that suffix.
        CheckpointError: when there is no such file, or an ONNX file is damaged.
    """
    if path.suffix == ".onnx" and path.is_file() and METADATA_KEY not in read_metadata(path):
        return "torch"
    for kind, found in FORMATS.items():
        if path.suffix.lower() in found.suffixes:
            return kind
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    supported = "; ".join(f"{kind}: {' '.join(f.suffixes)}" for kind, f in FORMATS.items())
    raise UsageError(
        f"{path}: cannot tell the model's format from {path.suffix or 'a name without suffix'!r} "
        f"(supported: {supported})"
    )
