"""A profile of a few early steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch.profiler import ProfilerActivity, profile, schedule

TRACE = "profile.json"
TABLE = "profile.txt"


class StepProfiler(Protocol):
    """Told after every step."""

    def step(self) -> None:
        """A step is done."""


class _NoProfiler:
    def step(self) -> None:
        pass


@contextmanager
def step_profiler(output: Path, *, enabled: bool) -> Iterator[StepProfiler]:
    """Profile steps 5 to 9 of this call; write a trace (chrome://tracing) and a table."""
    if not enabled:
        yield _NoProfiler()
        return

    def write(result: profile) -> None:
        result.export_chrome_trace(str(output / TRACE))
        table = result.key_averages().table(sort_by="self_cpu_time_total", row_limit=30)
        (output / TABLE).write_text(table, "utf-8")

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(
        activities=activities,
        schedule=schedule(wait=3, warmup=1, active=5, repeat=1),
        on_trace_ready=write,
    ) as result:
        yield result
