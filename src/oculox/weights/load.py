"""Any weights file -> `Weights`, its kind recognised from its content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from oculox.errors import CheckpointError
from oculox.weights.bundle import Weights
from oculox.weights.checkpoint import is_checkpoint, load_safetensors, weights_from
from oculox.weights.megvii import is_official, read_official
from oculox.weights.storage import load_torch


def load_weights(path: str | Path) -> Weights:
    """Read weights: Oculox's `.pt` and `.safetensors`, or another project's file.

    Raises:
        CheckpointError: missing, damaged, foreign, or not fitting the network it claims to be.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return load_safetensors(path)
    content = load_torch(path)
    if is_checkpoint(content):
        return weights_from(content, where=str(path))
    state = _state_dict(content)
    if is_official(state):
        return read_official(state, where=str(path))
    sample = ", ".join(list(state)[:3]) or "none"
    raise CheckpointError(
        f"{path}: not weights of a YOLOX that Oculox knows (its first tensors: {sample})"
    )


def _state_dict(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a foreign mapping, looked for where projects usually put them."""
    for key in ("model", "state_dict", "ema"):
        inner = content.get(key)
        if isinstance(inner, dict) and any(isinstance(v, Tensor) for v in inner.values()):
            content = inner
            break
    # Wrappers of distributed training leave their prefix behind.
    return {
        key.removeprefix("module."): value
        for key, value in content.items()
        if isinstance(value, Tensor)
    }
