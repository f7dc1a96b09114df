"""Typed, frozen, validated configuration."""

from oculox.config.load import (
    config_from_dict,
    config_to_dict,
    config_to_yaml,
    key_named,
    known_keys,
    known_recipes,
    load_config,
    recipe_names,
)
from oculox.config.schema import Config

__all__ = [
    "Config",
    "config_from_dict",
    "config_to_dict",
    "config_to_yaml",
    "key_named",
    "known_keys",
    "known_recipes",
    "load_config",
    "recipe_names",
]
