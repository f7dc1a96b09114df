"""Hostile variants of good files: values that nobody expects, and damaged bytes."""

import copy

from hypothesis import strategies as st

# What readers stumble over: other types, huge and odd numbers, names that lead elsewhere.
ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        [
            2**31,
            2**63,
            -(2**63),
            10**400,
            1e308,
            -0.0,
            "",
            "\0",
            "\ud800",
            "..",
            "../../etc/passwd",
            "/",
            "/dev/null",
            "a" * 5000,
            "a" * 5000 + "/b.png",
            "a/" * 300,
            "1" * 5000,
            "nan",
            "inf",
            [],
            {},
            [[]],
            [{}],
            {"": []},
            [1, 2, 3, 4],
            ["x"] * 4,
            [None] * 4,
        ]
    ),
)


@st.composite
def changed_trees(draw, tree):
    """A tree of dicts and lists in which one to three values were changed or removed."""
    root = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        parent, key, node = None, None, root
        while isinstance(node, (dict, list)) and node and (parent is None or draw(st.booleans())):
            parent = node
            # Long lists hold much of the same.
            keys = sorted(node, key=str) if isinstance(node, dict) else range(min(len(node), 6))
            key = draw(st.sampled_from(list(keys)))
            node = node[key]
        if parent is None:
            return draw(ODD_VALUES)
        if draw(st.integers(0, 4)):
            parent[key] = copy.deepcopy(draw(ODD_VALUES))
        else:
            del parent[key]
    return root


@st.composite
def changed_bytes(draw, good, *, within=None):
    """Bytes of which a few were changed, inserted, removed or cut off; mostly near the start."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        last = max(0, len(data) - 1)
        near = min(last, within or last)
        position = draw(st.one_of(st.integers(0, near), st.integers(0, last)))
        match draw(st.integers(0, 5)):
            case 0 | 1:
                data[position : position + 1] = draw(st.binary(min_size=1, max_size=1))
            case 2:
                data[position:position] = draw(st.binary(max_size=16))
            case 3:
                del data[position : position + draw(st.integers(1, 64))]
            case 4:
                width = draw(st.sampled_from((2, 4, 8)))
                value = draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFF)))
                data[position : position + width] = bytes([value]) * width
            case _:
                del data[position:]
    return bytes(data)


@st.composite
def changed_words(draw, good):
    """Text of which some words were replaced."""
    lines = [line.split(" ") for line in good.split("\n")]
    for _ in range(draw(st.integers(1, 4))):
        line = draw(st.sampled_from(lines))
        place = draw(st.integers(0, len(line) - 1))
        line[place] = str(draw(ODD_VALUES))
    return "\n".join(" ".join(line) for line in lines).encode("utf-8", "surrogatepass")
