"""The MindSpore Model Zoo's layout: YOLOX-Darknet53 and YOLOX-X, in a MindSpore `.ckpt`.

Names are the official ones but for the batch norms and the head, which is three cells,
``head_l``, ``head_m`` and ``head_s``, for strides 8, 16 and 32. Its checkpoints put ``network.``
before every name (``ema.network.`` before averaged ones), and its scripts read only those.
Pixels are fed as to the official weights.
"""

import re
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from oculox.config import load_config
from oculox.errors import UsageError
from oculox.weights.bundle import Weights
from oculox.weights.interop.megvii import official_names, recognise_official
from oculox.weights.interop.mindspore_layout import (
    DESCRIPTION,
    choose_average,
    read_network,
    with_mindspore_norms,
    write_network,
)
from oculox.weights.interop.names import NameMap

_PREFIX = "network."
_NETWORK = re.compile(r"^(?:network\.)*(?=backbone\.|head_[lms]\.)")
_HEAD = re.compile(r"^head\.(\w+?)s?\.([012])\.")
_RECIPES = ("yolox-darknet53", "yolox-x")


def modelzoo_names(backbone: Literal["csp_darknet", "darknet53"]) -> NameMap:
    """From our parameter names to the Model Zoo's, without the prefix of its files."""
    official = official_names(backbone)

    def head(match: re.Match[str]) -> str:
        part = "stem" if match[1] == "stem" else f"{match[1]}s"
        return f"head_{'lms'[int(match[2])]}.{part}."

    return with_mindspore_norms(lambda name: _HEAD.sub(head, official(name)))


def network_name(tag: str) -> str | None:
    """The plain name of one of the Model Zoo's network parameters; None for anything else."""
    match = _NETWORK.match(tag)
    return tag[match.end() :] if match else None


def read_modelzoo(content: Mapping[str, Tensor | str], *, where: str) -> Weights | None:
    """Weights from a checkpoint of the Model Zoo; None when it is another project's.

    Raises:
        CheckpointError: when tensors of the network are missing, extra or reshaped.
    """
    theirs = choose_average(content, network_name)
    if "head_l.cls_preds.weight" not in theirs:
        return None
    spec = recognise_official(theirs, classes="head_l.cls_preds.weight", where=where)
    return read_network(
        theirs,
        spec=spec,
        names=modelzoo_names(spec.model.backbone),
        origin="modelzoo",
        description=content.get(DESCRIPTION),
        where=where,
    )


def modelzoo_content(weights: Weights) -> dict[str, Tensor | str]:
    """The parameters of a Model Zoo checkpoint with these weights.

    Raises:
        UsageError: when the Model Zoo has no such network.
    """
    shapes = [load_config(name).model for name in _RECIPES]
    ours = weights.spec.model.model_dump(exclude={"name", "num_classes"})
    if all(shape.model_dump(exclude={"name", "num_classes"}) != ours for shape in shapes):
        raise UsageError(
            f"the Model Zoo has no {weights.spec.model.name}, only {' and '.join(_RECIPES)}; "
            "write MindYOLO's layout instead"
        )
    names = modelzoo_names(weights.spec.model.backbone)
    return write_network(weights, names, read_modelzoo, prefix=_PREFIX)
