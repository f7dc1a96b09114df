"""What loader processes say when things end."""

import multiprocessing
import sys

import pytest

from oculox.data import batches


def _fail(error):
    batches._start_worker(0)
    try:
        raise error
    except (ArithmeticError, EOFError, OSError):
        sys.excepthook(*sys.exc_info())


@pytest.mark.skipif(sys.platform != "linux", reason="loader processes are forked on Linux alone")
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (EOFError(), ""),
        (ConnectionResetError(), ""),
        (BrokenPipeError(), ""),
        (ZeroDivisionError("ours"), "ZeroDivisionError: ours"),
    ],
)
def test_a_main_process_that_left_is_no_news(capfd, error, said):
    process = multiprocessing.get_context("fork").Process(target=_fail, args=(error,))
    process.start()
    process.join(30)
    assert process.exitcode == 0
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1:] == ([said] if said else [])
