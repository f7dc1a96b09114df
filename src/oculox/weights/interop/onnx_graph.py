"""ONNX files without the `onnx` package: nodes, initializers and the input's size.

Source: field numbers of `onnx.proto` (ModelProto, GraphProto, NodeProto, TensorProto).
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from oculox.errors import CheckpointError
from oculox.weights.interop.protobuf_wire import BYTES, VARINT, Field, WireReader

_FLOAT_TYPES = {1: torch.float32, 10: torch.float16, 11: torch.float64}
_EXTERNAL = 1


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation: its type, and the names of its inputs and outputs."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Initializer:
    """A constant tensor's place in the file."""

    shape: tuple[int, ...]
    type: int
    content: Field | None


@dataclasses.dataclass(frozen=True)
class Graph:
    """What is needed of an ONNX graph to find a network's weights in it.

    Attributes:
        nodes: operations in the file's (topological) order.
        initializers: constant tensors by name; their bytes stay in the file.
        input_name: the first input that is no initializer.
        input_shape: its dimensions; None for those that are open.
        output_name: the first output.
    """

    nodes: tuple[Node, ...]
    initializers: dict[str, Initializer]
    input_name: str
    input_shape: tuple[int | None, ...]
    output_name: str


def read_metadata(path: Path) -> dict[str, str]:
    """The texts kept with a model, by key; its weights are not read.

    ONNX and MindIR files keep them in the same way: field 14 of the model, with key (1) and
    value (2).

    Raises:
        CheckpointError: when the file is damaged or of another kind.
    """
    with path.open("rb") as file:
        model = WireReader(file, start=0, end=file.seek(0, 2), where=str(path))
        texts: dict[str, str] = {}
        for field in model:
            if field.number == 14:
                entry = {f.number: model.text(f) for f in model.inside(field)}
                texts[entry.get(1, "")] = entry.get(2, "")
        return texts


def read_graph(file: BinaryIO, *, where: str) -> Graph:
    """The main graph of an ONNX file.

    Raises:
        CheckpointError: when the file is damaged or no ONNX file.
    """
    size = file.seek(0, 2)
    model = WireReader(file, start=0, end=size, where=where)
    graph = None
    for field in model:
        if field.number == 7 and field.kind == BYTES:
            graph = model.inside(field)
    if graph is None:
        raise CheckpointError(f"{where}: not an ONNX file (it holds no graph)")
    nodes, initializers, inputs, outputs = [], {}, {}, []
    for field in graph:
        if field.number == 1:
            nodes.append(_node(graph.inside(field)))
        elif field.number == 5:
            name, initializer = _initializer(graph.inside(field))
            initializers[name] = initializer
        elif field.number in (11, 12):
            name, shape = _value_info(graph.inside(field))
            if field.number == 11:
                inputs[name] = shape
            else:
                outputs.append(name)
    # Files of old versions list the weights among the inputs.
    input_name = next((name for name in inputs if name not in initializers), None)
    if input_name is None or not outputs:
        raise CheckpointError(f"{where}: not a network (its graph has no input or no output)")
    return Graph(tuple(nodes), initializers, input_name, inputs[input_name], outputs[0])


def checked_shape(graph: Graph, name: str, *, where: str) -> tuple[int, ...]:
    """The shape of a constant tensor whose bytes are all there, so that it bounds no more memory.

    Raises:
        CheckpointError: when it is missing, not of a float type, damaged, or outside the file.
    """
    found = graph.initializers.get(name)
    if found is None:
        raise CheckpointError(f"{where}: '{name}' is no constant of the graph")
    dtype = _FLOAT_TYPES.get(found.type)
    if dtype is None or found.content is None:
        raise CheckpointError(
            f"{where}: '{name}' is not stored as floating-point numbers inside the file "
            "(quantised files and files with external data are not read)"
        )
    expected, size = math.prod(found.shape) * dtype.itemsize, found.content.size
    if size != expected:
        raise CheckpointError(
            f"{where}: damaged: '{name}' of shape {found.shape} needs {expected} bytes, has {size}"
        )
    return found.shape


def load_initializer(file: BinaryIO, graph: Graph, name: str, *, where: str) -> Tensor:
    """One constant tensor, as float32.

    Raises:
        CheckpointError: as `checked_shape`.
    """
    shape = checked_shape(graph, name, where=where)
    found = graph.initializers[name]
    if 0 in shape or found.content is None:
        return torch.empty(shape)
    file.seek(found.content.start)
    data = bytearray(file.read(found.content.size))
    return torch.frombuffer(data, dtype=_FLOAT_TYPES[found.type]).reshape(shape).float()


def _node(reader: WireReader) -> Node:
    texts: dict[int, list[str]] = {1: [], 2: [], 4: []}
    for field in reader:
        if field.number in texts:
            texts[field.number].append(reader.text(field))
    return Node("".join(texts[4][:1]), tuple(texts[1]), tuple(texts[2]))


def _initializer(reader: WireReader) -> tuple[str, Initializer]:
    name, dims, kind, content = "", list[int](), 0, None
    for field in reader:
        if field.number == 1:
            dims += reader.integers(field)
        elif field.number == 2:
            reader.expect(field, VARINT)
            kind = field.value
        elif field.number == 8:
            name = reader.text(field)
        elif field.number in (4, 9) and field.kind == BYTES:
            content = field  # raw bytes, or packed float32: the same for that type
        elif field.number == 14 and field.value == _EXTERNAL:
            kind = 0
    if any(d < 0 for d in dims):
        raise CheckpointError(f"{reader.where}: damaged: '{name}' has dimensions {dims[:9]}")
    return name, Initializer(tuple(dims), kind, content)


def _value_info(reader: WireReader) -> tuple[str, tuple[int | None, ...]]:
    """Name and dimensions: type (2) -> tensor_type (1) -> shape (2) -> dim (1) -> value (1)."""
    name, shape = "", list[int | None]()
    for field in reader:
        if field.number == 1:
            name = reader.text(field)
    for dim in _descend(reader, (2, 1, 2, 1)):
        value = next((f.value for f in dim if f.number == 1 and f.kind == VARINT), None)
        shape.append(value)
    return name, tuple(shape)


def _descend(reader: WireReader, numbers: tuple[int, ...]) -> list[WireReader]:
    """The readers of all messages found by following field numbers inwards."""
    readers = [reader]
    for number in numbers:
        readers = [
            outer.inside(field)
            for outer in readers
            for field in outer
            if field.number == number and field.kind == BYTES
        ]
    return readers
