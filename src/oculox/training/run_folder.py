"""The folder of a run: its files, who may write there, the state in them, and how to go on.

``config.yaml`` is the whole configuration, ``last.pt`` the newest state, ``best.pt`` the weights
with the best AP, ``epoch-0010.pt`` and so on older states where asked for, ``summary.json`` how
it ended. `oculox.training.log` and `oculox.training.curves` write the rest.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from oculox.config import Config, config_to_dict, config_to_yaml, known_keys, load_config
from oculox.distributed.devices import processes_of
from oculox.errors import CheckpointError, ConfigError, OculoxError, TrainingError, UsageError
from oculox.files import free_path, make_folder, write_json, write_text
from oculox.training.build import Run
from oculox.training.log import check_trackers
from oculox.training.schedule import plan_epochs
from oculox.weights.bundle import Weights
from oculox.weights.checkpoint import load_training_state, save_checkpoint

CONFIG = "config.yaml"
LAST = "last.pt"
BEST = "best.pt"
SUMMARY = "summary.json"

# What may differ when a run goes on: where and how it runs, and what it writes, not what it is.
_FREE = {
    "data": ("root", "cache", "workers"),
    "data.train": ("images", "annotations"),
    "data.val": ("images", "annotations"),
    "train": (
        *("device", "max_steps", "early_stop", "log_interval", "trackers", "profile"),
        *("checkpoint_interval", "keep_checkpoints", "save_on_main_only"),
    ),
    "eval": ("batch",),
}
FREE_KEYS = frozenset(f"{section}.{key}" for section, keys in _FREE.items() for key in keys)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainProgress:
    """How far a run is.

    Attributes:
        epoch: finished epochs, with the evaluation at their end.
        step: finished steps.
        best_ap: best AP so far, -1 before the first evaluation and where there is none, since
            the validation split has no objects.
        best_epoch: epoch (from 1) of the best AP, 0 before.
        evals_without_gain: evaluations since the best one.
    """

    epoch: int = 0
    step: int = 0
    best_ap: float = -1.0
    best_epoch: int = 0
    evals_without_gain: int = 0

    def scored(self, ap: float, *, epoch: int) -> TrainProgress:
        """After an evaluation at the end of an epoch (from 1).

        Without an AP to compare the newest weights are the best.
        """
        if ap > self.best_ap or self.best_ap < 0:
            return dataclasses.replace(self, best_ap=ap, best_epoch=epoch, evals_without_gain=0)
        return dataclasses.replace(self, evals_without_gain=self.evals_without_gain + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """How a run ended.

    Attributes:
        output: its folder.
        metrics: the 12 COCO metrics of the last evaluation by name.
        best_ap: best AP of all evaluations, -1 where the validation split has no objects.
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


def finished_run(config: Config, folder: Path) -> TrainSummary | None:
    """The summary of a run that has nothing left to do; None where there is something.

    Args:
        config: with which it would go on.
        folder: of the run.

    Raises:
        OculoxError: its summary or its ``last.pt`` cannot be read.
    """
    if not (folder / SUMMARY).is_file() or not (folder / LAST).is_file():
        return None
    summary, train = read_summary(folder), config.train
    progress = TrainProgress(**load_training_state(folder / LAST)[1]["progress"])
    ended = (
        progress.epoch >= count_epochs(config)
        or progress.step >= (train.max_steps or math.inf)
        or 0 < train.early_stop <= progress.evals_without_gain
    )
    # Killed between its last checkpoint and its summary, a run evaluates once more.
    return summary if ended and summary.steps == progress.step else None


def count_epochs(config: Config) -> int:
    """How many epochs a configuration asks for."""
    return plan_epochs(config.train, warmup_epochs=config.schedule.warmup_epochs).total


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

    So is a run that ended before its first checkpoint: there is nothing of it to lose.

    Raises:
        UsageError: it holds a run.
    """
    if (folder / LAST).exists() or (folder / CONFIG).exists():
        if _is_without_steps(folder) and not _is_held(folder):
            return
        raise UsageError(
            f"{folder}: holds another run; choose another --output, or go on with it: "
            f"oculox train --resume {folder}"
        )


def _is_without_steps(folder: Path) -> bool:
    """Whether the files are those of a run that has saved no step, and nobody else's."""
    path = folder / CONFIG
    try:
        if (folder / LAST).exists():
            return bool(load_training_state(folder / LAST)[1]["progress"]["step"] == 0)
        # A run's own file is complete; one that a person wrote is not, or has other words.
        return path.read_text("utf-8") == config_to_yaml(load_config(path))
    except (OSError, UnicodeDecodeError, KeyError, OculoxError):
        return False


@contextmanager
def hold_folder(folder: Path, *, enabled: bool) -> Iterator[None]:
    """Keep other processes from training in a folder, where the system has file locks.

    The system lets the folder go when this process ends, however it ends.

    Raises:
        UsageError: another process trains there.
    """
    with (folder / CONFIG).open("rb") as file:
        # The processes of a run that was killed need a second or two to end.
        patience = time.monotonic() + 3
        while enabled and not _lock(file):
            if time.monotonic() > patience:
                raise UsageError(
                    f"{folder}: another process is training this run; wait for its end"
                )
            time.sleep(0.1)
        yield


def _is_held(folder: Path) -> bool:
    if not (folder / CONFIG).exists():
        return False
    with (folder / CONFIG).open("rb") as file:
        return not _lock(file)


