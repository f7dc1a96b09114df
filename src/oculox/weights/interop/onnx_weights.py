"""The official YOLOX `.onnx` files, for reading: fused batch norms, raw head.

Tensors lose their names in such a file, so its graph is followed from the output back to the
input, side by side with our own network's: backwards every step is determined, because a
convolution has one input and a concatenation has its inputs in order.
"""

import dataclasses
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from oculox.errors import CheckpointError
from oculox.extras import require
from oculox.models import YOLOX
from oculox.models.layers import BN_EPS
from oculox.types import ModelSpec
from oculox.weights.bundle import Weights, empty_network, recognise_model

_PASSING = ("Sigmoid", "LeakyRelu", "Relu", "Slice", "MaxPool", "Resize", "Upsample")
_RESHAPING = ("Transpose", "Reshape")
_NUMBER_BYTES = {1: 4, 10: 2, 11: 8}  # TensorProto's float32, float16 and float64


@dataclasses.dataclass(frozen=True)
class _Graph:
    """What is needed of a graph: its nodes and constants are `onnx` messages."""

    nodes: Sequence[Any]
    constants: Mapping[str, Any]
    input_name: str
    input_shape: tuple[int, ...]
    output_name: str


class _Step(NamedTuple):
    """A step of a network that matters for its wiring.

    kind: input, conv, cat, add, or the name of an operation that a raw YOLOX does not have;
    name: the convolution's weight; depth: convolutions on the longest way from the input.
    """

    kind: str
    inputs: tuple[int, ...]
    name: str
    depth: int


class _Wiring:
    """Convolutions, concatenations and sums, and what feeds what; the rest is passed through."""

    def __init__(self) -> None:
        self.steps: list[_Step] = []

    def add(self, kind: str, inputs: Iterable[int], *, name: str = "") -> int:
        ids = tuple(inputs)
        if kind == "add":
            # A sum has no order: the shortcut, an ancestor of the other, comes first.
            ids = tuple(sorted(ids, key=lambda i: self.steps[i].depth))
        depth = max((self.steps[i].depth for i in ids), default=0) + (kind == "conv")
        self.steps.append(_Step(kind, ids, name, depth))
        return len(self.steps) - 1


