"""Experiment trackers: numbers, images and weights of a run for TensorBoard, MLflow and others."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from oculox.config import Config, known_keys
from oculox.data.image import read_image
from oculox.errors import (
    MissingExtraError,
    OculoxWarning,
    TrainingError,
    UsageError,
    first_line,
)

FOLDER = "trackers"
_MOST_FAILURES = 3

_EXTRAS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "comet_ml": "comet"}


def check_trackers(config: Config) -> None:
    """Refuse trackers whose packages are absent.

    Raises:
        UsageError: one is; the message says what to install.
    """
    for name in config.train.trackers:
        if find_spec(name) is None:
            purpose = f"train.trackers=[{name}]"
            if name in _EXTRAS:
                raise MissingExtraError(package=name, extra=_EXTRAS[name], purpose=purpose)
            raise UsageError(f"{purpose} needs a package; run: pip install {name}")


class Trackers:
    """The open trackers of a run, in the main process; in all others nothing happens."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._failures: Counter[str] = Counter()

    def log(self, values: dict[str, float], step: int) -> list[str]:
        """Numbers of a step.

        Returns:
            What went wrong, in words, once for each tracker: a server that is away must not cost
            a training run. A tracker that failed three times is not asked again, since it may
            wait for its server each time.
        """
        notes = []
        for tracker in self._accelerator.trackers:
            name = tracker.name
            if self._failures[name] == _MOST_FAILURES:
                continue
            try:
                tracker.log(values, step=step)
            except Exception as error:  # noqa: BLE001 - each tracker has its own
                self._failures[name] += 1
                if self._failures[name] == 1:
                    notes.append(
                        f"{name} does not take the numbers of step {step} ({first_line(error)}); "
                        "log.jsonl has them all, and training continues"
                    )
        return notes

    def image(self, path: Path, *, step: int) -> None:
        """An image file of a step, for the trackers that show images."""
        for tracker in self._accelerator.trackers:
            if tracker.name == "mlflow":
                tracker.log_artifact(str(path), f"images/step-{step:06}")
            elif tracker.name in ("tensorboard", "wandb", "swanlab"):
                rgb = np.ascontiguousarray(read_image(path)[..., ::-1])
                order = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({path.stem: rgb[None]}, step=step, **order)

    def checkpoint(self, path: Path) -> None:
        """A file of weights, for the trackers that keep files."""
        for tracker in self._accelerator.trackers:
            if tracker.name == "mlflow":
                tracker.log_artifact(str(path), "checkpoints")
            elif tracker.name == "wandb":
                run = tracker.tracker
                run.log_artifact(str(path), name=f"{run.id}-{path.stem}", type="model")


@contextmanager
def open_trackers(
    accelerator: Accelerator, config: Config, *, folder: Path, resume_step: int = 0
) -> Iterator[Trackers]:
    """Open accelerate's trackers in ``train.trackers``, and close them at the end.

    TensorBoard continues a resumed run; other trackers get a new run.

    Raises:
        TrainingError: one cannot be opened.
    """
    accelerator.log_with = list(config.train.trackers)
    accelerator.project_configuration.set_directories(str(folder / FOLDER))
    options = {
        # Steps from here on that are in older files do not count any more.
        "tensorboard": {"purge_step": resume_step + 1 if resume_step else None},
        "wandb": {"name": folder.name, "dir": str(folder)},
        "mlflow": {"run_name": folder.name},
    }
    settings = {key: str(attrgetter(key)(config)) for key in known_keys()}
    try:
        accelerator.init_trackers("oculox", init_kwargs=options)
        for tracker in accelerator.trackers:
            # TensorBoard would show them as one more run.
            if tracker.name != "tensorboard":
                tracker.store_init_configuration(settings)
    except Exception as error:
        # Each tracker has its own, for a server that is away or a key that is wrong.
        names = ", ".join(config.train.trackers)
        reason = first_line(error)
        raise TrainingError(f"train.trackers=[{names}] could not start: {reason}") from error
    try:
        yield Trackers(accelerator)
    finally:
        for tracker in accelerator.trackers:
            try:
                tracker.finish()
            except Exception as error:  # noqa: BLE001 - an error of the run itself goes first
                note = f"{tracker.name} could not be closed ({first_line(error)})"
                warnings.warn(note, OculoxWarning, stacklevel=2)