def _lock(file: BinaryIO) -> bool:
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A network's file system may have no locks.
        return True
    return True


def default_folder(config: Config) -> Path:
    """A folder below ``runs/`` that does not exist yet, named after the network."""
    return free_path(Path("runs") / config.model.name)


def create_folder(run: Run, output: Path | None, *, from_weights: bool) -> Path:
    """Create the folder of a run that is about to start; all processes get its name.

    Args:
        run: all its parts.
        output: the folder asked for; None for `default_folder`.
        from_weights: whether the network is not the fresh one of the configuration.

    Raises:
        OculoxError: it holds another run, or cannot be created.
    """
    folder = output
    if run.parts.accelerator.is_main_process:
        folder = folder or default_folder(run.config)
        check_free(folder)
        make_folder(folder)
        (folder / LAST).unlink(missing_ok=True)
        if from_weights:
            # First: `config.yaml` does not hold the weights that the run starts from.
            save_last(run, TrainProgress(), folder=folder)
        write_text(folder / CONFIG, config_to_yaml(run.config))
    # The main process's: another one may see its folder already, and number one more.
    first: Path = processes_of(run.parts.accelerator).gather([folder])[0]
    return first


def resumed_config(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration with which a run goes on: its own, and changes to `FREE_KEYS`.

    ``train.epochs`` may be raised. The learning rate and the phases are then those of a run of
    the new length, from the step that was reached.

    Raises:
        UsageError: it is a file.
        TrainingError: there is no run in the folder.
        ConfigError: the changes concern what defines the run; the message names the keys.
    """
    if folder.is_file():
        raise UsageError(
            f"{folder}: --resume takes the folder of a run, which goes on from its last.pt; to "
            f"start a new run from these weights: oculox train RECIPE --weights {folder}"
        )
    if not (folder / CONFIG).is_file():
        raise TrainingError(f"{folder}: no {CONFIG}, so there is no run to resume")
    saved, config = load_config(folder / CONFIG), load_config(folder / CONFIG, overrides)
    values = {key: (attrgetter(key)(saved), attrgetter(key)(config)) for key in known_keys()}
    longer = {"train.epochs"} if count_epochs(config) > count_epochs(saved) else set()
    changed = [
        f"{key} ({before} then, {now} now)"
        for key, (before, now) in values.items()
        if before != now and key not in FREE_KEYS | longer
    ]
    if changed:
        raise ConfigError(
            f"{folder}: the run was started with other settings: {', '.join(changed[:4])}; "
            "resume with the same (only train.epochs may be raised), or start a new run from its "
            "best.pt with --weights"
        )
    return config


def keep_length(config: Config, folder: Path) -> None:
    """Write a raised ``train.epochs`` into ``config.yaml``, for the next resume.

    Raises:
        OculoxError: when it cannot be written.
    """
    saved = load_config(folder / CONFIG)
    if saved.train.epochs != config.train.epochs:
        train = saved.train.model_copy(update={"epochs": config.train.epochs})
        longer = saved.model_copy(update={"train": train})
        write_text(folder / CONFIG, config_to_yaml(longer))


def save_last(run: Run, progress: TrainProgress, *, folder: Path) -> None:
    """Write the state of a run to ``last.pt``, atomically.

    The raw weights and the average are both kept: a run goes on from the former and is
    evaluated with the latter.

    Raises:
        OculoxError: when the file cannot be written; the older one stays.
    """
    accelerator = run.parts.accelerator
    if accelerator.is_main_process:
        _save(run, progress, folder / LAST)
    elif not run.config.train.save_on_main_only:
        _save(run, progress, folder / f"last-rank{accelerator.process_index}.pt")


def save_run(run: Run, progress: TrainProgress, *, folder: Path, best: bool) -> None:
    """Write the state of a run after an epoch: ``last.pt``, and what else is due.

    Raises:
        OculoxError: when a file cannot be written; the older one stays.
    """
    keep = run.config.train.keep_checkpoints
    if run.parts.accelerator.is_main_process:
        if best:
            _save(run, progress, folder / BEST, resumable=False)
        if keep:
            _save(run, progress, folder / f"epoch-{progress.epoch:04}.pt")
            trim_checkpoints(folder, keep=keep)
    # Last, so that a crash while writing the others leaves a resumable run.
    save_last(run, progress, folder=folder)


def _save(run: Run, progress: TrainProgress, path: Path, *, resumable: bool = True) -> None:
    parts = run.parts
    scaler = parts.accelerator.scaler
    network = parts.ema.network if parts.ema else parts.network
    weights = Weights(spec=run.spec, state=_on_cpu(network.state_dict()))
    training: dict[str, Any] = {
        "config": config_to_dict(run.config),
        "progress": dataclasses.asdict(progress),
    }
    if resumable:
        training |= {
            "raw": _on_cpu(parts.network.state_dict()),
            "ema_updates": parts.ema.updates if parts.ema else 0,
            "optimizer": parts.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            # Augmentation and input sizes are functions of (seed, epoch, step) and need no
            # state; this covers what a custom network may draw.
            "rng": {"cpu": torch.get_rng_state()},
        }
    save_checkpoint(path, weights, training=training)


def restore_run(run: Run, folder: Path) -> TrainProgress:
    """Put the state in ``last.pt`` into the parts of a run.

    A run that was ended before it had one starts from its first step.

    Raises:
        CheckpointError: when a part is missing or does not fit.
    """
    path, parts = folder / LAST, run.parts
    if not path.exists():
        return TrainProgress()
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
