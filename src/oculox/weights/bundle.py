"""Weights with everything needed to use them, and networks built strictly from them."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from oculox.config import load_config, recipe_names
from oculox.config.schema import InputConfig, ModelConfig
from oculox.errors import CheckpointError
from oculox.models import YOLOX, build_model
from oculox.types import ModelSpec
from oculox.weights.classes import default_names, numbered_names, same_classes
from oculox.weights.interop.names import check_state

Origin = Literal["oculox", "megvii", "mindyolo", "modelzoo", "mmdetection", "mmyolo", "onnx"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """One set of weights, from a file of any kind.

    Attributes:
        spec: the model.
        state: tensors by Oculox's parameter names.
        origin: the project whose file it was.
    """

    spec: ModelSpec
    state: Mapping[str, Tensor]
    origin: Origin = "oculox"


def empty_network(spec: ModelSpec) -> YOLOX:
    """The network whose tensors have names and shapes but no memory."""
    with torch.device("meta"):
        return build_model(spec.model, num_classes=spec.num_classes)


def build_network(weights: Weights, *, where: str = "weights") -> YOLOX:
    """The network with these weights, in evaluation mode.

    Raises:
        CheckpointError: when tensors are missing, extra or of another shape; `where` names the
            file in the message.
    """
    network = empty_network(weights.spec)
    expected = network.state_dict()
    check_state(expected, weights.state, where=where)
    # Copied: the caller may train the network without changing the bundle. Some files hold halves.
    state = {
        key: weights.state[key].detach().to(value.dtype, copy=True)
        for key, value in expected.items()
    }
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def transfer_state(
    network: YOLOX, weights: Weights, *, names: Sequence[str] | None = None, where: str
) -> int:
    """Load weights into a network for fine-tuning; of the class predictors what fits.

    Args:
        network: with fresh class predictors.
        weights: of any classes.
        names: the network's classes; those that the weights know by name keep their predictor,
            the others those of `network`. None: all keep theirs where the number of classes
            agrees, else none. So it is also for weights without names (``class 0``, ...).
        where: the weights' file, for error messages.

    Returns:
        The number of classes that keep the weights' predictor.

    Raises:
        CheckpointError: when anything but the class predictors does not fit.
    """
    own, theirs, count = network.state_dict(), weights.spec.names, network.num_classes
    if names is None or theirs == numbered_names(len(theirs)):
        rows = tuple(range(count) if count == len(theirs) else [None] * count)
    else:
        rows = same_classes(names, theirs)
    state = dict(weights.state)
    for key in (key for key in own if key.startswith("head.cls_preds.")):
        if key in state and state[key].shape == (len(theirs), *own[key].shape[1:]):
            state[key] = _taken_rows(own[key], state[key], rows)
    check_state(own, state, where=where)
    network.load_state_dict(state)
    return count - rows.count(None)


def _taken_rows(own: Tensor, theirs: Tensor, rows: Sequence[int | None]) -> Tensor:
    """`own` with the rows of `theirs` where there is one."""
    taken = [own[i] if row is None else theirs[row].to(own) for i, row in enumerate(rows)]
    return torch.stack(taken)


def output_channels(tensors: Mapping[str, Tensor], name: str, *, where: str) -> int:
    """Output channels of a convolution, by the name of its weight in another project's file.

    Raises:
        CheckpointError: when it is missing or not a convolution's weight.
    """
    if name not in tensors:
        raise CheckpointError(f"{where}: not a complete YOLOX: '{name}' is missing")
    shape = tuple(tensors[name].shape)
    if len(shape) != 4 or 0 in shape:
        raise CheckpointError(f"{where}: '{name}' of shape {shape} is not a convolution's weight")
    return shape[0]


def recognise_tensors(
    tensors: Mapping[str, Tensor],
    *,
    darknet: bool,
    stem: str,
    block: str,
    classes: str,
    where: str,
) -> ModelSpec:
    """The description of a network read off tensors with another project's names.

    Args:
        tensors: by name.
        darknet: whether it is Darknet-53.
        stem: the stem's first weight.
        block: pattern of the first stage's bottlenecks; its group is their index.
        classes: a class predictor's weight.
        where: the file, for error messages.

    Raises:
        CheckpointError: when one of them is missing or not a convolution's weight.
    """
    return recognise_model(
        backbone="darknet53" if darknet else "csp_darknet",
        stem_channels=output_channels(tensors, stem, where=where),
        blocks=len({match[1] for name in tensors if (match := re.search(block, name))}),
        depthwise=any(".dconv." in name or ".depthwise_conv." in name for name in tensors),
        num_classes=output_channels(tensors, classes, where=where),
    )


def recognise_model(
    *,
    backbone: Literal["csp_darknet", "darknet53"],
    stem_channels: int,
    blocks: int,
    depthwise: bool,
    num_classes: int,
) -> ModelSpec:
    """The description of a network from facts read off its tensors.

    Args:
        backbone: which family.
        stem_channels: output channels of the stem's first convolution.
        blocks: bottlenecks of the first CSP stage (ignored for darknet53).
        depthwise: whether 3x3 convolutions are depthwise-separable.
        num_classes: outputs of the class predictors.

    Returns:
        The recipe's model and input sections, or a custom shape at 640 where no recipe fits;
        COCO's names and ids for 80 classes, else numbers.

    Raises:
        CheckpointError: when there are no blocks where the family has some.
    """
    if backbone == "csp_darknet" and not blocks:
        raise CheckpointError("not a complete YOLOX: its first stage has no bottleneck")
    dark = backbone == "darknet53"
    stem_unit = 32 if dark else 64
    for name in recipe_names():
        config = load_config(name)
        model = config.model
        if (
            (model.backbone, model.depthwise) == (backbone, depthwise)
            and int(stem_unit * model.width) == stem_channels
            and (dark or max(round(3 * model.depth), 1) == blocks)
        ):
            model, inputs = model.model_copy(update={"num_classes": num_classes}), config.input
            break
    else:
        inputs = InputConfig()
        model = ModelConfig(
            name="yolox-custom",
            backbone=backbone,
            depth=1.0 if dark else blocks / 3,
            width=stem_channels / stem_unit,
            depthwise=depthwise,
            activation="leaky_relu" if dark else "silu",
            num_classes=num_classes,
        )
    names, category_ids = default_names(num_classes)
    return ModelSpec(model=model, input=inputs, names=names, category_ids=category_ids)
