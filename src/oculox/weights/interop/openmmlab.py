"""The YOLOX checkpoints (`.pth`) of mmdetection and MMYOLO, for reading.

MMYOLO names backbone and blocks as mmdetection does, neck and head in its own way.

Source: parameter names of mmdetection 3 and MMYOLO 0.6, and their YOLOX configurations (BGR, 0-255,
the image in the top-left corner, as the official ones).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from oculox.weights.bundle import Origin, Weights, empty_network, recognise_tensors
from oculox.weights.interop.names import NameMap, import_state, rules_map

_STEM = "backbone.stem.conv.conv.weight"
_BLOCK = r"^backbone\.stage1\.1\.blocks\.(\d+)\."

_SHARED = (
    (r"\.depthwise\.", ".depthwise_conv."),
    (r"\.pointwise\.", ".pointwise_conv."),
    (r"\.main\.", ".main_conv."),
    (r"\.skip\.", ".short_conv."),
    (r"\.merge\.", ".final_conv."),
    *((rf"^backbone\.stage{i + 1}\.", f"backbone.stage{i}.") for i in (1, 2, 3, 4)),
    (r"^head\.(cls|reg)_convs\.", r"head.multi_level_\1_convs."),
    (r"^head\.(cls|reg|obj)_preds\.", r"head.multi_level_conv_\1."),
)

mmdetection_names = rules_map(
    (
        *_SHARED,
        (r"^neck\.lateral5\.", "neck.reduce_layers.0."),
        (r"^neck\.lateral4\.", "neck.reduce_layers.1."),
        (r"^neck\.up4\.", "neck.top_down_blocks.0."),
        (r"^neck\.up3\.", "neck.top_down_blocks.1."),
        (r"^neck\.down3\.", "neck.downsamples.0."),
        (r"^neck\.down4\.", "neck.downsamples.1."),
        (r"^neck\.out4\.", "neck.bottom_up_blocks.0."),
        (r"^neck\.out5\.", "neck.bottom_up_blocks.1."),
        (r"^head\.stems\.", "neck.out_convs."),
        (r"^head\.", "bbox_head."),
    )
)
mmyolo_names = rules_map(
    (
        *_SHARED,
        (r"^neck\.lateral5\.", "neck.reduce_layers.2."),
        (r"^neck\.lateral4\.", "neck.top_down_layers.0.1."),
        (r"^neck\.up4\.", "neck.top_down_layers.0.0."),
        (r"^neck\.up3\.", "neck.top_down_layers.1."),
        (r"^neck\.down3\.", "neck.downsample_layers.0."),
        (r"^neck\.down4\.", "neck.downsample_layers.1."),
        (r"^neck\.out4\.", "neck.bottom_up_layers.0."),
        (r"^neck\.out5\.", "neck.bottom_up_layers.1."),
        (r"^head\.stems\.", "neck.out_layers."),
        (r"^head\.", "bbox_head.head_module."),
    )
)

_LAYOUTS: dict[Origin, NameMap] = {"mmdetection": mmdetection_names, "mmyolo": mmyolo_names}


def openmmlab_project(state: Mapping[str, Tensor]) -> Origin | None:
    """Whose YOLOX has tensors of these names; None when it is neither."""
    known = (project for project, names in _LAYOUTS.items() if _classes_of(names) in state)
    return next(known, None)


def _classes_of(names: NameMap) -> str:
    return names("head.cls_preds.0.weight")


def read_openmmlab(
    state: Mapping[str, Tensor], *, project: Origin, classes: object = None, where: str
) -> Weights:
    """Weights from a state dict of mmdetection or MMYOLO.

    Args:
        state: tensors by the project's names. The second copy that mmdetection's averaging hook
            keeps (``ema_...``) is ignored: it saves the averages under the plain names.
        project: what `openmmlab_project` says.
        classes: the class names in the checkpoint's ``meta``, where there are any.
        where: the file, for error messages.

    Raises:
        CheckpointError: when tensors are missing, extra or of another shape.
    """
    names = _LAYOUTS[project]
    theirs = {k: v for k, v in state.items() if not k.startswith(("ema_", "data_preprocessor."))}
    spec = recognise_tensors(
        theirs, darknet=False, stem=_STEM, block=_BLOCK, classes=_classes_of(names), where=where
    )
    own_names = isinstance(classes, (list, tuple)) and len(classes) == spec.num_classes
    if own_names and spec.category_ids is None:
        texts = tuple(str(name) for name in classes)  # type: ignore[attr-defined]
        spec = dataclasses.replace(spec, names=texts)
    own = import_state(theirs, empty_network(spec).state_dict(), names, where=where)
    return Weights(spec=spec, state=own, origin=project)
