"""``oculox config`` and ``oculox models``."""

from __future__ import annotations

from typing import Annotated

import typer

from oculox.api import list_models
from oculox.cli.console import print_json, say
from oculox.cli.train import Overrides, Recipe
from oculox.config import config_to_dict, config_to_yaml, load_config

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def config(recipe: Recipe, overrides: Overrides = None, json: JsonFlag = False) -> None:
    """Print the whole resolved configuration; redirect it to a file to keep it as a recipe."""
    resolved = load_config(recipe, overrides or ())
    if json:
        print_json(config_to_dict(resolved))
    else:
        say(config_to_yaml(resolved).rstrip())


def models(json: JsonFlag = False) -> None:
    """List the networks: parameters, FLOPs, input size and published AP."""
    rows = list_models()
    if json:
        print_json(rows)
        return
    say(f"{'recipe':<16} {'parameters':>12} {'GFLOPs':>8} {'input':>6} {'published AP':>13}")
    for row in rows:
        say(
            f"{row['name']:<16} {row['parameters']:>12,} {row['gflops']:>8.2f} "
            f"{row['input'][0]:>6} {row['published_ap']:>13.1f}"
        )
    say("AP on COCO val2017 as published for the official weights; FLOPs at the input size given")
