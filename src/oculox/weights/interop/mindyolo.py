"""MindYOLO's layout: one flat list of layers, in a MindSpore `.ckpt`.

Source: the configuration files and parameter names of MindYOLO's seven YOLOX networks.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from oculox.errors import CheckpointError
from oculox.weights.bundle import Weights, recognise_tensors
from oculox.weights.catalogue import customary_input
from oculox.weights.interop.mindspore_layout import (
    DESCRIPTION,
    choose_average,
    read_network,
    with_mindspore_norms,
    write_network,
)
from oculox.weights.interop.names import OFFICIAL_PARTS, NameMap

# Layers without tensors (upsampling, concatenation) leave gaps in the numbers.
_CSP_LAYERS: dict[str, str] = {
    "backbone.stem": "0",
    "backbone.stage2.0": "1",
    "backbone.stage2.1": "2",
    "backbone.stage3.0": "3",
    "backbone.stage3.1": "4",
    "backbone.stage4.0": "5",
    "backbone.stage4.1": "6",
    "backbone.stage5.0": "7",
    "backbone.stage5.1": "8",
    "backbone.stage5.2": "9",
    "neck.lateral5": "10",
    "neck.up4": "13",
    "neck.lateral4": "14",
    "neck.up3": "17",
    "neck.down3": "18",
    "neck.out4": "20",
    "neck.down4": "21",
    "neck.out5": "23",
    "head": "24",
}
_CSP_HEAD, _DARKNET_HEAD = 24, 32
# Repeated residual blocks of Darknet-53 are one layer with an index; a single one has none.
_DARKNET_LAYERS: dict[str, str] = {
    "backbone.stem.0": "0",
    "backbone.stem.1": "1",
    "backbone.stem.2": "2",
    **{
        f"backbone.stage{stage}.{i}": str(first) if i == 0 else f"{first + 1}.{i - 1}"
        for stage, first, blocks in ((2, 3, 2), (3, 5, 8), (4, 7, 8), (5, 9, 4))
        for i in range(blocks + 1)
    },
    **{f"backbone.stage5.{i}": str(i + 6) for i in range(5, 10)},
    "neck.lateral5": "16",
    **{f"neck.out4.{i}": str(19 + i) for i in range(5)},
    "neck.lateral4": "24",
    **{f"neck.out3.{i}": str(27 + i) for i in range(5)},
    "head": str(_DARKNET_HEAD),
}
_NETWORK = re.compile(r"^(?:model\.)+(?=\d+\.)")


def mindyolo_names(backbone: Literal["csp_darknet", "darknet53"]) -> NameMap:
    """From our parameter names to MindYOLO's."""
    layers = _DARKNET_LAYERS if backbone == "darknet53" else _CSP_LAYERS

    def rename(name: str) -> str:
        parts = name.split(".")
        count = next(n for n in (3, 2, 1) if ".".join(parts[:n]) in layers)
        inner = ".".join(OFFICIAL_PARTS.get(part, part) for part in parts[count:])
        return f"model.model.{layers['.'.join(parts[:count])]}.{inner}"

    return with_mindspore_norms(rename)


def network_name(tag: str) -> str | None:
    """The plain name of one of MindYOLO's network parameters; None for anything else."""
    match = _NETWORK.match(tag)
    return "model.model." + tag[match.end() :] if match else None


def read_mindyolo(content: Mapping[str, Tensor | str], *, where: str) -> Weights | None:
    """Weights from a checkpoint of MindYOLO; None when it is another project's.

    Raises:
        CheckpointError: when tensors of the network are missing, extra or reshaped.
    """
    theirs = choose_average(content, network_name)
    if not theirs:
        return None
    head = next((h for h in (_CSP_HEAD, _DARKNET_HEAD) if _class_predictor(h) in theirs), None)
    darknet = head == _DARKNET_HEAD
    stem = "model.model.0.conv.weight" if darknet else "model.model.0.conv.conv.weight"
    if head is None:
        raise CheckpointError(
            f"{where}: named like a network of MindYOLO, but it has no YOLOX head; "
            "only its YOLOX networks can be read"
        )
    spec = recognise_tensors(
        theirs,
        darknet=darknet,
        stem=stem,
        block=r"^model\.model\.2\.m\.(\d+)\.",
        classes=_class_predictor(head),
        where=where,
    )
    return read_network(
        theirs,
        spec=dataclasses.replace(spec, input=customary_input(spec.input)),
        names=mindyolo_names(spec.model.backbone),
        origin="mindyolo",
        description=content.get(DESCRIPTION),
        where=where,
    )


def mindyolo_content(weights: Weights) -> dict[str, Tensor | str]:
    """The parameters of a MindYOLO checkpoint with these weights."""
    return write_network(weights, mindyolo_names(weights.spec.model.backbone), read_mindyolo)


def _class_predictor(head: int) -> str:
    return f"model.model.{head}.cls_preds.0.weight"
