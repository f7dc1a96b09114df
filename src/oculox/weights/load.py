"""Any weights file -> `Weights`, its kind recognised from its content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from oculox.addresses import Location
from oculox.errors import CheckpointError
from oculox.weights.bundle import Weights
from oculox.weights.checkpoint import is_checkpoint, load_safetensors, weights_from
from oculox.weights.download import locate_weights
from oculox.weights.interop import megvii, mindspore_layout, mindyolo, modelzoo
from oculox.weights.interop.mindspore_file import is_mindspore, read_mindspore
from oculox.weights.interop.onnx_weights import read_onnx
from oculox.weights.interop.openmmlab import openmmlab_project, read_openmmlab
from oculox.weights.torch_file import load_torch

SUFFIXES = (".pt", ".safetensors", ".pth", ".ckpt", ".onnx")
"""What weights files are called."""


def load_weights(path: str | Location) -> Weights:
    """Read weights: Oculox's `.pt` and `.safetensors`, or another project's file.

    Args:
        path: a file, its address, or the name of published weights.

    Raises:
        CheckpointError: missing, damaged, foreign, or not fitting the network it claims to be.
    """
    path = locate_weights(path)
    if path.suffix == ".safetensors":
        return load_safetensors(path)
    if path.suffix == ".onnx":
        return read_onnx(path)
    # PyTorch Lightning calls its files .ckpt too.
    if path.suffix == ".ckpt" and (not path.is_file() or is_mindspore(path)):
        return _load_mindspore(path)
    content = load_torch(path)
    if is_checkpoint(content):
        return weights_from(content, where=str(path))
    state = _state_dict(content)
    if megvii.is_official(state):
        description = content.get(megvii.DESCRIPTION)
        return megvii.read_official(state, description=description, where=str(path))
    project = openmmlab_project(state)
    if project is not None:
        classes = _classes(content)
        return read_openmmlab(state, project=project, classes=classes, where=str(path))
    raise _unknown(path, list(state))


def _load_mindspore(path: Path) -> Weights:
    tags: list[str] = []

    def keep(tag: str) -> bool:
        tags.append(tag)
        plain = mindspore_layout.without_average(tag)
        known = mindyolo.network_name(plain) or modelzoo.network_name(plain)
        return known is not None or tag == mindspore_layout.DESCRIPTION

    content = read_mindspore(path, keep=keep)
    for read in (mindyolo.read_mindyolo, modelzoo.read_modelzoo):
        weights = read(content, where=str(path))
        if weights is not None:
            return weights
    raise _unknown(path, tags)


def _unknown(path: Path, names: list[str]) -> CheckpointError:
    sample = ", ".join(names[:3]) or "none"
    return CheckpointError(
        f"{path}: not weights of a YOLOX that Oculox knows (its first tensors: {sample})"
    )


def _state_dict(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a foreign mapping, looked for where projects usually put them."""
    for key in ("model", "state_dict", "ema"):
        inner = content.get(key)
        if isinstance(inner, dict) and any(isinstance(v, Tensor) for v in inner.values()):
            content = inner
            break
    # Wrappers of distributed training add a prefix.
    return {
        key.removeprefix("module."): value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }


def _classes(content: Mapping[str, Any]) -> object:
    """The class names that mmdetection and MMYOLO keep beside the tensors, where there are any."""
    meta = content.get("meta")
    if not isinstance(meta, dict):
        return None
    dataset = meta.get("dataset_meta")
    inner = dataset.get("classes", dataset.get("CLASSES")) if isinstance(dataset, dict) else None
    return inner if inner is not None else meta.get("CLASSES")
