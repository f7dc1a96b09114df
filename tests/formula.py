"""Weights that a formula makes of their names, and the output layout of the reference values."""

import math
from collections.abc import Callable, Mapping, Sequence
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from oculox.models import YOLOX
from oculox.ops.points import decode_boxes, make_cells


def official_formula(name: str, shape: Sequence[int]) -> Tensor:
    """A tensor of a PyTorch network with the official names, determined by its name; float64."""
    n = np.random.RandomState(crc32(name.encode())).standard_normal(tuple(shape))
    if name.endswith("num_batches_tracked"):
        value = np.zeros(shape)
    elif name.endswith(("running_mean", "bias")):
        value = 0.1 * n
    elif name.endswith("running_var"):
        value = 1 + 0.1 * np.abs(n)
    elif name.endswith("bn.weight"):
        value = 1 + 0.1 * n
    else:
        value = n * math.sqrt(2 / math.prod(shape[1:])) * (0.1 if "_preds" in name else 1)
    return torch.from_numpy(np.asarray(value))


def mindspore_formula(
    name: str, shape: Sequence[int], *, norm_scale: float = 1.0, predictor_scale: float = 1.0
) -> Tensor:
    """A parameter of a MindSpore network, determined by its name.

    The Model Zoo's values were made with `norm_scale` 0.7 (of gamma and variance) and
    `predictor_scale` 0.1.
    """
    n = np.random.RandomState(crc32(name.encode())).standard_normal(tuple(shape))
    if name.endswith("moving_mean"):
        value = 0.1 * n
    elif name.endswith("moving_variance"):
        value = norm_scale + 0.1 * np.abs(n)
    elif name.endswith("gamma"):
        value = norm_scale + 0.1 * n
    elif name.endswith(("beta", "bias")):
        value = 0.1 * n
    else:
        value = n * np.sqrt(2 / np.prod(shape[1:])) * (predictor_scale if "_preds" in name else 1)
    return torch.from_numpy(value.astype(np.float32))


def state_of(
    shapes: Mapping[str, Sequence[int]], formula: Callable[..., Tensor], **options: float
) -> dict[str, Tensor]:
    return {name: formula(name, shape, **options) for name, shape in shapes.items()}


@torch.no_grad()
def decoded_output(network: YOLOX, images: Tensor) -> np.ndarray:
    """(B, N, 5 + C): cxcywh pixels and probabilities, as the reference implementations answer."""
    raw = network(images)
    boxes = decode_boxes(raw.deltas, make_cells(raw.level_sizes, network.strides))
    scores = torch.cat((raw.objectness[..., None], raw.classes), dim=-1).sigmoid()
    return torch.cat((boxes, scores), dim=-1).numpy()
