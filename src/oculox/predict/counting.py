"""How many tracked objects cross lines and are in zones."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from oculox.errors import UsageError
from oculox.types import Detections, ImageArray

Points = Sequence[tuple[int, int]]
"""Corners in pixels of the frame: (x, y)."""


class Counter:
    """Counts objects by the centre of their box; each has to be tracked.

    Args:
        lines: two points each.
        zones: the corners of a polygon each, three or more.

    Raises:
        UsageError: a line or zone has another number of points, or no length.
    """

    def __init__(self, lines: Iterable[Points] = (), zones: Iterable[Points] = ()) -> None:
        import supervision as sv

        self._points = {"line": [list(line) for line in lines], "zone": [list(z) for z in zones]}
        for line in self._points["line"]:
            if len(line) != 2 or line[0] == line[1]:
                raise UsageError(f"a line has two different points (x1,y1,x2,y2), got {line}")
        for zone in self._points["zone"]:
            if len(zone) < 3:
                raise UsageError(f"a zone has three points or more (x1,y1,x2,y2,...), got {zone}")
        where = [sv.Position.CENTER]
        self._lines = [
            sv.LineZone(sv.Point(*start), sv.Point(*end), triggering_anchors=where)
            for start, end in self._points["line"]
        ]
        self._zones = [
            sv.PolygonZone(np.array(corners), triggering_anchors=where)
            for corners in self._points["zone"]
        ]
        self._inside: list[dict[int, str]] = [{} for _ in self._zones]
        self._most = [0] * len(self._zones)
        self._names: dict[int, str] = {}

    def update(self, found: Detections) -> None:
        """Count the objects of the next frame."""
        given = found.to_supervision()
        self._names |= {one.class_id: one.name for one in found}
        for line in self._lines:
            line.trigger(given)
        for i, zone in enumerate(self._zones):
            inside = found[np.asarray(zone.trigger(given), np.bool_)]
            self._most[i] = max(self._most[i], len(inside))
            # An object has the class that it had here first.
            self._inside[i] = {int(one.track_id or 0): one.name for one in inside} | self._inside[i]

    def draw(self, image: ImageArray) -> ImageArray:
        """A copy of the frame, uint8 (H, W, 3), BGR, with lines, zones and their counts."""
        import supervision as sv

        drawn = image.copy()
        palette = sv.ColorPalette.DEFAULT
        for i, line in enumerate(self._lines):
            color = palette.by_idx(i)
            drawn = sv.LineZoneAnnotator(
                thickness=2, color=color, text_thickness=1, text_scale=0.5
            ).annotate(drawn, line)
        for i, zone in enumerate(self._zones):
            color = palette.by_idx(len(self._lines) + i)
            drawn = sv.PolygonZoneAnnotator(
                zone, color=color, thickness=2, text_scale=0.5
            ).annotate(drawn)
        return np.asarray(drawn, np.uint8)

    def lines(self) -> list[dict[str, Any]]:
        """Of each line its `points`, how many went `in` and `out`, and of which class."""
        return [
            {
                "points": points,
                "in": line.in_count,
                "out": line.out_count,
                "in_by_class": self._named(line.in_count_per_class),
                "out_by_class": self._named(line.out_count_per_class),
            }
            for points, line in zip(self._points["line"], self._lines, strict=True)
        ]

    def zones(self) -> list[dict[str, Any]]:
        """Of each zone its `points`, how many `objects` it saw, the `most` at a time, classes."""
        return [
            {
                "points": points,
                "objects": len(inside),
                "most": most,
                "by_class": dict(collections.Counter(inside.values())),
            }
            for points, inside, most in zip(
                self._points["zone"], self._inside, self._most, strict=True
            )
        ]

    def _named(self, counts: Mapping[Any, int]) -> dict[str, int]:
        return {self._names[int(class_id)]: count for class_id, count in counts.items()}
