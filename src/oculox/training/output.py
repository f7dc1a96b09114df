"""The folder of a run: claiming it, reading its configuration, keeping it tidy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oculox.config import Config, config_to_dict, load_config
from oculox.errors import ConfigError, TrainingError
from oculox.training.state import LAST

CONFIG = "config.yaml"

# What may differ when a run goes on: where and how it runs, and what it writes, not what it is.
_FREE_KEYS = frozenset(
    {
        "data.root",
        "data.train.images",
        "data.train.annotations",
        "data.val.images",
        "data.val.annotations",
        "data.cache",
        "data.workers",
        "train.device",
        "train.log_interval",
        "train.checkpoint_interval",
        "train.keep_checkpoints",
        "train.save_on_main_only",
        "train.early_stop",
        "train.max_steps",
        "train.tensorboard",
        "train.profile",
        "eval.batch",
    }
)
# Taken from the starting weights, so that a recipe need not say them again.
_FROM_WEIGHTS = frozenset({"input.color", "input.pixel_max", "input.placement", "input.pad_value"})


def claim_output(output: Path, *, resume: bool) -> None:
    """Make sure that the folder can take this run.

    Raises:
        TrainingError: it holds another run, or (resuming) none, or cannot be created.
    """
    if resume:
        if not (output / LAST).is_file():
            raise TrainingError(f"{output}: no {LAST} to resume from")
        return
    if (output / CONFIG).exists() or (output / LAST).exists():
        raise TrainingError(
            f"{output}: holds another run; choose another --output, or --resume to go on with it"
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{output}: cannot be created ({error.strerror})") from None


def settled_config(output: Path, config: Config) -> Config:
    """The configuration with which a run goes on.

    Raises:
        TrainingError: there is no run in the folder.
        ConfigError: the one given differs in what defines the run; the message names the keys.
    """
    path = output / CONFIG
    if not path.is_file():
        raise TrainingError(f"{output}: no {CONFIG}, so there is no run to resume")
    saved = load_config(path)
    before, now = _flat(config_to_dict(saved)), _flat(config_to_dict(config))
    changed = [
        f"{key} ({before[key]} then, {now[key]} now)"
        for key in before
        if before[key] != now[key] and key not in _FREE_KEYS | _FROM_WEIGHTS
    ]
    if changed:
        raise ConfigError(
            f"{output}: the run was started with other settings: {', '.join(changed[:4])}; "
            "resume with the same, or start a new run from its best.pt with --weights"
        )
    return config.model_copy(update={"input": saved.input})


def trim_checkpoints(output: Path, *, keep: int) -> None:
    """Delete all but the newest `keep` of the numbered checkpoints."""
    # Shorter names first: epoch-10000 comes after epoch-9999.
    paths = sorted(output.glob("epoch-*.pt"), key=lambda path: (len(path.name), path.name))
    for path in paths[: max(0, len(paths) - keep)]:
        path.unlink()


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
