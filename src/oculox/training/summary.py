"""How a run ended, as a value and as ``summary.json``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oculox.errors import TrainingError
from oculox.files import write_text
from oculox.training.state import BEST

SUMMARY = "summary.json"


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


def write_summary(summary: TrainSummary) -> None:
    """Write ``summary.json`` into the run's folder.

    Raises:
        OculoxError: when it cannot be written.
    """
    text = json.dumps(summary.as_dict(), indent=1) + "\n"
    write_text(summary.output / SUMMARY, text)


def read_summary(output: Path) -> TrainSummary:
    """The summary that a run left in its folder.

    Raises:
        TrainingError: when there is none.
    """
    try:
        values = json.loads((output / SUMMARY).read_text("utf-8"))
        values.pop("best")
        return TrainSummary(**{**values, "output": output})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{output / SUMMARY}: no readable summary ({error})") from None
