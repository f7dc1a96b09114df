"""What messages share."""

import sys

import pytest

from oculox.errors import first_line, plural, system_error


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "image", "1 image"),
        (0, "image", "0 images"),
        (2, "validation image", "2 validation images"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
        (3, "box", "3 boxes"),
        (15, "epoch", "15 epochs"),
        (2, "batch", "2 batches"),
    ],
)
def test_one_is_one(number, noun, text):
    assert plural(number, noun) == text


def test_the_first_line_of_an_error():
    assert first_line(ValueError("  wrong\nlong story")) == "wrong"
    assert first_line(ValueError()) == "ValueError"


class LibraryError(OSError):
    """What a library raises, as those of requests are."""


def fail(*, cause=None, suppress=False):
    try:
        if cause is not None:
            raise cause
    except OSError as error:
        raise LibraryError("long words") from (None if suppress else error)
    raise LibraryError("long words")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cause": ConnectionRefusedError(111, "refused")}, "[Errno 111] refused"),
        ({"cause": ConnectionRefusedError(111, "refused"), "suppress": True}, "long words"),
        ({}, "long words"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_the_systems_words_come_before_a_librarys(arguments, words, inside):
    """And never those of an error that was being handled before."""

    def call():
        handled = sys.exception()
        with pytest.raises(LibraryError) as caught:
            fail(**arguments)
        return first_line(system_error(caught.value, handled=handled))

    if not inside:
        assert call() == words
        return
    try:
        raise FileNotFoundError("another file")
    except FileNotFoundError:
        assert call() == words