def read_onnx(path: Path) -> Weights:
    """Weights from an official YOLOX export.

    Batch norms are folded into the convolutions in such a file; they come back as norms that
    change nothing. That is exact for inference, but a poor start for fine-tuning.

    Raises:
        CheckpointError: missing, damaged, or not a YOLOX with a raw head and fused norms.
        MissingExtraError: when the package `onnx` is not installed.
    """
    where = str(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    graph = _read_graph(path)
    theirs, output, tensors = _their_wiring(graph)
    heads = _find_heads(theirs, output, where)
    shapes = {name: _checked_shape(graph, weight, where) for name, (weight, _) in tensors.items()}
    if any(len(shape) != 4 or 0 in shape for shape in shapes.values()):
        raise CheckpointError(f"{where}: not a YOLOX: it has convolutions that are not 2-D")
    classes = shapes[theirs.steps[heads[0][2]].name][0]
    spec = _recognise(theirs, shapes, classes, where)
    network = empty_network(spec)
    found = {
        ours: tuple(_constant(graph, name, where) if name else None for name in tensors[weight])
        for ours, weight in _match(theirs, heads, network, where).items()
    }
    size = graph.input_shape[-2:]
    if len(size) == 2 and all(s > 0 and s % 32 == 0 for s in size):
        fixed = spec.input.model_copy(update={"size": (size[0], size[1])})
        spec = dataclasses.replace(spec, input=fixed)
    return Weights(spec=spec, state=_state(network, found, where), origin="onnx")


def _read_graph(path: Path) -> _Graph:
    onnx = require("onnx", extra="onnx", purpose="reading weights from .onnx")
    protobuf = require("google.protobuf.message", extra="onnx", purpose="reading .onnx")
    try:
        graph = onnx.ModelProto.FromString(path.read_bytes()).graph
    except protobuf.DecodeError as error:
        raise CheckpointError(f"{path}: damaged or not an ONNX file ({error})") from None
    constants = {tensor.name: tensor for tensor in graph.initializer}
    # Files of old versions list the weights among the inputs.
    inputs = [value for value in graph.input if value.name not in constants]
    if not inputs or not graph.output:
        raise CheckpointError(f"{path}: not a network (its graph has no input or no output)")
    shape = tuple(dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim)
    return _Graph(graph.node, constants, inputs[0].name, shape, graph.output[0].name)


def _checked_shape(graph: _Graph, name: str, where: str) -> tuple[int, ...]:
    """The shape of a constant whose numbers are all there, so that it bounds the memory."""
    found = graph.constants.get(name)
    if found is None:
        raise CheckpointError(f"{where}: '{name}' is not a constant of the graph")
    width = _NUMBER_BYTES.get(found.data_type)
    if width is None or found.data_location:
        raise CheckpointError(
            f"{where}: '{name}' is not stored as floating-point numbers inside the file "
            "(quantised files and files with external data are not read)"
        )
    shape = tuple(found.dims)
    expected, size = math.prod(shape) * width, len(found.raw_data) or 4 * len(found.float_data)
    if size != expected or any(side < 0 for side in shape):
        raise CheckpointError(
            f"{where}: damaged: '{name}' of shape {shape} needs {expected} bytes, has {size}"
        )
    return shape


def _constant(graph: _Graph, name: str, where: str) -> Tensor:
    _checked_shape(graph, name, where)
    helper = require("onnx.numpy_helper", extra="onnx", purpose="reading weights from .onnx")
    return torch.tensor(helper.to_array(graph.constants[name])).float()


def _their_wiring(graph: _Graph) -> tuple[_Wiring, int | None, dict[str, tuple[str, str]]]:
    """The graph's wiring, its output's step, and (weight, bias) names by convolution."""
    wiring = _Wiring()
    value = {graph.input_name: wiring.add("input", ())}
    tensors: dict[str, tuple[str, str]] = {}
    for node in graph.nodes:
        # Files are sorted so that inputs come first; what is unknown is a constant.
        inputs = [value[name] for name in node.input if name in value]
        if not inputs or not node.output:
            continue
        if node.op_type == "Conv" and len(node.input) >= 2 and node.input[1] in graph.constants:
            weight = node.input[1]
            name = f"{len(tensors)}:{weight}"
            tensors[name] = (weight, node.input[2] if len(node.input) > 2 else "")
            step = wiring.add("conv", inputs[:1], name=name)
        elif node.op_type == "Concat":
            step = wiring.add("cat", inputs)
        elif node.op_type == "Add" and len(inputs) == 2:
            step = wiring.add("add", inputs)
        elif node.op_type in (*_PASSING, *_RESHAPING):
            step = inputs[0]
        elif node.op_type == "Mul" and len(inputs) == 2 and inputs[0] == inputs[1]:
            step = inputs[0]  # SiLU: x times sigmoid of x
        else:
            step = wiring.add(node.op_type, inputs)
        value[node.output[0]] = step
    return wiring, value.get(graph.output_name), tensors


def _find_heads(wiring: _Wiring, output: int | None, where: str) -> list[tuple[int, int, int]]:
    """The (box, objectness, classes) convolutions of each level."""
    steps = wiring.steps
    levels = steps[output].inputs if output is not None and steps[output].kind == "cat" else ()
    heads = [steps[i].inputs for i in levels if steps[i].kind == "cat"]
    plain = all(len(h) == 3 and all(steps[i].kind == "conv" for i in h) for h in heads)
    if len(levels) != 3 or len(heads) != 3 or not plain:
        kind = steps[output].kind if output is not None else "nothing"
        raise CheckpointError(
            f"{where}: not a YOLOX with a raw head: its output should join three levels of boxes, "
            f"objectness and classes, and is made by {kind}; export it without decoding"
        )
    return [(h[0], h[1], h[2]) for h in heads]


def _recognise(
    wiring: _Wiring, shapes: dict[str, tuple[int, ...]], classes: int, where: str
) -> ModelSpec:
    convs = [shapes[s.name] for s in wiring.steps if s.kind == "conv"]
    darknet = convs[0][1] == 3

    def shape(blocks: int) -> ModelSpec:
        return recognise_model(
            backbone="darknet53" if darknet else "csp_darknet",
            stem_channels=convs[0][0],
            blocks=blocks,
            depthwise=any(shape[1:] == (1, 3, 3) for shape in convs),
            num_classes=classes,
        )

    # Every further block adds the same number of layers (none to Darknet-53).
    one, two = (_count_layers(shape(blocks)) for blocks in (1, 2))
    more, rest = divmod(len(convs) - one, max(two - one, 1))
    if more < 0 or rest or (more and two == one):
        raise CheckpointError(
            f"{where}: not a YOLOX: no network of that kind has {len(convs)} layers"
        )
    return shape(1 + more)


def _count_layers(spec: ModelSpec) -> int:
    return sum(isinstance(module, nn.Conv2d) for module in empty_network(spec).modules())


def _our_wiring(network: YOLOX) -> tuple[_Wiring, dict[str, int]]:
    """The network's wiring, and the step of each convolution by module name."""
    wiring = _Wiring()
    value: dict[fx.Node, int] = {}
    convs: dict[str, int] = {}
    for node in fx.symbolic_trace(network).graph.nodes:
        inputs = [value[n] for n in node.all_input_nodes if n in value]
        target = str(node.target)
        if node.op == "placeholder":
            value[node] = wiring.add("input", ())
        elif node.op == "call_module" and isinstance(network.get_submodule(target), nn.Conv2d):
            value[node] = convs[target] = wiring.add("conv", inputs, name=target)
        elif node.target is torch.cat:
            value[node] = wiring.add("cat", [value[n] for n in node.args[0]])
        elif node.target is operator.add:
            value[node] = wiring.add("add", inputs)
        elif inputs:
            value[node] = inputs[0]
    return wiring, convs


def _match(
    theirs: _Wiring, heads: list[tuple[int, int, int]], network: YOLOX, where: str
) -> dict[str, str]:
    """Our convolution -> theirs."""
    ours, convs = _our_wiring(network)
    parts = ("reg_preds", "obj_preds", "cls_preds")
    open_pairs = [
        (convs[f"head.{part}.{level}"], step)
        for level, head in enumerate(heads)
        for part, step in zip(parts, head, strict=True)
    ]
    matched: dict[int, int] = {}
    while open_pairs:
        mine, other = open_pairs.pop()
        if matched.setdefault(mine, other) != other:
            raise CheckpointError(_differs(where, "is wired differently"))
        a, b = ours.steps[mine], theirs.steps[other]
        if a.kind != b.kind or len(a.inputs) != len(b.inputs):
            raise CheckpointError(
                _differs(where, f"has '{b.kind}' where '{a.kind}' belongs ({a.name})")
            )
        open_pairs += [
            pair for pair in zip(a.inputs, b.inputs, strict=True) if matched.get(pair[0]) != pair[1]
        ]
    return {name: theirs.steps[matched[step]].name for name, step in convs.items()}


def _differs(where: str, how: str) -> str:
    return f"{where}: not a YOLOX with fused norms as the official export writes it: it {how}"


def _state(
    network: YOLOX, found: dict[str, tuple[Tensor | None, ...]], where: str
) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for key, expected in network.state_dict().items():
        module, _, leaf = key.rpartition(".")
        weight, bias = found[
            module.removesuffix(".bn") + ".conv" if module.endswith(".bn") else module
        ]
        channels = expected.shape[:1]
        value: Tensor | None
        if module.endswith(".bn"):
            value = {
                "weight": torch.ones(channels),
                "bias": torch.zeros(channels) if bias is None else bias,
                "running_mean": torch.zeros(channels),
                # variance + eps = 1: the norm divides by one
                "running_var": torch.full(channels, 1 - BN_EPS),
                "num_batches_tracked": torch.tensor(0),
            }[leaf]
        else:
            value = weight if leaf == "weight" else bias
        if value is None or value.shape != expected.shape:
            got = "nothing" if value is None else tuple(value.shape)
            raise CheckpointError(f"{where}: {key}: expected {tuple(expected.shape)}, got {got}")
        state[key] = value
    return state
