"""Weights from one project's file to another's, and what a weights file is."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from oculox.config.schema import InputConfig
from oculox.errors import UsageError
from oculox.files import require_new_file
from oculox.weights.bundle import Weights
from oculox.weights.catalogue import customary_input
from oculox.weights.checkpoint import save_checkpoint, save_safetensors
from oculox.weights.download import locate_weights
from oculox.weights.interop.megvii import write_official
from oculox.weights.interop.mindspore_file import write_mindspore
from oculox.weights.interop.mindyolo import mindyolo_content
from oculox.weights.interop.modelzoo import modelzoo_content
from oculox.weights.load import load_weights
from oculox.weights.torch_file import save_torch

Layout = Literal["oculox", "megvii", "mindyolo", "modelzoo"]
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    ".pt": ("oculox",),
    ".safetensors": ("oculox",),
    ".pth": ("megvii",),
    ".ckpt": ("mindyolo", "modelzoo"),
}
"""Whose layouts can be written into files of each suffix."""

_PROJECTS = {
    "oculox": "Oculox",
    "megvii": "the official YOLOX",
    "mindyolo": "MindYOLO",
    "modelzoo": "the MindSpore Model Zoo",
}


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        weights: as written.
        layout: whose layout the file has.
        notes: what a person should know before using the file elsewhere.
    """

    weights: Weights
    layout: Layout
    notes: tuple[str, ...]


def convert_weights(
    source: Path,
    target: Path,
    *,
    layout: str | None = None,
    adapt_input: bool = False,
    overwrite: bool = False,
) -> Conversion:
    """Read a weights file of any project and write it as another's.

    Tensors are carried over bit for bit. A file whose format has no place for class names or
    preprocessing gets them as an extra entry that its own project ignores and Oculox reads back.

    Args:
        source: any file that `load_weights` reads.
        target: its suffix names the project: `.pt` and `.safetensors` Oculox, `.pth` the official
            one, `.ckpt` MindSpore.
        layout: for `.ckpt`: ``mindyolo`` or ``modelzoo``; by default the one that the weights
            came from, otherwise MindYOLO's.
        adapt_input: rewrite the first convolution so that the weights take the pixels that the
            target's project feeds (see `adapt_to_input`).
        overwrite: replace an existing file.

    Raises:
        UsageError: the target's suffix or layout is unknown, or it exists.
        CheckpointError: the source cannot be read.
        OculoxError: the target cannot be written.
    """
    wanted = _checked_layout(target, layout)
    require_new_file(target, overwrite=overwrite)
    weights = load_weights(source)
    if layout is None and len(wanted) > 1:
        wanted = tuple(one for one in wanted if one == weights.origin) or wanted
    customary = customary_input_of(wanted[0], weights.spec.input)
    if adapt_input:
        weights = adapt_to_input(weights, customary)
    notes = _notes(weights, wanted[0], customary)
    _write(weights, target, wanted[0])
    return Conversion(weights, wanted[0], notes)


def customary_input_of(layout: Layout, config: InputConfig) -> InputConfig:
    """The pixels that a project's own programs feed, at the same input size."""
    return customary_input(config) if layout == "mindyolo" else InputConfig(size=config.size)


def adapt_to_input(weights: Weights, target: InputConfig) -> Weights:
    """Weights that give the same results for other pixels.

    Channel order and pixel range are absorbed by the first convolution. A change of order is
    exact; one of range multiplies by 255 or its inverse, which rounds in the last place. Where
    the letterbox puts the image needs nothing: the network treats all places alike.

    Args:
        weights: any weights.
        target: colour, pixel range and placement to take; its size is not read.
    """
    darknet = weights.spec.model.backbone == "darknet53"
    name = f"backbone.stem.{'0.conv' if darknet else 'conv.conv'}.weight"
    kernel: Tensor = weights.state[name]
    if weights.spec.input.color != target.color:
        # The focus stem has four pixels of three channels each.
        out, channels, *size = kernel.shape
        kernel = kernel.reshape(out, channels // 3, 3, *size).flip(2).reshape(kernel.shape)
    if weights.spec.input.pixel_max != target.pixel_max:
        kernel = kernel * (weights.spec.input.pixel_max / target.pixel_max)
    changes = {k: getattr(target, k) for k in ("color", "pixel_max", "placement", "pad_value")}
    spec = dataclasses.replace(weights.spec, input=weights.spec.input.model_copy(update=changes))
    return dataclasses.replace(weights, spec=spec, state={**weights.state, name: kernel})


def describe_weights(path: Path) -> dict[str, Any]:
    """What a weights file is, as plain values; a name of published weights will do too.

    Raises:
        CheckpointError: when it cannot be read.
    """
    path = locate_weights(path)
    weights = load_weights(path)
    state = weights.state
    parameters = (v for k, v in state.items() if not k.endswith(("running_mean", "running_var")))
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "origin": weights.origin,
        "network": weights.spec.model.name,
        **weights.spec.as_dict(),
        "parameters": sum(v.numel() for v in parameters if v.is_floating_point()),
        "dtypes": sorted({str(v.dtype).removeprefix("torch.") for v in state.values()}),
    }


def _checked_layout(target: Path, layout: str | None) -> tuple[Layout, ...]:
    layouts = LAYOUTS.get(target.suffix)
    if layouts is None:
        hint = "; use `oculox export` for it" if target.suffix in (".onnx", ".mindir") else ""
        raise UsageError(
            f"{target}: weights are written as {', '.join(LAYOUTS)}, got '{target.suffix}'{hint}"
        )
    chosen = tuple(one for one in layouts if layout in (None, one))
    if not chosen:
        raise UsageError(
            f"{target}: the layout of {target.suffix} is {' or '.join(layouts)}, got '{layout}'"
        )
    return chosen


def _write(weights: Weights, target: Path, layout: Layout) -> None:
    if layout == "mindyolo":
        write_mindspore(target, mindyolo_content(weights))
    elif layout == "modelzoo":
        write_mindspore(target, modelzoo_content(weights))
    elif layout == "megvii":
        save_torch(target, write_official(weights))
    elif target.suffix == ".safetensors":
        save_safetensors(target, weights)
    else:
        save_checkpoint(target, weights)


def _notes(weights: Weights, layout: Layout, customary: InputConfig) -> tuple[str, ...]:
    notes = []
    if layout != "oculox" and weights.spec.input != customary:
        notes.append(
            f"{_PROJECTS[layout]} feeds {_pixels(customary)}, these weights take "
            f"{_pixels(weights.spec.input)}: Oculox reads that from the file, {_PROJECTS[layout]} "
            "does not; pass `adapt_input` to make the weights take what it feeds"
        )
    if weights.origin == "onnx":
        notes.append(
            "batch norms were fused in the .onnx file: good for inference and export, a poor "
            "start for fine-tuning"
        )
    return tuple(notes)


def _pixels(config: InputConfig) -> str:
    place = "centred" if config.placement == "center" else "top left"
    return f"{config.color.upper()} 0-{config.pixel_max}, {place}"
