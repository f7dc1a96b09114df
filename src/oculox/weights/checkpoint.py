"""Oculox's own files: `.pt` (with or without training state) and `.safetensors`.

A `.pt` is a mapping of plain values and tensors:

- ``format`` ``"oculox"``, ``version`` 1
- ``meta``: the `ModelSpec` as plain values, and ``origin``
- ``state``: the weights to use, the average where there is one
- ``training`` (optional): the configuration and the progress of the run that wrote it, and, in
  ``last.pt``, what `oculox.training` needs to go on

A `.safetensors` holds the state, and ``format``, ``version``, ``meta`` (JSON) and ``sha256`` (of
meta and state) as metadata.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from oculox.errors import CheckpointError
from oculox.files import write_atomically
from oculox.types import ModelSpec
from oculox.weights.bundle import Weights
from oculox.weights.torch_file import load_torch, save_torch

FORMAT = "oculox"
VERSION = 1


def save_checkpoint(
    path: Path, weights: Weights, *, training: Mapping[str, Any] | None = None
) -> None:
    """Write a `.pt`, atomically.

    Args:
        path: the file.
        weights: what to use for inference.
        training: plain values and tensors that resume a run.

    Raises:
        OculoxError: when the file cannot be written; an older one stays as it was.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "meta": describe(weights),
        "state": dict(weights.state),
    }
    if training is not None:
        content["training"] = dict(training)
    save_torch(path, content)


def save_safetensors(path: Path, weights: Weights) -> None:
    """Write a `.safetensors` without training state, atomically.

    Raises:
        OculoxError: when the file cannot be written.
    """
    meta = json.dumps(describe(weights))
    state = {key: value.detach().cpu().contiguous() for key, value in weights.state.items()}
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "meta": meta,
        "sha256": _digest(meta, state),
    }
    write_atomically(path, lambda temporary: save_file(state, temporary, metadata))


def is_checkpoint(content: Mapping[str, Any]) -> bool:
    """Whether a loaded mapping is one of Oculox's own."""
    return content.get("format") == FORMAT


def weights_from(content: Mapping[str, Any], *, where: str) -> Weights:
    """The weights in a loaded `.pt`.

    Raises:
        CheckpointError: when it is of a newer version or incomplete.
    """
    _check_version(content.get("version"), where)
    state = content.get("state")
    if not isinstance(state, dict):
        raise CheckpointError(f"{where}: holds no weights ('state' is missing)")
    odd = [k for k, v in state.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if odd:
        raise CheckpointError(f"{where}: '{odd[0]}' in its weights is not a named tensor")
    return from_description(content.get("meta"), state, where)


def load_training_state(path: Path) -> tuple[Weights, dict[str, Any]]:
    """Weights and training state of a `.pt` that training wrote.

    Raises:
        CheckpointError: when the file has no training state.
    """
    content = load_torch(path)
    training = _training(content)
    if "raw" not in training:
        raise CheckpointError(f"{path}: holds no training state to resume from")
    return weights_from(content, where=str(path)), training


def _training(content: Mapping[str, Any]) -> dict[str, Any]:
    training = content.get("training") if is_checkpoint(content) else None
    return training if isinstance(training, dict) else {}


def training_config(path: Path) -> Mapping[str, Any] | None:
    """The configuration of the run that wrote a `.pt`, as plain values; None where there is none.

    Raises:
        CheckpointError: when the file cannot be read.
    """
    config = _training(load_torch(path)).get("config")
    return config if isinstance(config, dict) else None


def load_safetensors(path: Path) -> Weights:
    """Weights from a `.safetensors` that Oculox wrote.

    Raises:
        CheckpointError: missing, damaged or another program's file.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(f"{path}: a safetensors file, but not one of Oculox's")
            _check_version(int(metadata.get("version", "0")), str(path))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            # Older files have no checksum.
            if metadata.get("sha256", digest := _digest(metadata["meta"], state)) != digest:
                raise CheckpointError(f"{path}: damaged: its checksum does not match")
            meta = json.loads(metadata["meta"])
    except (SafetensorError, OSError, ValueError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged, or not a safetensors file ({error})") from None
    return from_description(meta, state, str(path))


def describe(weights: Weights) -> dict[str, Any]:
    """All of the weights but their tensors, as plain values."""
    return {**weights.spec.as_dict(), "origin": weights.origin}


def from_description(meta: object, state: Mapping[str, Tensor], where: str) -> Weights:
    """Weights from what `describe` gave and their tensors.

    Raises:
        CheckpointError: when the description is incomplete or invalid.
    """
    spec = ModelSpec.from_dict(meta, where=where)
    assert isinstance(meta, Mapping)
    return Weights(spec=spec, state=state, origin=meta.get("origin", "oculox"))


def _check_version(version: object, where: str) -> None:
    if not isinstance(version, int) or not 1 <= version <= VERSION:
        raise CheckpointError(
            f"{where}: format version {version!r}; this Oculox reads up to {VERSION}, "
            "a newer one may be needed"
        )


def _digest(meta: str, state: Mapping[str, Tensor]) -> str:
    """SHA-256 over a description and contiguous tensors with their names, types and shapes."""
    digest = hashlib.sha256(meta.encode())
    for key in sorted(state):
        digest.update(f"{key} {state[key].dtype} {tuple(state[key].shape)}".encode())
        digest.update(state[key].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
