"""A model file in any supported format -> a backend."""

from __future__ import annotations

from pathlib import Path

from oculox.errors import UsageError
from oculox.predict.backend import Backend
from oculox.predict.backends.torch_backend import Precision, TorchBackend

FORMATS: dict[str, tuple[str, ...]] = {
    "torch": (".pt", ".pth", ".safetensors"),
}
"""Each kind of backend and the suffixes of its files."""


def open_backend(
    path: str | Path,
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
    backend: str | None = None,
) -> Backend:
    """Open a model.

    Args:
        path: a model file; its suffix tells the format.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ... or ``auto``.
        precision: of the network, where the format leaves the choice.
        backend: one of `FORMATS` where the suffix does not tell.

    Raises:
        UsageError: when the format is unknown or the device absent.
        CheckpointError: when the file is missing, damaged or no such model.
    """
    path = Path(path)
    kind = backend or _kind_of(path)
    if kind == "torch":
        return TorchBackend.from_file(path, device=device, precision=precision)
    raise UsageError(f"no backend is called {kind!r}; there are {', '.join(FORMATS)}")


def _kind_of(path: Path) -> str:
    for kind, suffixes in FORMATS.items():
        if path.suffix.lower() in suffixes:
            return kind
    supported = "; ".join(f"{kind}: {' '.join(suffixes)}" for kind, suffixes in FORMATS.items())
    raise UsageError(
        f"{path}: cannot tell the model's format from {path.suffix or 'a name without suffix'!r} "
        f"(supported: {supported})"
    )
