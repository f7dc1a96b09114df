"""What messages share."""

import pytest

from oculox.errors import first_line, plural


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
