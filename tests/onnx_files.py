"""Small ONNX files, written field by field."""

from oculox.weights.interop.protobuf_wire import bytes_field, number_field


def tensor(name: str, shape: tuple[int, ...], *, kind: int = 1, size: int | None = None) -> bytes:
    count = 4 if size is None else size
    if size is None:
        for d in shape:
            count *= d
    dims = b"".join(number_field(1, d) for d in shape)
    return (
        dims + number_field(2, kind) + bytes_field(8, name.encode()) + bytes_field(9, bytes(count))
    )


def node(op: str, inputs: list[str], outputs: list[str]) -> bytes:
    return (
        b"".join(bytes_field(1, i.encode()) for i in inputs)
        + b"".join(bytes_field(2, o.encode()) for o in outputs)
        + bytes_field(4, op.encode())
    )


def model(nodes: list[bytes], tensors: list[bytes], *, output: str = "y") -> bytes:
    graph = b"".join(bytes_field(1, n) for n in nodes) + b"".join(
        bytes_field(5, t) for t in tensors
    )
    graph += bytes_field(11, bytes_field(1, b"x")) + bytes_field(
        12, bytes_field(1, output.encode())
    )
    return bytes_field(7, graph)


HEAD = [
    *(node("Conv", ["x", f"w{i}"], [f"c{i}"]) for i in range(9)),
    *(node("Concat", [f"c{3 * i + j}" for j in range(3)], [f"l{i}"]) for i in range(3)),
    node("Concat", ["l0", "l1", "l2"], ["y"]),
]
HEAD_TENSORS = [tensor(f"w{i}", (2, 3, 1, 1)) for i in range(9)]
