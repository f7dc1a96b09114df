"""A page in one file: sections of text, tables and images, without anything from outside."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from oculox.files import write_text
from oculox.report.drawings import encode_jpeg
from oculox.types import ImageArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table; the first cell of a row is its head.

    Attributes:
        caption: what it shows.
        head: names of the columns.
        rows: cells as text.
        words: whether the cells are words, not numbers.
        folded: whether it opens with a click.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False
    folded: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """An image: its data URI, the text for those who cannot see it, and a line below it."""

    source: str
    alt: str
    caption: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page, with what a reader should know of it in `text`."""

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()


def write_page(
    path: Path,
    *,
    title: str,
    lines: Sequence[str],
    tiles: Sequence[tuple[str, str]],
    sections: Sequence[Section],
) -> None:
    """Write a page of HTML; all texts are escaped.

    Args:
        path: of the file.
        title: of the page.
        lines: sentences below it.
        tiles: the main numbers, each with its name.
        sections: the rest.

    Raises:
        OculoxError: when it cannot be written.
    """
    from jinja2 import Environment

    text = (files("oculox.report") / "page.html").read_text("utf-8")
    template = Environment(autoescape=True, trim_blocks=True).from_string(text)
    write_text(path, template.render(title=title, lines=lines, tiles=tiles, sections=sections))


def as_figure(image: ImageArray, *, alt: str, caption: str) -> Figure:
    """A BGR image as a JPEG inside the page."""
    source = "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(image)).decode()
    return Figure(source=source, alt=alt, caption=caption)


def pairs_table(caption: str, values: Mapping[str, str], *, folded: bool = False) -> Table:
    """Names and their values."""
    return Table(
        caption=caption,
        head=("name", "value"),
        rows=[(name, value) for name, value in values.items()],
        words=True,
        folded=folded,
    )


def number(value: float) -> str:
    """A metric with three places; a dash where COCO says -1, not measured."""
    return "-" if value <= -1 else f"{value:.3f}"
