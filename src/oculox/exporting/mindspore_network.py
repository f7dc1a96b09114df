"""A PyTorch network as a MindSpore cell, operation by operation, for export only.

The fused network is traced, and each of its operations becomes a cell with its weights inside.
MindSpore must be installed; nothing else imports this module.
"""

from __future__ import annotations

import operator
from typing import Any

import mindspore
import torch
from mindspore import nn, ops
from torch import fx
from torch.fx.passes.shape_prop import ShapeProp

from oculox.exporting.graph import DetectionGraph
from oculox.types import RawPredictions


class Operation(nn.Cell):
    """One operation on values computed before it.

    Args:
        kind: ``layer``, ``concat`` or the name of the operation.
        inputs: places of its inputs among the values; the network's input has place 0.
        layer: what computes a ``layer``.
        axis: of ``concat``.
    """

    def __init__(
        self, kind: str, inputs: list[int], *, layer: Any = None, axis: object = 1
    ) -> None:
        super().__init__()
        self.kind = kind
        self.inputs = tuple(inputs)
        self.layer = layer
        self.axis = axis

    def construct(self, values):  # noqa: ANN001, ANN201, D102 - compiled by MindSpore
        x = values[self.inputs[0]]
        if self.kind == "layer":
            return self.layer(x)
        if self.kind == "silu":
            return x * ops.sigmoid(x)
        if self.kind == "add":
            return x + values[self.inputs[1]]
        if self.kind == "flatten":
            return ops.flatten(x, start_dim=2)
        if self.kind == "transpose":
            return ops.transpose(x, (0, 2, 1))
        if self.kind == "squeeze":
            return ops.squeeze(x, 1)
        return ops.concat([values[i] for i in self.inputs], self.axis)


class DetectionNetwork(nn.Cell):
    """Letterboxed floats (B, 3, H, W) in, (B, N, 4) boxes and (B, N, C) scores of all cells out.

    Args:
        graph: of one input size.
        size_hw: that size.
    """

    def __init__(self, graph: DetectionGraph, size_hw: tuple[int, int]) -> None:
        super().__init__()
        module = fx.symbolic_trace(graph.network)
        ShapeProp(module).propagate(torch.zeros(1, 3, *size_hw))
        places: dict[fx.Node, int] = {}
        operations: list[nn.Cell] = []
        for node in module.graph.nodes:
            if node.op == "placeholder":
                places[node] = 0
            elif node.target is RawPredictions:
                self.outputs = tuple(places[value] for value in node.args[:3])
            elif node.op != "output" and node.target not in (getattr, operator.getitem):
                # The sizes that `getattr` and `getitem` read are fixed here.
                inputs = [places[value] for value in node.all_input_nodes]
                if (made := _operation(node, module, inputs)) is None:
                    places[node] = inputs[0]
                else:
                    operations.append(made)
                    places[node] = len(operations)
        self.operations = nn.CellList(operations)
        self.corners = mindspore.Tensor(graph.corners.numpy())
        self.strides = mindspore.Tensor(graph.cell_strides.numpy()[:, None])

    def construct(self, images):  # noqa: ANN001, ANN201, D102
        values = (images,)
        for operation in self.operations:
            values += (operation(values),)
        deltas, objectness, classes = [values[i] for i in self.outputs]
        centers = (deltas[..., :2] + self.corners) * self.strides
        half = ops.exp(deltas[..., 2:]) * self.strides / 2
        boxes = ops.concat((centers - half, centers + half), -1)
        return boxes, ops.expand_dims(ops.sigmoid(objectness), -1) * ops.sigmoid(classes)


def _operation(node: fx.Node, module: fx.GraphModule, inputs: list[int]) -> Operation | None:
    """The cell of a node; None where nothing is computed."""
    if node.op == "call_module":
        torch_layer = module.get_submodule(str(node.target))
        if isinstance(torch_layer, torch.nn.Identity):
            return None
        if isinstance(torch_layer, torch.nn.SiLU):
            return Operation("silu", inputs)
        return Operation("layer", inputs, layer=_layer(torch_layer))
    if node.target is torch.nn.functional.interpolate:
        size = tuple(node.meta["tensor_meta"].shape[2:])
        return Operation("layer", inputs, layer=ops.ResizeNearestNeighbor(size))
    if node.target is torch.cat:
        return Operation("concat", inputs, axis=node.kwargs["dim"])
    return Operation("add" if node.target is operator.add else str(node.target), inputs)


def _layer(layer: torch.nn.Module) -> nn.Cell:
    if isinstance(layer, torch.nn.ReLU):
        return nn.ReLU()
    if isinstance(layer, torch.nn.LeakyReLU):
        return nn.LeakyReLU(layer.negative_slope)
    if isinstance(layer, torch.nn.MaxPool2d):
        return nn.MaxPool2d(layer.kernel_size, stride=1, pad_mode="same")
    assert isinstance(layer, torch.nn.Conv2d)
    assert layer.bias is not None
    return nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size[0],
        stride=layer.stride[0],
        pad_mode="pad",
        padding=int(layer.padding[0]),
        group=layer.groups,
        has_bias=True,
        weight_init=mindspore.Tensor(layer.weight.numpy()),
        bias_init=mindspore.Tensor(layer.bias.numpy()),
    )
