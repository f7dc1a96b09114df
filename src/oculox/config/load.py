"""YAML in and out, recipes by name, and ``key=value`` overrides."""

from __future__ import annotations

import difflib
import os
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from oculox.addresses import Address, Location, is_address
from oculox.config.schema import Config, Place
from oculox.errors import ConfigError, RenamedKeyWarning

_RECIPES = resources.files("oculox") / "recipes"
_BASE = "base"
# Training settings that go with every network: `yolox-s-adamw` is `yolox-s` with `adamw.yaml`.
_OVERLAYS = ("adamw", "finetune")
_OFFICIAL = "official"

# What other projects call them.
_OTHER_NAMES = {
    "batch_size": "train.batch",
    "close_mosaic": "train.tail_epochs",
    "data": "data.root",
    "imgsz": "input.size",
    "lr0": "optimizer.lr",
    "no_aug_epochs": "train.tail_epochs",
    "patience": "train.early_stop",
}

_MOST_VALUES = 1_000_000
_LONGEST_VALUE = 200

RENAMED_KEYS = {
    "eval.max_detections": "eval.max_det",
    "eval.nms": "eval.iou",
    "train.no_aug_epochs": "train.tail_epochs",
    "train.tensorboard": "train.trackers",
}
"""Keys that saved configurations may hold by an old name, and their name now."""


def recipe_names() -> tuple[str, ...]:
    """Names of the networks' recipes, smallest network first."""
    return tuple(f"yolox-{name}" for name in ("nano", "tiny", "s", "m", "l", "x", "darknet53"))


def known_recipes() -> tuple[str, ...]:
    """Names of all recipes: the networks', then each of them with other training settings."""
    names = recipe_names()
    return (*names, *(f"{name}-{overlay}" for overlay in _OVERLAYS for name in names))


def load_config(
    source: str | Path, overrides: str | Sequence[str] = (), *, from_weights: bool = False
) -> Config:
    """Resolve a recipe's name or a YAML file, plus overrides, into a validated configuration.

    Args:
        source: a recipe (``yolox-s``, ``yolox-s-adamw``), or the path or address of a YAML file.
            A file may name another recipe or file (relative to itself) under ``extends``.
        overrides: ``section.key=value``, one or several; the value is YAML. ``recipe=NAME`` says
            which training settings a plain network's recipe gets, also where a file extends it:
            official, adamw or finetune.
        from_weights: without ``recipe=``, take finetune instead of official.

    Raises:
        ConfigError: unknown recipe, unreadable YAML, unknown key or invalid value.
    """
    overrides = [overrides] if isinstance(overrides, str) else overrides
    asked = [o.removeprefix("recipe=") for o in overrides if o.startswith("recipe=")]
    chosen = asked[-1] if asked else "finetune" if from_weights else _OFFICIAL
    tree = _read_tree(str(source), folder=Path(), settings=chosen)
    if asked and tree.get("recipe", _OFFICIAL) != chosen:
        raise ConfigError(
            f"recipe={chosen} goes with a network's plain recipe (yolox-s, say) or a file that "
            f"extends one; '{source}' has settings of its own"
        )
    others = [override for override in overrides if not override.startswith("recipe=")]
    return _overridden(tree, others, where=str(source))


def override_config(config: Config, overrides: Sequence[str]) -> Config:
    """See `Config.with_overrides`."""
    return _overridden(config_to_dict(config), overrides, where="configuration")


def _overridden(tree: dict[str, Any], overrides: Sequence[str], *, where: str) -> Config:
    for override in overrides:
        _apply_override(tree, override)
    return config_from_dict(tree, where=where)


def config_from_dict(tree: Mapping[str, Any], *, where: str) -> Config:
    """Validate a nested mapping; `where` names its origin in error messages.

    Keys by an old name are read under the new one, with a `RenamedKeyWarning`.

    Raises:
        ConfigError: an unknown key (naming the nearest known one) or an invalid value.
    """
    try:
        return Config.model_validate(_renamed(tree, where))
    except ValidationError as error:
        errors = error.errors(include_url=False)
        first = errors[0]
        if first["type"] == "extra_forbidden":
            key = ".".join(map(str, first["loc"]))
            raise ConfigError(f"{where}: unknown key '{key}'{_nearest_key(key)}") from None
        if first["type"] == "model_type":
            key, got = ".".join(map(str, first["loc"])), _shown(first["input"])
            meant = key_named(key)
            hint = f"; did you mean '{meant}'?" if meant else ""
            message = f"expected a section of settings, got {got}{hint}"
            raise ConfigError(f"{where}: {key}: {message}") from None
        # A key that takes a number or `auto` has an error for each of the two.
        key = _key_of(first["loc"])
        messages = [e["msg"] for e in errors if _key_of(e["loc"]) == key]
        message = "; or ".join(messages).removeprefix("Value error, ")
        got = "" if first["type"] == "value_error" else f" (got {_shown(first['input'])})"
        raise ConfigError(f"{where}: {key}: {message}{got}") from None


