"""``oculox config`` and ``oculox models``."""

from oculox.cli import options as o
from oculox.cli.console import print_json, say
from oculox.cli.train import Overrides, Recipe


def config(recipe: Recipe, overrides: Overrides = None, json: o.Json = False) -> None:
    """Print the whole configuration of a recipe.

    Redirect it to a file to keep it; `oculox train` takes that file in place of a recipe.
    """
    from oculox.config import config_to_dict, config_to_yaml, load_config

    resolved = load_config(recipe, overrides or ())
    if json:
        print_json(config_to_dict(resolved))
    else:
        say(config_to_yaml(resolved).rstrip())


def models(json: o.Json = False) -> None:
    """List the networks with their cost and published AP."""
    from oculox.api import list_models

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
