"""What all commands share: plain output for people and JSON for scripts."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from oculox.distributed.launch import is_main_process

if TYPE_CHECKING:
    from oculox.types import Progress


def say(text: str = "") -> None:
    """A line on standard output."""
    typer.echo(text)


def note(text: str) -> None:
    """A line on standard error, out of the way of a script that reads the output."""
    typer.echo(text, err=True)


def with_options(message: str) -> str:
    """A message of the library in the command line's words: `` `max_det` `` becomes --max-det."""
    return re.sub(r"`([a-z_]+)`", lambda m: f"--{m[1].replace('_', '-')}", message)


def print_json(value: Any) -> None:
    """JSON on standard output; results with paths and tuples in them become plain values."""
    import json

    from pydantic_core import to_jsonable_python

    typer.echo(json.dumps(to_jsonable_python(value), indent=1, ensure_ascii=False))


def file_size(size: int) -> str:
    """``1.3 MB``, ``8.2 kB``."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def milliseconds(stages: dict[str, float]) -> str:
    """``decode 1.2, network 30.4``."""
    return ", ".join(f"{name} {value:.1f}" for name, value in stages.items())


@contextmanager
def progress_bar(title: str, *, rate: str = "") -> Iterator[Progress]:
    """A bar with the remaining time on standard error; nothing where that is not a terminal.

    Args:
        title: what is being done.
        rate: what is counted, to show how many a second.

    Yields:
        A function to call with how much is done and how much there is, None where unknown.
    """
    if not sys.stderr.isatty() or not is_main_process():
        yield lambda done, total: None
        return
    from rich import progress as rich
    from rich.console import Console

    class Rate(rich.ProgressColumn):
        def render(self, task: rich.Task) -> str:
            return f"{task.speed:.1f} {rate}/s" if rate and task.speed else ""

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TextColumn("ETA"),
        rich.TimeRemainingColumn(),
        Rate(),
    )
    # Of parts one may take minutes.
    window = 600 if rate else 30
    with rich.Progress(
        *columns, console=Console(stderr=True), transient=True, speed_estimate_period=window
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