def _key_of(loc: Sequence[int | str]) -> str:
    """The key an error is about, without names of alternatives such as ``constrained-int``."""
    return ".".join(str(p) for p in loc if isinstance(p, int) or p.isidentifier())


def config_to_dict(config: Config) -> dict[str, Any]:
    """Plain values (str, int, float, bool, None, list, dict), as written to YAML."""
    return config.model_dump(mode="json")


def config_to_yaml(config: Config) -> str:
    """The whole resolved configuration as YAML that `load_config` reads back."""
    return "\n".join(
        _section_yaml(section, values) for section, values in config_to_dict(config).items()
    )


def known_keys() -> Iterator[str]:
    """Every dotted key of the configuration."""
    for key, _ in _fields(Config):
        yield key


def key_named(name: str) -> str | None:
    """The whole key that ends in a name, or that other projects call so; None for no such key."""
    there = (key for key in known_keys() if key.rpartition(".")[2] == name)
    return _OTHER_NAMES.get(name) or next(there, None)


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key with its annotation."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.annotation


@cache
def _text_keys() -> frozenset[str]:
    """The keys of names and paths."""
    return frozenset(
        key
        for key, annotation in _fields(Config)
        if {str, Place} & {annotation, *get_args(annotation)}
    )


def _section_yaml(section: str, values: object) -> str:
    """One key a line, its value in flow style: easier to scan than the emitter's choice."""
    if not isinstance(values, Mapping):
        return f"{section}: {_flow(values)}\n"
    rows = (f"  {key}: {_flow(value)}" for key, value in values.items())
    return "\n".join((f"{section}:", *rows)) + "\n"


def _flow(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip("\n")


class _BoundedLoader(yaml.SafeLoader):
    """Counts the values that a text stands for: aliases of aliases make a few lines endless."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._count = 0
        self._counts: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        before, is_alias = self._count, self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if not is_alias:
            self._count += 1
            self._counts[id(node)] = self._count - before
        elif id(node) in self._counts:
            self._count += self._counts[id(node)]
        else:
            raise yaml.YAMLError("an alias stands inside what it is an alias of")
        if self._count > _MOST_VALUES:
            raise yaml.YAMLError(f"it stands for more than {_MOST_VALUES:,} values")
        return node


def read_yaml(text: str) -> Any:
    """The plain values of a YAML text that is not trusted.

    Raises:
        ValueError: it is not YAML, nested too deeply or too large; one line says what.
    """
    try:
        return yaml.load(text, _BoundedLoader)  # noqa: S506
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        # Not all that PyYAML raises is its own, as on the date 2001-99-99.
        # The caller knows the file's name, PyYAML only that it was given a text.
        text = " ".join(str(error).split())
        raise ValueError(text.replace(' in "<unicode string>",', " at")) from None


def _shown(value: object) -> str:
    """A value in a message, however large."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _read_tree(
    source: str, *, folder: Location, settings: str = _OFFICIAL, seen: tuple[str, ...] = ()
) -> dict[str, Any]:
    parent: object = None
    if settings not in (_OFFICIAL, *_OVERLAYS):
        known = ", ".join((_OFFICIAL, *_OVERLAYS))
        raise ConfigError(f"'recipe={settings}': expected one of {known}")
    if settings != _OFFICIAL and source in recipe_names():
        source, settings = f"{source}-{settings}", _OFFICIAL
    if source in (*known_recipes(), _BASE):
        network, _, overlay = source.rpartition("-")
        file = source
        if overlay in _OVERLAYS:
            file, parent, settings = overlay, network, _OFFICIAL
        tree, where, here = _packaged(file), source, folder
    else:
        path = Address(source) if is_address(source) else folder / source
        try:
            if not path.is_file():
                raise ConfigError(_unknown_source(source, path))
            where = str(path.resolve() if isinstance(path, Path) else path)
            text, here = path.read_text("utf-8"), path.parent
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: not a readable text file ({error})") from None
        try:
            tree = read_yaml(text) or {}
        except ValueError as error:
            raise ConfigError(f"{where}: not valid YAML: {error}") from None
    if where in seen:
        raise ConfigError(f"{where}: 'extends' forms a cycle: {' extends '.join((*seen, where))}")
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: expected a mapping of sections, got {type(tree).__name__}")
    # A section without keys (all commented out, say) is null in YAML.
    tree = _renamed({key: value for key, value in tree.items() if value is not None}, where)
    parent = tree.pop("extends", parent)
    if parent is None:
        return tree
    if not isinstance(parent, str):
        raise ConfigError(f"{where}: extends must name a recipe or file, got {_shown(parent)}")
    below = _read_tree(parent, folder=here, settings=settings, seen=(*seen, where))
    return _merge(below, tree)


