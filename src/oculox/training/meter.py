"""Means and speed between two log lines."""

from __future__ import annotations

import time
from collections.abc import Iterator

from oculox.training.assemble import Run
from oculox.training.log import RunLog, StepRecord
from oculox.training.step import TERM_NAMES, StepLoss
from oculox.types import Batch


class StepMeter:
    """Gathers losses and times of steps, and writes a record every `log_interval`."""

    def __init__(self, run: Run, log: RunLog, *, done: int) -> None:
        """Measure `run`, whose first `done` steps are behind."""
        self._run = run
        self._log = log
        self._first_step = done
        self._started = time.perf_counter()
        self._epoch = 0
        self._phase = ""
        self._losses: list[StepLoss] = []
        self._waited = 0.0
        self._paused = 0.0
        self._since = self._started
        self._last = self._started

    def start_epoch(self, epoch: int, *, phase: str) -> None:
        """Note the epoch (from 0); time spent since the last step does not count."""
        self._epoch = epoch + 1
        self._phase = phase
        pause = time.perf_counter() - self._last
        self._since += pause
        self._paused += pause

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass batches on, counting the time spent waiting for each."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def step(self, step: int, loss: StepLoss, *, size_hw: tuple[int, int]) -> None:
        """Count a finished step (from 1)."""
        self._losses.append(loss)
        now = self._last = time.perf_counter()
        if step % self._run.config.train.log_interval and step < self._run.rate.total_steps:
            return
        count, elapsed = len(self._losses), now - self._since
        pace = (now - self._started - self._paused) / (step - self._first_step)
        mean = {
            name: sum(getattr(entry, name) for entry in self._losses) / count
            for name in (*TERM_NAMES, "total", "gradient_norm")
        }
        objects = sum(entry.objects for entry in self._losses)
        self._log.step(
            StepRecord(
                epoch=self._epoch,
                step=step,
                phase=self._phase,
                loss=mean.pop("total"),
                positives_per_object=sum(e.positives for e in self._losses) / max(objects, 1),
                lr=self._run.rate.at(step - 1),
                size=size_hw,
                step_ms=1000 * elapsed / count,
                data_wait=self._waited / elapsed,
                images_per_s=self._run.config.train.batch * count / elapsed,
                eta_s=pace * (self._run.rate.total_steps - step),
                **mean,
            )
        )
        self._losses.clear()
        self._waited = 0.0
        self._since = now
