"""What a run leaves behind to read: JSON lines, a human log, a progress bar, TensorBoard files."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from oculox.errors import MissingExtraError, TrainingError
from oculox.files import write_text

LOG_JSONL = "log.jsonl"
LOG_TEXT = "log.txt"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One log line of training; every loss is the mean since the last line.

    Attributes:
        epoch: from 1.
        step: from 1, over the whole run.
        phase: ``aug`` or ``tail``.
        loss, box, objectness, classes, l1: the paper's loss and its terms.
        positives_per_object: positive cells for each labelled object.
        gradient_norm: before clipping.
        lr: learning rate.
        size: height and width of the input.
        step_ms: milliseconds a step took, waiting for data included.
        data_wait: part of that time spent waiting for data, 0 to 1.
        images_per_s: over all processes.
        eta_s: seconds to the end of training at this pace.
    """

    epoch: int
    step: int
    phase: str
    loss: float
    box: float
    objectness: float
    classes: float
    l1: float
    positives_per_object: float
    gradient_norm: float
    lr: float
    size: tuple[int, int]
    step_ms: float
    data_wait: float
    images_per_s: float
    eta_s: float


class RunLog:
    """Writes the records of a run; use as a context manager.

    Only the main process logs: others get one with ``enabled=False``, which does nothing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        total_steps: int,
        resume_step: int = 0,
        tensorboard: bool = False,
        enabled: bool = True,
    ) -> None:
        """Open the files in `folder`; lines after `resume_step` are dropped from the JSON log.

        Raises:
            MissingExtraError: when TensorBoard files are wanted and the package is absent.
            TrainingError: when a file cannot be written, here as at every later line.
        """
        self._enabled = enabled
        self._console = Console(stderr=True, highlight=False)
        self._progress: Progress | None = None
        self._board: Any = None
        if not enabled:
            return
        if tensorboard:
            self._board = _open_tensorboard(folder, resume_step)
        if resume_step:
            _drop_lines_after(folder / LOG_JSONL, resume_step)
        self._jsonl = _open_lines(folder / LOG_JSONL, append=resume_step > 0)
        self._text = _open_lines(folder / LOG_TEXT, append=resume_step > 0)
        if sys.stderr.isatty():
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA {task.fields[eta]}"),
                console=self._console,
            )
            self._task = self._progress.add_task(
                "training", total=total_steps, completed=resume_step, eta="?"
            )

    def __enter__(self) -> Self:
        """Start the progress bar."""
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the bar and close the files."""
        if not self._enabled:
            return
        if self._progress is not None:
            self._progress.stop()
        for file in (self._jsonl, self._text):
            # Every line was flushed: what cannot be written now is a line already reported.
            with suppress(OSError):
                file.close()
        if self._board is not None:
            self._board.close()

    def message(self, text: str) -> None:
        """A line for people, on the console and in the human log."""
        if not self._enabled:
            return
        self._write_text(text)
        self._console.print(text, markup=False, soft_wrap=True)

    def step(self, record: StepRecord) -> None:
        """A training record."""
        if not self._enabled:
            return
        values = dataclasses.asdict(record)
        self._write("train", values)
        height, width = record.size
        line = (
            f"epoch {record.epoch} step {record.step} loss {record.loss:.3f} "
            f"(box {record.box:.3f} obj {record.objectness:.3f} cls {record.classes:.3f} "
            f"l1 {record.l1:.3f}) lr {record.lr:.2e} size {height}x{width} "
            f"{record.step_ms:.0f} ms data {record.data_wait:.0%} "
            f"{record.images_per_s:.1f} img/s ETA {format_seconds(record.eta_s)}"
        )
        if self._progress is None:
            self.message(line)
            return
        self._write_text(line)
        self._progress.update(
            self._task,
            completed=record.step,
            description=f"epoch {record.epoch} loss {record.loss:.3f} "
            f"{record.images_per_s:.1f} img/s",
            eta=format_seconds(record.eta_s),
        )

    def evaluation(self, *, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        """The COCO metrics after an epoch (counted from 1)."""
        if self._enabled:
            self._write("eval", {"epoch": epoch, "step": step, **metrics})

    def _write_text(self, text: str) -> None:
        _append(self._text, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")

    def _write(self, kind: str, values: Mapping[str, Any]) -> None:
        _append(self._jsonl, json.dumps({"kind": kind, **values}))
        if self._board is not None:
            for key, value in values.items():
                if isinstance(value, float):
                    self._board.add_scalar(f"{kind}/{key}", value, values["step"])


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The records of a run's JSON log; a line cut off by a crash is left out."""
    path = folder / LOG_JSONL
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text("utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def format_seconds(seconds: float) -> str:
    """``h:mm:ss``, or ``m:ss`` under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _open_lines(path: Path, *, append: bool) -> TextIO:
    try:
        return path.open("a" if append else "w", encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"{path}: cannot be opened ({error.strerror})") from None


def _append(file: TextIO, line: str) -> None:
    try:
        file.write(line + "\n")
        file.flush()
    except OSError as error:
        raise TrainingError(
            f"{file.name}: could not be written ({error.strerror}); make room and go on from the "
            "last checkpoint with --resume"
        ) from None


def _drop_lines_after(path: Path, step: int) -> None:
    kept = [row for row in read_log(path.parent) if row.get("step", 0) <= step]
    text = "".join(json.dumps(row) + "\n" for row in kept)
    write_text(path, text)


def _open_tensorboard(folder: Path, resume_step: int) -> object:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError(
            package="tensorboard", extra="tensorboard", purpose="train.tensorboard=true"
        ) from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step or None)