@cache
def _packaged(file: str) -> dict[str, Any]:
    tree = read_yaml((_RECIPES / f"{file}.yaml").read_text("utf-8"))
    assert isinstance(tree, dict)
    return tree


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = (
            _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
        )
    return merged


def _renamed(tree: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The tree with today's names; a key that is there by both names stays, and is refused."""
    result = dict(tree)
    for old, new in RENAMED_KEYS.items():
        (section, before), after = old.split("."), new.split(".")[1]
        values = result.get(section)
        if isinstance(values, dict) and before in values and after not in values:
            values = {after if k == before else k: v for k, v in values.items()}
            if old == "train.tensorboard":  # a switch became a list
                values[after] = ["tensorboard"] if values[after] is True else []
            result[section] = values
            message = f"{where}: '{old}' is called '{new}' now"
            warnings.warn(message, RenamedKeyWarning, stacklevel=2)
    return result


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        there = os.path.exists(override)  # noqa: PTH110 - false for names that are too long
        hint = f"; did you mean data.root={override}?" if there else ""
        raise ConfigError(f"'{override}': a setting looks like section.key=value{hint}")
    if key in RENAMED_KEYS:
        raise ConfigError(f"'{override}': '{key}' is called '{RENAMED_KEYS[key]}' now")
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    is_text = key in _text_keys() and not is_quoted and text not in ("", "~", "null")
    try:
        # Names and paths are taken as they stand: a folder may be called 2017, or `a #1`.
        value = text if is_text else read_yaml(text)
    except ValueError:
        raise ConfigError(f"'{override}': the value is not valid YAML") from None
    if isinstance(value, str) and key not in _text_keys():
        value = _number(value)
    *sections, leaf = key.split(".")
    node = tree
    for section in sections:
        below = node.get(section)
        node[section] = dict(below) if isinstance(below, dict) else {}
        node = node[section]
    node[leaf] = value


def _number(text: str) -> str | float:
    """YAML 1.1 reads ``1e-3`` as text; people mean a number."""
    try:
        return float(text)
    except ValueError:
        return text


def _unknown_source(source: str, path: Location) -> str:
    if path.suffix.lower() in (".yaml", ".yml") and not path.exists():
        return f"{path}: no such file; `oculox models` lists the recipes that need none"
    if isinstance(path, Path) and path.is_dir():
        command = shlex.join(("oculox", "train", "yolox-s", f"data.root={source}"))
        return f"'{source}' is a folder, not a recipe; to train on a dataset: {command}"
    close = difflib.get_close_matches(source, known_recipes(), n=1, cutoff=0.4)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    known, endings = ", ".join(recipe_names()), " or ".join(f"-{name}" for name in _OVERLAYS)
    return (
        f"'{source}' is neither a recipe nor a YAML file{hint} "
        f"(recipes: {known}, each also with {endings})"
    )


def _nearest_key(key: str) -> str:
    """A hint: the same name in another section, else the most similar key or name."""
    keys = list(known_keys())
    leaf = key.rsplit(".", 1)[-1]
    leaves = {k.rsplit(".", 1)[-1]: k for k in keys}
    close = [meant] if (meant := key_named(leaf)) else []
    close = close or difflib.get_close_matches(key, (*keys, *Config.model_fields), n=1, cutoff=0.5)
    close = close or [leaves[c] for c in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.6)]
    return f"; did you mean '{close[0]}'?" if close else "; see `oculox config yolox-s`"
