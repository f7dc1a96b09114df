"""Weights with descriptions of their own, for tests."""

import dataclasses

import torch

from oculox.config import load_config
from oculox.models import build_model
from oculox.types import ModelSpec
from oculox.weights import Weights


def make_weights(config, state, *, names, category_ids=None, **changes):
    """Weights of a configuration's network for as many classes as there are names."""
    spec = ModelSpec(
        model=config.model.model_copy(update={"num_classes": len(names)}),
        input=config.input,
        names=tuple(names),
        category_ids=category_ids,
    )
    return Weights(spec=spec, state=state, **changes)


def with_spec(weights, **changes):
    """The same weights with another description."""
    return dataclasses.replace(weights, spec=dataclasses.replace(weights.spec, **changes))


def random_weights(recipe: str, *, classes: int, **input_changes: object) -> Weights:
    """Fresh weights of a recipe's network, with batch counters that differ."""
    config = load_config(recipe)
    state = build_model(config.model, num_classes=classes).state_dict()
    config = config.model_copy(update={"input": config.input.model_copy(update=input_changes)})
    state = {k: v + i if v.ndim == 0 else v for i, (k, v) in enumerate(state.items())}
    return make_weights(config, state, names=[f"kind {i}" for i in range(classes)])


def assert_equal(a: Weights, b: Weights) -> None:
    """Descriptions agree, and tensors bit for bit."""
    assert (a.spec, a.origin) == (b.spec, b.origin)
    assert a.state.keys() == b.state.keys()
    assert all(torch.equal(a.state[k], b.state[k]) for k in a.state)
    assert all(a.state[k].dtype == b.state[k].dtype for k in a.state)
