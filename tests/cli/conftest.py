"""The command line in this process, and what it said."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from oculox.cli.main import main


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a command: exit code, output and errors."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line that says what was wrong, the last on standard error."""
        lines = self.err.splitlines()
        assert "Traceback" not in self.err
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:], self.err
        return lines[-1].removeprefix("error: ")


@pytest.fixture
def oculox(capfd) -> Callable[..., Outcome]:
    """Run a command; words may be any value."""

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = main([str(a) for a in arguments])
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
