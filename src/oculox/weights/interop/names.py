"""Translation between Oculox's parameter names and another project's.

A name map is a function from our names to theirs. The way back needs no second set of rules: the
names of the network in question are mapped forward and the pairs are inverted, so that a map that
is not one-to-one is found at once.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from oculox.errors import CheckpointError

NameMap = Callable[[str], str]
_FRACTIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
OFFICIAL_PARTS = {
    "depthwise": "dconv",
    "pointwise": "pconv",
    "main": "conv1",
    "skip": "conv2",
    "merge": "conv3",
    "blocks": "m",
}
"""Our names of the parts of a block, and the official ones, which MindYOLO has too."""


def rules_map(rules: Sequence[tuple[str, str]]) -> NameMap:
    """A name map that applies every (regular expression, replacement) in order."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def rename(name: str) -> str:
        for pattern, replacement in compiled:
            name = pattern.sub(replacement, name)
        return name

    return rename


def paired_names(ours: Iterable[str], to_theirs: NameMap) -> dict[str, str]:
    """Their name -> our name for every one of our names.

    Raises:
        ValueError: when two of our names map to the same one of theirs.
    """
    pairs: dict[str, str] = {}
    for name in ours:
        theirs = to_theirs(name)
        if theirs in pairs:
            raise ValueError(f"'{name}' and '{pairs[theirs]}' both map to '{theirs}'")
        pairs[theirs] = name
    return pairs


def import_state(
    theirs: Mapping[str, Tensor], expected: Mapping[str, Tensor], to_theirs: NameMap, *, where: str
) -> dict[str, Tensor]:
    """Another project's tensors under our names, in the order of `expected`.

    Args:
        theirs: tensors by their names.
        expected: the network's own tensors (only names and shapes are read).
        to_theirs: the name map.
        where: the file, for error messages.

    Raises:
        CheckpointError: naming what is missing, extra or of another shape, in their names.
    """
    pairs = paired_names(expected, to_theirs)
    check_state({name: expected[ours] for name, ours in pairs.items()}, theirs, where=where)
    return {ours: theirs[name] for name, ours in pairs.items()}


def export_state(state: Mapping[str, Tensor], to_theirs: NameMap) -> dict[str, Tensor]:
    """Our tensors under another project's names."""
    return {theirs: state[ours] for theirs, ours in paired_names(state, to_theirs).items()}


def check_state(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], *, where: str) -> None:
    """Compare names, shapes and kinds of numbers of two sets of tensors.

    Raises:
        CheckpointError: one line that counts and samples what is missing, extra and of another
            shape or kind.
    """
    kinds = {
        "missing": [name for name in expected if name not in state],
        "extra": [name for name in state if name not in expected],
        "of another shape": [
            f"{name} (expected {tuple(value.shape)}, got {tuple(state[name].shape)})"
            for name, value in expected.items()
            if name in state and state[name].shape != value.shape
        ],
        "of another kind": [
            f"{name} ({state[name].dtype})"
            for name, value in expected.items()
            if name in state and value.is_floating_point() and state[name].dtype not in _FRACTIONS
        ],
    }
    report = "; ".join(
        f"{len(found)} {kind}: {', '.join(found[:3])}{', ...' if len(found) > 3 else ''}"
        for kind, found in kinds.items()
        if found
    )
    if report:
        raise CheckpointError(f"{where}: tensors do not fit the network: {report}")
