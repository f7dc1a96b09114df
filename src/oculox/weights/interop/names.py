"""Translation between Oculox's parameter names and another project's.

A name map is a function from our names to theirs. The way back needs no second set of rules: the
names of the network at hand are mapped forward and the pairs are inverted, so that a map that
is not one-to-one is found at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor

from oculox.errors import CheckpointError

NameMap = Callable[[str], str]


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
        CheckpointError: a report, in their names, of what is missing, extra or of another shape.
    """
    pairs = paired_names(expected, to_theirs)
    missing = [name for name in pairs if name not in theirs]
    extra = [name for name in theirs if name not in pairs]
    reshaped = [
        f"{name} (expected {tuple(expected[ours].shape)}, got {tuple(theirs[name].shape)})"
        for name, ours in pairs.items()
        if name in theirs and theirs[name].shape != expected[ours].shape
    ]
    report = tensor_report(missing=missing, extra=extra, reshaped=reshaped)
    if report:
        raise CheckpointError(f"{where}: tensors do not fit the network: {report}")
    return {ours: theirs[name] for name, ours in pairs.items()}


def export_state(state: Mapping[str, Tensor], to_theirs: NameMap) -> dict[str, Tensor]:
    """Our tensors under another project's names."""
    return {theirs: state[ours] for theirs, ours in paired_names(state, to_theirs).items()}


def tensor_report(*, missing: Sequence[str], extra: Sequence[str], reshaped: Sequence[str]) -> str:
    """One line that counts and samples what is wrong with a set of tensors; empty if nothing."""
    kinds = (("missing", missing), ("extra", extra), ("of another shape", reshaped))
    return "; ".join(
        f"{len(found)} {kind}: {', '.join(found[:3])}{', ...' if len(found) > 3 else ''}"
        for kind, found in kinds
        if found
    )
