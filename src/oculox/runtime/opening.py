"""A model file in any supported format -> a backend."""

from __future__ import annotations

from pathlib import Path

from oculox.errors import UsageError
from oculox.runtime.backend import Backend
from oculox.runtime.exported import METADATA_KEY
from oculox.runtime.torch_backend import Precision, TorchBackend
from oculox.weights.download import locate_weights
from oculox.weights.interop.onnx_graph import read_metadata

FORMATS: dict[str, tuple[str, ...]] = {
    "torch": (".pt", ".pth", ".safetensors", ".ckpt"),
    "onnx": (".onnx",),
    "openvino": (".xml",),
    "torchscript": (".torchscript",),
    "pt2": (".pt2",),
    "ncnn": (".ncnn",),
    "litert": (".tflite",),
    "coreml": (".mlpackage",),
    "tensorrt": (".engine",),
    "mindir": (".mindir",),
}
"""Each kind of backend and the suffixes of its files."""


def open_backend(
    path: str | Path,
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
    backend: str | None = None,
    threads: int | None = None,
) -> Backend:
    """Open a model.

    Args:
        path: a model file, its suffix tells the format; or the name of published weights that
            have been downloaded.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ... or ``auto``.
        precision: of the network, where the format leaves the choice.
        backend: one of `FORMATS` where the suffix does not tell.
        threads: of the CPU, where the format's runtime takes a number.

    Raises:
        UsageError: when the format is unknown, the device absent, or an export is asked for
            another precision than it was made with.
        MissingExtraError: when the format's runtime is not installed.
        CheckpointError: when the file is missing, damaged or no such model.
    """
    path = locate_weights(path)
    kind = backend or _kind_of(path)
    if kind == "torch":
        return TorchBackend.from_file(path, device=device, precision=precision)
    if kind not in FORMATS:
        raise UsageError(f"no backend is called {kind!r}; there are {', '.join(FORMATS)}")
    if precision != "fp32":
        raise UsageError(
            f"{path}: an export keeps the precision it was made with; precision {precision} is "
            "for checkpoints"
        )
    return _open_export(kind, path, device=device, threads=threads)


def _open_export(kind: str, path: Path, *, device: str, threads: int | None) -> Backend:
    # Imported here: each pulls its own runtime, and most people have one of them.
    if kind == "onnx":
        from oculox.runtime.onnx_backend import OnnxBackend

        return OnnxBackend.from_file(path, device=device, threads=threads)
    if kind == "openvino":
        from oculox.runtime.openvino_backend import OpenVinoBackend

        return OpenVinoBackend.from_file(path, device=device, threads=threads)
    if kind == "torchscript":
        from oculox.runtime.torch_export_backend import TorchScriptBackend

        return TorchScriptBackend.from_file(path, device=device)
    if kind == "pt2":
        from oculox.runtime.torch_export_backend import Pt2Backend

        return Pt2Backend.from_file(path, device=device)
    if kind == "tensorrt":
        from oculox.runtime.tensorrt_backend import TensorrtBackend

        return TensorrtBackend.from_file(path, device=device)
    if device not in ("auto", "cpu"):
        raise UsageError(f"{path}: device {device!r}: Oculox runs {kind} models on the CPU")
    if kind == "mindir":
        from oculox.runtime.mindir_backend import MindirBackend

        return MindirBackend.from_file(path)
    if kind == "ncnn":
        from oculox.runtime.ncnn_backend import NcnnBackend

        return NcnnBackend.from_file(path, threads=threads)
    if kind == "litert":
        from oculox.runtime.litert_backend import LitertBackend

        return LitertBackend.from_file(path, threads=threads)
    from oculox.runtime.coreml_backend import CoremlBackend

    return CoremlBackend.from_file(path)


def _kind_of(path: Path) -> str:
    if path.suffix == ".onnx" and path.is_file() and METADATA_KEY not in read_metadata(path):
        return "torch"  # another project's export: its weights are taken out
    for kind, suffixes in FORMATS.items():
        if path.suffix.lower() in suffixes:
            return kind
    supported = "; ".join(f"{kind}: {' '.join(suffixes)}" for kind, suffixes in FORMATS.items())
    raise UsageError(
        f"{path}: cannot tell the model's format from {path.suffix or 'a name without suffix'!r} "
        f"(supported: {supported})"
    )
