"""Reading golden values and comparing them with what the code gives now."""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

VALUES = Path(__file__).parent / "values"


@functools.cache
def golden(topic):
    """The values that `make.py` wrote for a topic."""
    return json.loads((VALUES / f"{topic}.json").read_text("utf-8"))


def plain(value, *, digits=8):
    """Tensors, arrays and their like as JSON; numbers with `digits` significant digits."""
    if isinstance(value, Mapping):
        return {key: plain(item, digits=digits) for key, item in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value
    if hasattr(value, "tolist"):
        return plain(value.tolist(), digits=digits)
    if isinstance(value, Sequence):
        return [plain(item, digits=digits) for item in value]
    return float(f"{float(value):.{digits}g}")


def differences(found, expected, *, rel, absolute=0.0, where=""):
    """What differs, a line each; texts, whole numbers and structure must agree exactly."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        if found.keys() != expected.keys():
            return [f"{where}: keys {sorted(found)} instead of {sorted(expected)}"]
        pairs = [(f"{where}.{key}", found[key], expected[key]) for key in expected]
    elif isinstance(expected, list) and isinstance(found, list):
        if len(found) != len(expected):
            return [f"{where}: {len(found)} values instead of {len(expected)}"]
        pairs = [(f"{where}[{i}]", found[i], expected[i]) for i in range(len(expected))]
    elif isinstance(expected, float) or isinstance(found, float):
        same = math.isclose(found, expected, rel_tol=rel, abs_tol=absolute)
        return [] if same else [f"{where}: {found!r} instead of {expected!r}"]
    else:
        return [] if found == expected else [f"{where}: {found!r} instead of {expected!r}"]
    return [
        line
        for at, a, b in pairs
        for line in differences(a, b, rel=rel, absolute=absolute, where=at)
    ]


def sampled(values, *, count=16):
    """The norm and `count` evenly spaced values of a tensor."""
    flat = np.asarray(values, np.float64).ravel()
    places = np.linspace(0, len(flat) - 1, count).astype(int)
    return {"norm": plain(np.linalg.norm(flat)), "values": plain(flat[places])}
