"""The folder of a run: its files, who may write there, the state in them, and how to go on.

``config.yaml`` is the whole configuration, ``last.pt`` the newest state, ``best.pt`` the state
with the best AP, ``epoch-0010.pt`` and so on older states where asked for, ``summary.json`` how
it ended. `oculox.training.log` and `oculox.training.curves` write the rest.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oculox.config import Config, config_to_dict, config_to_yaml, known_keys, load_config
from oculox.distributed.devices import processes_of
from oculox.errors import CheckpointError, ConfigError, TrainingError, UsageError
from oculox.files import free_path, make_folder, write_json, write_text
from oculox.training.build import Run
from oculox.training.log import check_trackers
from oculox.weights.bundle import Weights
from oculox.weights.checkpoint import load_training_state, save_checkpoint

CONFIG = "config.yaml"
LAST = "last.pt"
BEST = "best.pt"
SUMMARY = "summary.json"

# What may differ when a run goes on: where and how it runs, and what it writes, not what it is.
_FREE = {
    "data": ("root", "cache", "workers", "max_bad_images"),
    "data.train": ("images", "annotations"),
    "data.val": ("images", "annotations"),
    "train": (
        *("device", "max_steps", "early_stop", "log_interval", "trackers", "profile"),
        *("checkpoint_interval", "keep_checkpoints", "save_on_main_only"),
    ),
    "eval": ("batch", "max_bad_images"),
}
FREE_KEYS = frozenset(f"{section}.{key}" for section, keys in _FREE.items() for key in keys)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainProgress:
    """How far a run is.

    Attributes:
        epoch: finished epochs.
        step: finished steps.
        best_ap: best AP so far, -1 before the first evaluation.
        best_epoch: epoch (from 1) of the best AP, 0 before.
        evals_without_gain: evaluations since the best one.
    """

    epoch: int = 0
    step: int = 0
    best_ap: float = -1.0
    best_epoch: int = 0
    evals_without_gain: int = 0

    def scored(self, ap: float, *, epoch: int) -> TrainProgress:
        """After an evaluation at the end of an epoch (from 1)."""
        if ap > self.best_ap:
            return dataclasses.replace(self, best_ap=ap, best_epoch=epoch, evals_without_gain=0)
        return dataclasses.replace(self, evals_without_gain=self.evals_without_gain + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """How a run ended.

    Attributes:
        output: its folder.
        metrics: the 12 COCO metrics of the last evaluation by name.
        best_ap: best AP of all evaluations.
        best_epoch: its epoch, from 1.
        epochs: epochs done.
        steps: steps done.
        seconds: time of the last call, a resumed run's earlier calls not counted.
        stopped_early: whether early stopping or `max_steps` ended it.
    """

    output: Path
    metrics: Mapping[str, float]
    best_ap: float
    best_epoch: int
    epochs: int
    steps: int
    seconds: float
    stopped_early: bool

    @property
    def best(self) -> Path:
        """The best checkpoint."""
        return self.output / BEST

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        values = dataclasses.asdict(self)
        return {**values, "output": str(self.output), "best": str(self.best)}

    def write(self) -> None:
        """Write ``summary.json`` into the run's folder.

        Raises:
            OculoxError: when it cannot be written.
        """
        write_json(self.output / SUMMARY, self.as_dict())


def read_summary(folder: Path) -> TrainSummary:
    """The summary that a run left in its folder.

    Raises:
        TrainingError: when there is none.
    """
    try:
        values = json.loads((folder / SUMMARY).read_text("utf-8"))
        values.pop("best")
        return TrainSummary(**{**values, "output": folder})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder / SUMMARY}: no readable summary ({error})") from None


def settle_config(
    recipe: str | Path | Config | None,
    overrides: Sequence[str] = (),
    *,
    weights: Path | None = None,
    output: Path | None = None,
    resume: Path | None = None,
) -> Config:
    """The configuration of a run, once everything is refused that can be refused at once.

    Args:
        recipe: a recipe's name, a YAML file or a configuration; none for a resumed run.
        overrides: ``section.key=value``.
        weights: file to start a new run from.
        output: folder of a new run.
        resume: folder of a run to go on with.

    Raises:
        UsageError: the arguments or settings make no sense, or `output` holds a run.
        TrainingError: there is nothing to resume.
    """
    if resume is not None:
        words = [*([] if recipe is None else [recipe]), *overrides]
        changes = [word for word in words if isinstance(word, str) and "=" in word]
        if weights or output or changes != words:
            raise UsageError(
                "a resumed run has its own recipe, weights and folder: leave them out "
                "(oculox train --resume RUN_FOLDER [KEY=VALUE]...)"
            )
        config = resumed_config(resume, changes)
    elif recipe is None:
        raise UsageError("name a recipe (`oculox models` lists them) or a run to --resume")
    elif not isinstance(recipe, Config):
        config = load_config(recipe, overrides)
    elif overrides:
        raise UsageError("overrides go with a recipe or file, not with a ready Config")
    else:
        config = recipe
    if output is not None:
        check_free(output)
    check_trackers(config)
    return config


def check_free(folder: Path) -> None:
    """Refuse the folder of another run; one that holds other things is fine.

    Raises:
        UsageError: it holds a run.
    """
    if (folder / CONFIG).exists() or (folder / LAST).exists():
        raise UsageError(
            f"{folder}: holds another run; choose another --output, or go on with it: "
            f"oculox train --resume {folder}"
        )


def default_folder(config: Config) -> Path:
    """A folder below ``runs/`` that does not exist yet, named after the network."""
    return free_path(Path("runs") / config.model.name)


def create_folder(run: Run, output: Path | None) -> Path:
    """Create the folder of a run that is about to start; all processes get its name.

    Args:
        run: all its parts.
        output: the folder asked for; None for `default_folder`.

    Raises:
        OculoxError: it holds another run, or cannot be created.
    """
    folder = output
    if run.parts.accelerator.is_main_process:
        folder = folder or default_folder(run.config)
        check_free(folder)
        make_folder(folder)
        write_text(folder / CONFIG, config_to_yaml(run.config))
    # The main process's: another one may see its folder already, and number one more.
    first: Path = processes_of(run.parts.accelerator).gather([folder])[0]
    return first


def resumed_config(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration with which a run goes on: its own, and changes to `FREE_KEYS`.

    Raises:
        TrainingError: there is no run in the folder, or nothing that it could go on from.
        ConfigError: the changes concern what defines the run; the message names the keys.
    """
    for name in (CONFIG, LAST):
        if not (folder / name).is_file():
            raise TrainingError(f"{folder}: no {name}, so there is no run to resume")
    saved, config = load_config(folder / CONFIG), load_config(folder / CONFIG, overrides)
    values = {key: (attrgetter(key)(saved), attrgetter(key)(config)) for key in known_keys()}
    changed = [
        f"{key} ({before} then, {now} now)"
        for key, (before, now) in values.items()
        if before != now and key not in FREE_KEYS
    ]
    if changed:
        raise ConfigError(
            f"{folder}: the run was started with other settings: {', '.join(changed[:4])}; "
            "resume with the same, or start a new run from its best.pt with --weights"
        )
    return config


