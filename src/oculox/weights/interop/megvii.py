"""The official layout (Megvii's YOLOX repository): ``{"model": state_dict, ...}`` in a `.pth`.

Where Oculox writes weights that differ from what such a file says by itself (class names,
preprocessing), it adds an entry ``oculox`` that the official programs ignore.
"""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from oculox.types import ModelSpec
from oculox.weights.bundle import Weights, empty_network, recognise_tensors
from oculox.weights.checkpoint import describe, from_description
from oculox.weights.interop.names import (
    OFFICIAL_PARTS,
    NameMap,
    export_state,
    import_state,
    rules_map,
)

DESCRIPTION = "oculox"

_INNER = tuple((rf"\.{ours}\.", f".{theirs}.") for ours, theirs in OFFICIAL_PARTS.items())
_STAGES = ((r"^backbone\.stage", "backbone.dark"), (r"^backbone\.", "backbone.backbone."))

_CSP = rules_map(
    (
        *_INNER,
        *_STAGES,
        (r"^neck\.lateral5\.", "backbone.lateral_conv0."),
        (r"^neck\.lateral4\.", "backbone.reduce_conv1."),
        (r"^neck\.up4\.", "backbone.C3_p4."),
        (r"^neck\.up3\.", "backbone.C3_p3."),
        (r"^neck\.down3\.", "backbone.bu_conv2."),
        (r"^neck\.down4\.", "backbone.bu_conv1."),
        (r"^neck\.out4\.", "backbone.C3_n3."),
        (r"^neck\.out5\.", "backbone.C3_n4."),
    )
)
_DARKNET = rules_map(
    (
        # Residual blocks; the SPP block, stage5.7, keeps conv1 and conv2.
        (
            r"^(backbone\.(?:stem|stage[234])\.\d+|backbone\.stage5\.[1-4])\.conv([12])\.",
            r"\1.layer\2.",
        ),
        *_STAGES,
        (r"^neck\.lateral5\.", "backbone.out1_cbl."),
        (r"^neck\.lateral4\.", "backbone.out2_cbl."),
        (r"^neck\.out4\.", "backbone.out1."),
        (r"^neck\.out3\.", "backbone.out2."),
    )
)


def official_names(backbone: Literal["csp_darknet", "darknet53"]) -> NameMap:
    """From our parameter names to the official ones."""
    return _DARKNET if backbone == "darknet53" else _CSP


def is_official(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors are named as in the official repository."""
    return any(name.startswith("backbone.backbone.") for name in state)


def read_official(
    state: Mapping[str, Tensor], *, description: object = None, where: str
) -> Weights:
    """Weights from an official state dict.

    Args:
        state: tensors by their official names.
        description: the entry `DESCRIPTION` of the file, where it has one.
        where: the file, for error messages.

    Raises:
        CheckpointError: when it is not a YOLOX, or tensors are missing, extra or reshaped.
    """
    spec = recognise_official(state, classes="head.cls_preds.0.weight", where=where)
    expected = empty_network(spec).state_dict()
    own = import_state(state, expected, official_names(spec.model.backbone), where=where)
    if description is not None:
        return from_description(description, own, where)
    return Weights(spec=spec, state=own, origin="megvii")


def recognise_official(state: Mapping[str, Tensor], *, classes: str, where: str) -> ModelSpec:
    """The description read off tensors with official names; `classes` is a predictor's weight."""
    darknet = "backbone.out1_cbl.conv.weight" in state
    return recognise_tensors(
        state,
        darknet=darknet,
        stem=f"backbone.backbone.stem.{'0.conv' if darknet else 'conv.conv'}.weight",
        block=r"\.dark2\.1\.m\.(\d+)\.",
        classes=classes,
        where=where,
    )


def write_official(weights: Weights) -> dict[str, Any]:
    """The content of an official `.pth`: ``start_epoch``, ``model``, ``best_ap``."""
    state = export_state(weights.state, official_names(weights.spec.model.backbone))
    content: dict[str, Any] = {"start_epoch": 0, "model": state, "best_ap": 0.0}
    if weights.spec != read_official(state, where="the weights").spec:
        content[DESCRIPTION] = describe(weights)
    return content
