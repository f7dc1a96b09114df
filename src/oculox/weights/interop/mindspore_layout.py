"""What the two MindSpore projects' checkpoints have in common.

Their files know nothing of class names or preprocessing. Where Oculox writes weights that differ
from what such a file says by itself, it adds one text parameter, ``oculox.description`` (JSON);
MindSpore loads it as a string that belongs to no network, and Oculox reads everything back from it.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from oculox.errors import CheckpointError
from oculox.types import ModelSpec
from oculox.weights.bundle import Origin, Weights, empty_network
from oculox.weights.checkpoint import describe, from_description
from oculox.weights.interop.names import NameMap, export_state, import_state

DESCRIPTION = "oculox.description"
_COUNTER = ".num_batches_tracked"
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean"}
_NORM["running_var"] = "moving_variance"
_AVERAGE = re.compile(r"^(?:network\.)*ema\.")
_NORM_NAME = re.compile(r"\.bn\.(weight|bias|running_mean|running_var)$")


def with_mindspore_norms(names: NameMap) -> NameMap:
    """A name map whose batch norms are called as in MindSpore."""
    return lambda name: _NORM_NAME.sub(lambda match: f".bn.{_NORM[match[1]]}", names(name))


def without_average(tag: str) -> str:
    """A parameter's name without the ``ema.`` that marks averages."""
    return _AVERAGE.sub("", tag)


def choose_average(
    content: Mapping[str, Tensor | str], network_name: Callable[[str], str | None]
) -> dict[str, Tensor]:
    """The network's tensors under their plain names, the average where the file has both.

    Args:
        content: everything in the file, optimizer included.
        network_name: the plain name of a network parameter, None for anything else; it is
            called without the ``ema.`` of averaged parameters.
    """
    raw: dict[str, Tensor] = {}
    average: dict[str, Tensor] = {}
    for tag, value in content.items():
        if not isinstance(value, Tensor):
            continue
        plain = without_average(tag)
        name = network_name(plain)
        if name is not None:
            (raw if plain == tag else average)[name] = value
    return average or raw


def read_network(
    theirs: Mapping[str, Tensor],
    *,
    spec: ModelSpec,
    names: NameMap,
    origin: Origin,
    description: object,
    where: str,
) -> Weights:
    """Weights from the network's tensors.

    Args:
        theirs: tensors by their plain names.
        spec: recognised from them, with what that project feeds the network.
        names: from our parameter names to theirs.
        origin: the project.
        description: the file's text parameter `DESCRIPTION`, if it has one.
        where: the file, for error messages.

    Raises:
        CheckpointError: when tensors are missing, extra or of another shape.
    """
    expected = empty_network(spec).state_dict()
    # MindSpore's batch norms count no batches; inference and training with a momentum never
    # read the counters.
    parameters = {k: v for k, v in expected.items() if not k.endswith(_COUNTER)}
    found = import_state(theirs, parameters, names, where=where)
    state = {k: found[k].float() if k in found else torch.tensor(0) for k in expected}
    if isinstance(description, str):
        return _described(description, state, where)
    return Weights(spec=spec, state=state, origin=origin)


def write_network(
    weights: Weights, names: NameMap, read: Callable[..., Weights | None], *, prefix: str = ""
) -> dict[str, Tensor | str]:
    """A checkpoint's content, with a description where the parameters do not say everything.

    Args:
        weights: what to write.
        names: from our parameter names to theirs.
        read: the project's reader, for what the parameters say by themselves.
        prefix: before every name.
    """
    state = {k: v for k, v in weights.state.items() if not k.endswith(_COUNTER)}
    content = {prefix + name: value for name, value in export_state(state, names).items()}
    plain = read(content, where="the weights")
    assert plain is not None
    counters = [int(weights.state[name]) for name in _counters(weights.state)]
    if weights.spec == plain.spec and not any(counters):
        return dict(content)
    return {**content, DESCRIPTION: json.dumps({**describe(weights), "counters": counters})}


def _described(text: str, state: Mapping[str, Tensor], where: str) -> Weights:
    try:
        meta: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{where}: its '{DESCRIPTION}' is not valid JSON") from None
    names = _counters(state)
    counters = meta.get("counters", []) if isinstance(meta, dict) else []
    if len(counters) == len(names):
        state = {**state, **{k: torch.tensor(int(v)) for k, v in zip(names, counters, strict=True)}}
    return from_description(meta, state, where)


def _counters(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the batch counters, in an order that no file format changes."""
    return sorted(name for name in state if name.endswith(_COUNTER))
