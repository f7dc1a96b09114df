"""The checkpoints of a run: what is in them, when they are written, how a run goes on from one.

``last.pt`` is the newest state, ``previous.pt`` the one before, ``best.pt`` the weights with the
best AP, ``epoch-0010.pt`` and so on older states (`train.keep_checkpoints`).
"""

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from oculox.addresses import Address, Location
from oculox.config import config_to_dict
from oculox.errors import CheckpointError, TrainingError, first_line
from oculox.training.build import Run
from oculox.training.stop import resume_command
from oculox.weights.bundle import Weights
from oculox.weights.checkpoint import load_training_state, save_checkpoint

LAST = "last.pt"
PREVIOUS = "previous.pt"
BEST = "best.pt"


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

    def scored(self, ap: float, *, epoch: int) -> Self:
        """After an evaluation at the end of an epoch (from 1).

        Without an AP to compare the newest weights are the best.
        """
        if ap > self.best_ap or self.best_ap < 0:
            return dataclasses.replace(self, best_ap=ap, best_epoch=epoch, evals_without_gain=0)
        return dataclasses.replace(self, evals_without_gain=self.evals_without_gain + 1)


def save_last(run: Run, progress: TrainProgress, *, folder: Path) -> None:
    """Write the state of a run to ``last.pt``, atomically; the one there becomes ``previous.pt``.

    The raw weights and the average are both kept: a run goes on from the former and is
    evaluated with the latter.

    Raises:
        OculoxError: when the file cannot be written; the older one stays.
        TrainingError: the network has values that are not finite; the older one stays.
    """
    _require_finite(run, progress)
    _write_last(run, progress, folder)


def _write_last(run: Run, progress: TrainProgress, folder: Path) -> None:
    accelerator = run.parts.accelerator
    if accelerator.is_main_process:
        # A second name, so that there is a ``last.pt`` at every moment. Some file systems have no
        # links; there is no state before then.
        with contextlib.suppress(OSError):
            (folder / PREVIOUS).unlink(missing_ok=True)
            os.link(folder / LAST, folder / PREVIOUS)
        _save(run, progress, folder / LAST)
    elif not run.config.train.save_on_main_only:
        _save(run, progress, folder / f"last-rank{accelerator.process_index}.pt")


def save_run(run: Run, progress: TrainProgress, *, folder: Path, best: bool) -> None:
    """Write the state of a run after an epoch: ``last.pt``, and what else is due.

    Raises:
        OculoxError: when a file cannot be written; the older one stays.
        TrainingError: the network has values that are not finite; the older ones stay.
    """
    _require_finite(run, progress)
    keep = run.config.train.keep_checkpoints
    if run.parts.accelerator.is_main_process:
        if best:
            _save(run, progress, folder / BEST, resumable=False)
        # A run that ends inside an epoch has not reached the state that a number names.
        if keep and progress.step == progress.epoch * run.train_loader.steps_per_epoch:
            _save(run, progress, folder / f"epoch-{progress.epoch:04}.pt")
            trim_checkpoints(folder, keep=keep)
    # Last, so that a crash while writing the others leaves a resumable run.
    _write_last(run, progress, folder)


def _require_finite(run: Run, progress: TrainProgress) -> None:
    """Refuse to save a network that trained itself into what no run could go on from.

    The loss does not see all of it: the statistics of batch norms count in evaluation alone.
    """
    parts = run.parts
    states = {"the network": parts.network.state_dict()}
    if parts.ema is not None:
        states["the average"] = parts.ema.network.state_dict()
    for number, values in parts.optimizer.state_dict()["state"].items():
        states[f"the optimizer's parameter {number}"] = values
    for where, state in states.items() if progress.step else ():
        for key, value in state.items():
            if isinstance(value, Tensor) and not value.isfinite().all():
                raise TrainingError(
                    f"'{key}' of {where} is not finite after step {progress.step}; not saved, "
                    "checkpoints before it are intact. Resume from them with a lower optimizer.lr, "
                    "optimizer.clip_grad_norm=10, or train.precision=bf16 instead of fp16"
                )


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
            "rng": _random_states(parts.accelerator.device),
        }
    save_checkpoint(path, weights, training=training)


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def is_state(path: Location) -> bool:
    """Whether a file has the name of a checkpoint that a run can go on from."""
    return path.name in (LAST, PREVIOUS) or fnmatch(path.name, "epoch-*.pt")


def has_state(folder: Location) -> bool:
    """Whether a folder holds a checkpoint that a run can go on from."""
    if isinstance(folder, Address):
        return (folder / LAST).is_file()
    return folder.is_dir() and any(map(is_state, folder.iterdir()))


def state_file(resume: Path) -> Path:
    """The checkpoint to go on from: ``last.pt`` of a folder, or the file itself."""
    return resume if resume.is_file() else resume / LAST


def restore_run(run: Run, resume: Path) -> TrainProgress:
    """Put a saved state into the parts of a run.

    A run that was ended before it had one starts from its first step.

    Args:
        run: all its parts.
        resume: its folder, for ``last.pt``, or a checkpoint in there.

    Raises:
        CheckpointError: it is damaged, missing where there are others, or does not fit; the
            message names another state to go on from.
    """
    path, parts = state_file(resume), run.parts
    if not path.exists() and not has_state(path.parent):
        return TrainProgress()
    try:
        weights, training = load_training_state(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_another_state(path)}") from None
    try:
        parts.network.load_state_dict(training["raw"])
        if parts.ema is not None:
            parts.ema.network.load_state_dict(dict(weights.state))
            parts.ema.updates = int(training["ema_updates"])
        parts.optimizer.load_state_dict(training["optimizer"])
        if parts.accelerator.scaler is not None and training["scaler"] is not None:
            parts.accelerator.scaler.load_state_dict(training["scaler"])
        torch.set_rng_state(training["rng"]["cpu"])
        if parts.accelerator.device.type == "cuda" and "cuda" in training["rng"]:
            torch.cuda.set_rng_state(training["rng"]["cuda"], parts.accelerator.device)
        return TrainProgress(**training["progress"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        detail = first_line(error)
        raise CheckpointError(f"{path}: its training state does not fit: {detail}") from None


def steps_of(state: Path) -> int | None:
    """After how many steps a checkpoint was saved; None where no run can go on from it."""
    try:
        return int(load_training_state(state)[1]["progress"]["step"])
    except (CheckpointError, KeyError, TypeError):
        return None


def _another_state(damaged: Path) -> str:
    """How to go on with a run from its newest state that is whole."""
    folder = damaged.parent
    states = [(steps_of(path), path) for path in folder.iterdir() if is_state(path)]
    found = [(step, path) for step, path in states if step is not None]
    if not found:
        return f"{folder} holds no other state of the run: start it again"
    step, path = max(found)
    return f"the state after step {step} is whole, resume from it with: {resume_command(path)}"


def trim_checkpoints(folder: Path, *, keep: int) -> None:
    """Delete all but the newest `keep` of the numbered checkpoints."""
    # Shorter names first: epoch-10000 comes after epoch-9999.
    paths = sorted(folder.glob("epoch-*.pt"), key=lambda path: (len(path.name), path.name))
    for path in paths[: max(0, len(paths) - keep)]:
        path.unlink()


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu() for key, value in state.items()}
