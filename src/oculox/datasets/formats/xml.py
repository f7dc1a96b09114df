"""Reading small XML files from strangers."""

from __future__ import annotations

from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder

# Expat expands entities only where a DOCTYPE declares them, and a DOCTYPE is refused below;
# it is refused by the parser's own event, since a search for its text misses other encodings.
from xml.parsers import expat

MAX_BYTES = 16 << 20
"""Largest label file read."""
_MAX_DEPTH = 32


class XmlError(ValueError):
    """The text is no XML, or XML that is not read: too large, too deep, or with a DOCTYPE."""


def parse_xml(data: bytes) -> Element:
    """The root element.

    Raises:
        XmlError: not well-formed, larger than `MAX_BYTES`, nested too deeply or with a DOCTYPE.
    """
    if len(data) > MAX_BYTES:
        raise XmlError(f"larger than {MAX_BYTES >> 20} MiB")
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise XmlError(f"elements nested more than {_MAX_DEPTH} deep")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(*_: Any) -> None:
        raise XmlError("a DOCTYPE is not accepted")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise error if isinstance(error, XmlError) else XmlError(str(error)) from None
    return builder.close()