def save_run(run: Run, progress: TrainProgress, *, folder: Path, best: bool) -> None:
    """Write the state of a run, atomically: ``last.pt``, and what else is due.

    The raw weights and the average are both kept: a run goes on from the former and is
    evaluated with the latter.

    Raises:
        OculoxError: when a file cannot be written; the older one stays.
    """
    train, parts = run.config.train, run.parts
    names = []
    if parts.accelerator.is_main_process:
        names = [BEST] if best else []
        if train.keep_checkpoints:
            names.append(f"epoch-{progress.epoch:04}.pt")
        # Last, so that a crash while writing the others leaves a resumable run.
        names.append(LAST)
    elif not train.save_on_main_only:
        names = [f"last-rank{parts.accelerator.process_index}.pt"]
    if not names:
        return
    scaler = parts.accelerator.scaler
    network = parts.ema.network if parts.ema else parts.network
    weights = Weights(spec=run.spec, state=_on_cpu(network.state_dict()))
    training = {
        "config": config_to_dict(run.config),
        "progress": dataclasses.asdict(progress),
        "raw": _on_cpu(parts.network.state_dict()),
        "ema_updates": parts.ema.updates if parts.ema else 0,
        "optimizer": parts.optimizer.state_dict(),
        "scaler": scaler.state_dict() if scaler else None,
        # Augmentation and input sizes are functions of (seed, epoch, step) and need no state;
        # this covers what a custom network may draw.
        "rng": {"cpu": torch.get_rng_state()},
    }
    for name in names:
        save_checkpoint(folder / name, weights, training=training)
    if parts.accelerator.is_main_process and train.keep_checkpoints:
        trim_checkpoints(folder, keep=train.keep_checkpoints)


def restore_run(run: Run, folder: Path) -> TrainProgress:
    """Put the state in ``last.pt`` into the parts of a run.

    Raises:
        CheckpointError: when a part is missing or does not fit.
    """
    path, parts = folder / LAST, run.parts
    weights, training = load_training_state(path)
    try:
        parts.network.load_state_dict(training["raw"])
        if parts.ema is not None:
            parts.ema.network.load_state_dict(dict(weights.state))
            parts.ema.updates = int(training["ema_updates"])
        parts.optimizer.load_state_dict(training["optimizer"])
        if parts.accelerator.scaler is not None and training["scaler"] is not None:
            parts.accelerator.scaler.load_state_dict(training["scaler"])
        torch.set_rng_state(training["rng"]["cpu"])
        return TrainProgress(**training["progress"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        detail = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: its training state does not fit: {detail}") from None


def trim_checkpoints(folder: Path, *, keep: int) -> None:
    """Delete all but the newest `keep` of the numbered checkpoints."""
    # Shorter names first: epoch-10000 comes after epoch-9999.
    paths = sorted(folder.glob("epoch-*.pt"), key=lambda path: (len(path.name), path.name))
    for path in paths[: max(0, len(paths) - keep)]:
        path.unlink()


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu() for key, value in state.items()}
