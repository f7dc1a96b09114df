"""Weights with descriptions of their own, for tests."""

import dataclasses

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
