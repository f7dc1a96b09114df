"""A page of HTML as a browser would find it."""

import base64
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.images, self.links, self.tables, self.texts = [], [], [], {}, []
        self._cell = self._open = None
        self.feed(Path(path).read_text("utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.links += [v for k, v in attrs.items() if k in ("href", "src", "srcset", "action")]
        if tag == "img":
            self.images.append(attrs)
        if tag == "table":
            self._rows, self._caption = [], ""
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th", "caption"):
            self._cell = ""
            assert tag != "th" or attrs["scope"] in ("row", "col")
        self._open = tag

    def handle_endtag(self, tag):
        if tag == "caption":
            self._caption = self._cell
        if tag in ("td", "th"):
            self._rows[-1].append(self._cell)
        if tag == "table":
            self.tables[self._caption] = self._rows[1:]
        if tag in ("td", "th", "caption"):
            self._cell = None

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data
        self.texts.append(data)


def check_alone(page):
    """Nothing from outside, every image inside with a text for those who cannot see it."""
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert [link for link in page.links if not link.startswith(("#", "data:image/"))] == []
    for image in page.images:
        kind, _, data = image["src"].partition(";base64,")
        content = base64.b64decode(data, validate=True)
        assert image["alt"]
        if kind == "data:image/jpeg":
            assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) is not None
        else:
            assert kind == "data:image/svg+xml"
            assert b"<svg" in content
            assert b"<script" not in content
            assert b"prefers-color-scheme" in content
