"""The ``oculox`` command: every error a person can cause is one line and an exit code."""

import os
import sys
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from oculox.cli import data, weights
from oculox.cli.benchmark import benchmark
from oculox.cli.compare import compare
from oculox.cli.console import note, with_options
from oculox.cli.demo import demo
from oculox.cli.evaluate import evaluate
from oculox.cli.export import export
from oculox.cli.info import config, models
from oculox.cli.predict import predict
from oculox.cli.serve import serve
from oculox.cli.track import track
from oculox.cli.train import SettingsCommand, train
from oculox.distributed.launch import follow_launcher, is_launched, is_main_process, one_report
from oculox.errors import OculoxError, OculoxWarning, RenamedKeyWarning, UsageError
from oculox.version import __version__

# Wrong words of any kind; the module that has this class varies by version.
_ParserError: type[typer.BadParameter] = typer.BadParameter.mro()[1]


class _Commands(TyperGroup):
    """The commands; errors of the parser and Ctrl-C, with 130, are one line in all versions."""

    def main(self, *args: Any, **extra: Any) -> Any:
        try:
            return super().main(*args, **{**extra, "standalone_mode": False})
        except _ParserError as error:
            message = error.format_message()
            if "\n" in message:  # the help of commands of which none is named
                error.show()
                return error.exit_code
            path = error.ctx.command_path if error.ctx else "oculox"
            raise UsageError(f"{message.removesuffix('.')} (see {path} --help)") from None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # With several processes, the one that started them prints it.
            if not is_launched():
                note("interrupted")
            raise typer.Exit(130) from None


app = typer.Typer(
    name="oculox",
    cls=_Commands,
    help="Train, evaluate and use YOLOX detectors on your own data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(
    cls=SettingsCommand,
    epilog="Example: oculox train yolox-s data.root=my-data train.epochs=50 --weights yolox-s",
)(train)
app.command("eval", epilog="Example: oculox eval runs/mine/best.pt --data my-data")(evaluate)
app.command()(compare)
app.command(epilog="Example: oculox predict yolox-s photos --conf 0.5 --output found")(predict)
app.command()(serve)
app.command()(track)
app.command(epilog="Example: oculox export runs/mine/best.pt --format onnx --data my-data")(export)
app.command()(benchmark)
app.command(cls=SettingsCommand)(config)
app.command()(models)
app.command()(demo)
app.add_typer(data.app, name="data")
app.add_typer(weights.app, name="weights")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"oculox {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    del version


@cache
def command_line() -> TyperGroup:
    """All commands with their options; a program may call `main` many times."""
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words after ``oculox``; the process's own by default.

    Returns:
        0 fine, 1 failed, 2 wrong usage, 130 interrupted.
    """
    follow_launcher()
    try:
        words = list(sys.argv[1:] if arguments is None else arguments)
        with one_report(), warnings.catch_warnings():
            warnings.simplefilter("default", OculoxWarning)
            if not is_main_process():  # which reads the same configuration
                warnings.simplefilter("ignore", RenamedKeyWarning)
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            # Commands that start several processes of themselves need their own words.
            end = command_line()(args=words, prog_name="oculox", obj=words)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except OculoxError as error:
        _say_error(with_options(str(error)))
        return error.exit_code
    except OSError as error:
        if error.strerror is None:  # of a library that calls its own errors so
            raise
        # Of a file that no part of Oculox has better words for, such as a full standard output.
        where = "" if error.filename is None else f"{error.filename}: "
        _say_error(f"{where}the operating system reports: {error.strerror}")
        return 1
    return end or 0


def _say_error(message: str) -> None:
    who = "" if is_main_process() else f" (process {os.environ['RANK']})"
    print(f"error{who}: {message}", file=sys.stderr)  # noqa: T201 - the one line of an error


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any
) -> None:
    """Our own warnings are lines for people; those of libraries look as Python shows them."""
    if issubclass(category, OculoxWarning):
        note(f"warning: {with_options(str(message))}")
    else:
        note(warnings.formatwarning(message, category, filename, lineno))


def run() -> None:
    """Entry point of the installed command."""
    # OpenCV's warnings of what cannot be opened: the error that follows says it better.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "8")
    raise SystemExit(main())
