"""What all commands share: plain output for people and JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def say(text: str = "") -> None:
    """A line on standard output."""
    typer.echo(text)


def note(text: str) -> None:
    """A line on standard error, out of the way of a script that reads the output."""
    typer.echo(text, err=True)


def print_json(value: Any) -> None:
    """JSON on standard output."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error while the block runs, on terminals only.

    Yields:
        A function to call with how much is done and how much there is.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _ignore
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _ignore(done: int, total: int) -> None:
    del done, total
