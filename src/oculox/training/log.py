"""What a run leaves to read: JSON lines, lines for people, a progress bar, a profile."""

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from torch.profiler import ProfilerActivity, profile, schedule

from oculox.errors import TrainingError
from oculox.files import write_text
from oculox.training.build import Run
from oculox.types import Batch

LOG_JSONL = "log.jsonl"
LOG_TEXT = "log.txt"
PROFILE = "profile"


class StepLoss(NamedTuple):
    """The loss of a step over the global batch, normalised as in the paper (plain numbers).

    `stops` is no loss: the number of processes that were asked to stop.
    """

    box: float
    objectness: float
    classes: float
    l1: float
    positives: float
    objects: float
    gradient_norm: float
    stops: float = 0.0

    @property
    def total(self) -> float:
        """What is minimised."""
        return self.box + self.objectness + self.classes + self.l1


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One log line of training; ``docs/training.md`` says what the fields mean.

    Every loss is the mean since the last line; `epoch` and `step` count from 1.
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


class RunLog(ExitStack):
    """Writes the records of a run; use as a context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        total_steps: int,
        resume_step: int = 0,
        resume_epoch: int = 0,
        enabled: bool = True,
        track: Callable[[dict[str, float], int], list[str]] | None = None,
    ) -> None:
        """Open the files in `folder`; what comes again is dropped from the JSON log.

        Args:
            folder: of the run.
            total_steps: of the run.
            resume_step: steps that are done.
            resume_epoch: epochs that are done, with their evaluation.
            enabled: whether to write anything; only the main process does.
            track: gets the same values and their step, for trackers; what it returns is logged.

        Raises:
            TrainingError: when a file cannot be written, here as at every later line.
        """
        super().__init__()
        self._track = track
        self._bar: Progress | None = None
        self._console = Console(stderr=True, highlight=False, emoji=False, quiet=not enabled)
        if enabled and resume_step:
            rows = [
                row
                for row in read_log(folder)
                if row.get("step", 0) <= resume_step
                and (row["kind"] != "eval" or row["epoch"] <= resume_epoch)
            ]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            write_text(folder / LOG_JSONL, text)
        names = (LOG_JSONL, LOG_TEXT) if enabled else (os.devnull, os.devnull)
        self._jsonl, self._text = (self._open(folder / n, append=resume_step > 0) for n in names)
        if enabled and sys.stderr.isatty():
            self._bar = self.enter_context(
                Progress(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    TaskProgressColumn(),
                    TimeElapsedColumn(),
                    TextColumn("ETA {task.fields[eta]}"),
                    console=self._console,
                )
            )
            self._task = self._bar.add_task(
                "training", total=total_steps, completed=resume_step, eta="?"
            )

    def message(self, text: str) -> None:
        """A line for people, on the console and in the human log."""
        self._write_text(text)
        self._console.print(text, markup=False, soft_wrap=True)

    def step(self, record: StepRecord) -> None:
        """A training record."""
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
        if self._bar is None:
            self.message(line)
            return
        self._write_text(line)
        self._bar.update(
            self._task,
            completed=record.step,
            description=f"epoch {record.epoch} loss {record.loss:.3f} "
            f"{record.images_per_s:.1f} img/s",
            eta=format_seconds(record.eta_s),
        )

    def evaluation(self, *, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        """The COCO metrics after an epoch (counted from 1)."""
        self._write("eval", {"epoch": epoch, "step": step, **metrics})

    def _write_text(self, text: str) -> None:
        _append(self._text, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")

    def _write(self, kind: str, values: Mapping[str, Any]) -> None:
        # JSON has no infinity, which gradients have where fp16 skips a step.
        finite = {k: v if _is_finite(v) else None for k, v in values.items()}
        _append(self._jsonl, json.dumps({"kind": kind, **finite}, allow_nan=False))
        if self._track is not None:
            numbers = {f"{kind}/{k}": v for k, v in finite.items() if isinstance(v, float)}
            for note in self._track(numbers, values["step"]):
                self.message(note)

    def _open(self, path: Path, *, append: bool) -> TextIO:
        try:
            file = path.open(
                "a" if append else "w",
                encoding="utf-8",
                errors="backslashreplace",  # names of files may hold bytes that are no text
            )
        except OSError as error:
            raise TrainingError(f"{path}: cannot be opened ({error.strerror})") from None
        self.callback(_close, file)
        return file


class StepMeter:
    """Gathers losses and times of steps, and logs their means every `log_interval`."""

    def __init__(self, run: Run, log: RunLog) -> None:
        """Measure `run`."""
        self._run = run
        self._log = log
        self._losses: list[StepLoss] = []
        self._elapsed = self._waited = 0.0
        self._steps = 0
        self.skipped = 0
        """Steps in a row whose update fp16's scaler skipped, since a gradient overflowed."""
        self._busy = self._evaluation = 0.0
        self._mark = time.perf_counter()

    def start_epoch(self, epoch: int, *, evaluations: int) -> None:
        """Note the epoch (from 0); time spent since the last step does not count.

        Args:
            epoch: that begins.
            evaluations: how many are left, that of this epoch included.
        """
        self._epoch = epoch
        self._evaluations = evaluations
        self._mark = time.perf_counter()

    def evaluated(self, seconds: float) -> None:
        """Note how long an evaluation took."""
        self._evaluation = seconds

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass batches on, counting the time spent waiting for each."""
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    def step(self, step: int, loss: StepLoss, *, size_hw: tuple[int, int]) -> None:
        """Count a finished step (from 1)."""
        run, losses = self._run, self._losses
        losses.append(loss)
        self.skipped = 0 if math.isfinite(loss.gradient_norm) else self.skipped + 1
        now = time.perf_counter()
        self._elapsed += now - self._mark
        self._steps += 1
        if self._steps == 2:
            self._busy = 0.0  # The first step of a call is slow, and tells nothing of the others.
        self._busy += now - self._mark
        self._mark = now
        if step % run.config.train.log_interval and step < run.last_step:
            return
        elapsed, pace = self._elapsed, self._busy / max(self._steps - 1, 1)
        mean = StepLoss(*(sum(values) / len(losses) for values in zip(*losses, strict=True)))
        norms = [loss.gradient_norm for loss in losses if math.isfinite(loss.gradient_norm)]
        self._log.step(
            StepRecord(
                epoch=self._epoch + 1,
                step=step,
                phase="tail" if run.plan.in_tail(self._epoch) else "aug",
                loss=sum(entry.total for entry in losses) / len(losses),
                **{name: getattr(mean, name) for name in ("box", "objectness", "classes", "l1")},
                positives_per_object=mean.positives / max(mean.objects, 1 / len(losses)),
                gradient_norm=sum(norms) / len(norms) if norms else math.inf,
                lr=run.rate.at(step - 1),
                size=size_hw,
                step_ms=1000 * elapsed / len(losses),
                data_wait=self._waited / elapsed,
                images_per_s=run.config.train.images_per_step * len(losses) / elapsed,
                eta_s=pace * (run.last_step - step) + self._evaluation * self._evaluations,
            )
        )
        losses.clear()
        self._elapsed = self._waited = 0.0


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


def _is_finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _close(file: TextIO) -> None:
    # Every line was flushed: what cannot be written now is a line already reported.
    with suppress(OSError):
        file.close()


def _append(file: TextIO, line: str) -> None:
    try:
        file.write(line + "\n")
        file.flush()
    except OSError as error:
        raise TrainingError(
            f"{file.name}: could not be written ({error.strerror}); free some space and "
            "continue from the last checkpoint with `resume`"
        ) from None


@contextmanager
def step_profiler(
    folder: Path, *, enabled: bool, device: torch.device, rank: int = 0
) -> Iterator[Callable[[], None]]:
    """Profile steps 5 to 9 of this call; write a trace (chrome://tracing) and a table.

    Args:
        folder: of the run.
        enabled: whether to do anything.
        device: that trains; the table is sorted by its time.
        rank: number of this process; all but the first add it to the files' names.

    Yields:
        A function to call after every step.
    """
    if not enabled:
        yield lambda: None
        return

    name = f"{PROFILE}-rank{rank}" if rank else PROFILE

    def write(result: profile) -> None:
        result.export_chrome_trace(str(folder / f"{name}.json"))
        kind = "device" if device.type == "cuda" else "cpu"
        table = result.key_averages().table(sort_by=f"self_{kind}_time_total", row_limit=30)
        write_text(folder / f"{name}.txt", table)

    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(
        activities=activities,
        schedule=schedule(wait=3, warmup=1, active=5, repeat=1),
        on_trace_ready=write,
    ) as result:
        yield result.step
