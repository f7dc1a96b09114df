"""mmdetection's YOLOX checkpoints (`.pth`), for reading.

Source: mmdetection's `csp_darknet.py`, `yolox_pafpn.py` and `yolox_head.py` (parameter names) and
its YOLOX configurations (BGR, 0-255, the image in the top-left corner, as the official ones).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from oculox.weights.bundle import Weights, empty_network, recognise_tensors
from oculox.weights.interop.names import import_state, rules_map

_STEM = "backbone.stem.conv.conv.weight"
_BLOCK = r"^backbone\.stage1\.1\.blocks\.(\d+)\."
_CLASSES = "bbox_head.multi_level_conv_cls.0.weight"

mmdetection_names = rules_map(
    (
        (r"\.depthwise\.", ".depthwise_conv."),
        (r"\.pointwise\.", ".pointwise_conv."),
        (r"\.main\.", ".main_conv."),
        (r"\.skip\.", ".short_conv."),
        (r"\.merge\.", ".final_conv."),
        *((rf"^backbone\.stage{i + 1}\.", f"backbone.stage{i}.") for i in (1, 2, 3, 4)),
        (r"^neck\.lateral5\.", "neck.reduce_layers.0."),
        (r"^neck\.lateral4\.", "neck.reduce_layers.1."),
        (r"^neck\.up4\.", "neck.top_down_blocks.0."),
        (r"^neck\.up3\.", "neck.top_down_blocks.1."),
        (r"^neck\.down3\.", "neck.downsamples.0."),
        (r"^neck\.down4\.", "neck.downsamples.1."),
        (r"^neck\.out4\.", "neck.bottom_up_blocks.0."),
        (r"^neck\.out5\.", "neck.bottom_up_blocks.1."),
        (r"^head\.stems\.", "neck.out_convs."),
        (r"^head\.(cls|reg)_convs\.", r"bbox_head.multi_level_\1_convs."),
        (r"^head\.(cls|reg|obj)_preds\.", r"bbox_head.multi_level_conv_\1."),
    )
)


def is_mmdetection(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors are named as in mmdetection's YOLOX."""
    return _CLASSES in state


def read_mmdetection(state: Mapping[str, Tensor], *, classes: object = None, where: str) -> Weights:
    """Weights from mmdetection's state dict.

    Args:
        state: tensors by mmdetection's names. The second copy that its averaging hook keeps
            (``ema_...``) is ignored: it saves the averages under the plain names.
        classes: the class names in the checkpoint's ``meta``, where there are any.
        where: the file, for error messages.

    Raises:
        CheckpointError: when tensors are missing, extra or of another shape.
    """
    theirs = {k: v for k, v in state.items() if not k.startswith(("ema_", "data_preprocessor."))}
    spec = recognise_tensors(
        theirs, darknet=False, stem=_STEM, block=_BLOCK, classes=_CLASSES, where=where
    )
    own_names = isinstance(classes, (list, tuple)) and len(classes) == spec.num_classes
    if own_names and spec.category_ids is None:
        names = tuple(str(name) for name in classes)  # type: ignore[attr-defined]
        spec = dataclasses.replace(spec, names=names)
    expected = empty_network(spec).state_dict()
    own = import_state(theirs, expected, mmdetection_names, where=where)
    return Weights(spec=spec, state=own, origin="mmdetection")
