"""Errors meant for people.

Everything a user can cause (a bad file, a wrong key, a missing extra) is raised as a subclass of
`OculoxError`; the command line prints its message on one line and exits with `exit_code`.
Programming mistakes stay ordinary Python exceptions.

A message names an argument in backticks, as in "pass `overwrite`"; the command line shows the
option of that name in its place (`--overwrite`).
"""


class OculoxError(Exception):
    """A problem the user can fix: its message says what, where, what was expected, what to do."""

    exit_code = 1


class UsageError(OculoxError):
    """The command or call itself was wrong (exit code 2)."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration key or value is unknown or invalid."""


class MissingExtraError(UsageError):
    """An optional dependency is absent; the message names the extra to install."""

    def __init__(self, *, package: str, extra: str, purpose: str) -> None:
        """Name the missing `package`, the `extra` that brings it and what it is needed for."""
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed; "
            f"run: pip install 'oculox[{extra}]'"
        )

    def __reduce__(self) -> tuple[type[UsageError], tuple[str, ...]]:
        """To other processes goes the message alone."""
        return UsageError, self.args


class DataError(OculoxError):
    """A dataset or image is missing, unreadable or inconsistent."""


class CheckpointError(OculoxError):
    """A weights file is missing, damaged, foreign or does not fit the network."""


class TrainingError(OculoxError):
    """Training had to stop: a non-finite loss, an occupied output folder, a full disk."""


class DeviceMemoryError(OculoxError):
    """A GPU has too little memory for what it was given."""


class ExportError(OculoxError):
    """An export could not be made or did not agree with the network it came from."""


class OculoxWarning(UserWarning):
    """What a person should know and the work goes on without; the command line prints a line."""


class RenamedKeyWarning(OculoxWarning):
    """A saved configuration holds a key by an old name; it was read under the new one."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def system_error(error: BaseException, *, handled: BaseException | None) -> BaseException:
    """The error of the system that a library wraps in words of its own; else the library's.

    Args:
        error: of the library.
        handled: what `sys.exception` gave before the library was called: it ends the chain.
    """
    cause: BaseException | None = error
    while cause is not None and cause is not handled:
        if isinstance(cause, OSError) and type(cause).__module__ in ("builtins", "socket", "ssl"):
            return cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return error


def plural(number: int, noun: str) -> str:
    """``1 image``, ``2 images``, ``3 boxes``: for messages that count."""
    ending = "es" if noun.endswith(("s", "x", "tch", "sh")) else "s"
    return f"{number} {noun}{ending * (number != 1)}"
