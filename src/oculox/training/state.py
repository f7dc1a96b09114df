"""Everything a run needs to go on exactly where it stopped, as plain values and tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oculox.config import Config, config_to_dict
from oculox.config.schema import InputConfig
from oculox.errors import CheckpointError
from oculox.models import YOLOX
from oculox.training.ema import Ema
from oculox.types import ModelSpec
from oculox.weights.bundle import Weights
from oculox.weights.checkpoint import save_checkpoint

LAST = "last.pt"
BEST = "best.pt"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
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


def save_run(
    paths: list[Path],
    *,
    config: Config,
    spec: ModelSpec,
    network: YOLOX,
    ema: Ema | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    progress: Progress,
) -> None:
    """Write the state of a run to each path, atomically.

    The raw weights and the average are both kept: a run goes on from the former and is
    evaluated with the latter.

    Raises:
        OculoxError: when a file cannot be written; the older one stays.
    """
    network_in_use = network if ema is None else ema.network
    weights = Weights(spec=spec, state=_on_cpu(network_in_use.state_dict()))
    training: dict[str, Any] = {
        "config": config_to_dict(config),
        "progress": dataclasses.asdict(progress),
        "raw": _on_cpu(network.state_dict()),
        "ema_updates": 0 if ema is None else ema.updates,
        "optimizer": optimizer.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "rng": _rng_state(),
    }
    for path in paths:
        save_checkpoint(path, weights, training=training)


def restore_run(
    weights: Weights,
    training: Mapping[str, Any],
    *,
    where: str,
    network: YOLOX,
    ema: Ema | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
) -> Progress:
    """Put a saved state into the parts of a run.

    Raises:
        CheckpointError: when a part is missing or does not fit.
    """
    try:
        network.load_state_dict(training["raw"])
        if ema is not None:
            ema.network.load_state_dict(dict(weights.state))
            ema.updates = int(training["ema_updates"])
        optimizer.load_state_dict(training["optimizer"])
        if scaler is not None and training["scaler"] is not None:
            scaler.load_state_dict(training["scaler"])
        torch.set_rng_state(training["rng"]["cpu"])
        return Progress(**training["progress"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        detail = str(error).splitlines()[0]
        raise CheckpointError(f"{where}: its training state does not fit: {detail}") from None


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu() for key, value in state.items()}


def _rng_state() -> dict[str, Tensor]:
    # Augmentation and input sizes are functions of (seed, epoch, step) and need no state; this
    # covers what a custom network may draw.
    return {"cpu": torch.get_rng_state()}


def input_of(weights: Weights, config: Config) -> InputConfig:
    """The run's input section with the preprocessing that the starting weights were trained with.

    The size stays the run's own; colour order, range, placement and padding are facts of the
    weights.
    """
    return weights.spec.input.at(config.input.size)
