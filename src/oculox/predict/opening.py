"""A model file in any supported format -> a backend."""

from __future__ import annotations

from pathlib import Path

from oculox.errors import UsageError
from oculox.predict.backend import Backend
from oculox.predict.backends.torch_backend import Precision, TorchBackend

FORMATS: dict[str, tuple[str, ...]] = {
    "torch": (".pt", ".pth", ".safetensors", ".ckpt"),
    "onnx": (".onnx",),
    "openvino": (".xml",),
    "torchscript": (".torchscript",),
    "pt2": (".pt2",),
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
        path: a model file; its suffix tells the format.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ... or ``auto``.
        precision: of the network, where the format leaves the choice.
        backend: one of `FORMATS` where the suffix does not tell.
        threads: of the processor, where the format's runtime takes a number.

    Raises:
        UsageError: when the format is unknown, the device absent, or an export is asked for
            another precision than it was made with.
        MissingExtraError: when the format's runtime is not installed.
        CheckpointError: when the file is missing, damaged or no such model.
    """
    path = Path(path)
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
        from oculox.predict.backends.onnx_backend import OnnxBackend

        return OnnxBackend.from_file(path, device=device, threads=threads)
    if kind == "openvino":
        from oculox.predict.backends.openvino_backend import OpenVinoBackend

        return OpenVinoBackend.from_file(path, device=device, threads=threads)
    if kind == "torchscript":
        from oculox.predict.backends.torch_export_backend import TorchScriptBackend

        return TorchScriptBackend.from_file(path, device=device)
    from oculox.predict.backends.torch_export_backend import Pt2Backend

    return Pt2Backend.from_file(path, device=device)


def _kind_of(path: Path) -> str:
    for kind, suffixes in FORMATS.items():
        if path.suffix.lower() in suffixes:
            return kind
    supported = "; ".join(f"{kind}: {' '.join(suffixes)}" for kind, suffixes in FORMATS.items())
    raise UsageError(
        f"{path}: cannot tell the model's format from {path.suffix or 'a name without suffix'!r} "
        f"(supported: {supported})"
    )
