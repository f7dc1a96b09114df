"""`list_models`: the networks, with their cost."""

from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from oculox.config import load_config, recipe_names
from oculox.models import build_model
from oculox.weights.catalogue import find_published


def list_models() -> list[dict[str, Any]]:
    """The seven networks: size, cost and what their official weights reach.

    A multiplication and its addition count as two operations, as in the published tables.

    Returns:
        One row a network: `name`, `parameters` and `gflops` at 80 classes, `input` (height and
        width), and of the official weights `published_ap` (COCO val2017, percent) and `source`,
        their URL.
    """
    return [dict(row) for row in _models()]


@cache
def _models() -> list[dict[str, Any]]:
    rows = []
    for name in recipe_names():
        config = load_config(name)
        height, width = config.input.size
        published = find_published(name)
        with torch.device("meta"):
            network = build_model(config.model, num_classes=80).eval()
            counter = FlopCounterMode(display=False)
            with counter, torch.no_grad():
                network(torch.empty(1, 3, height, width))
        rows.append(
            {
                "name": name,
                "parameters": sum(p.numel() for p in network.parameters()),
                "gflops": counter.get_total_flops() / 1e9,
                "input": [height, width],
                "published_ap": published.ap,
                "source": published.url,
            }
        )
    return rows
