"""What can be wrong with a data set, told the same way by the check and the converters."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Literal

from oculox.types import ImageId

Severity = Literal["error", "warning", "info"]

ROUNDING = 1.0
"""Pixels by which a box may stick out of its image before anybody is told: rounding."""
TINY = 2.0
"""A box with a side below this many pixels is worth a look."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """One finding.

    Attributes:
        severity: error (training would fail or learn something wrong), warning, info.
        code: short name of the kind of fault, such as ``box-outside``.
        file: the image or label file it is about.
        message: what was found and what was expected.
        image_id: the data set's id of the image, where it has one.
        annotation_id: the data set's id of the object, where it has one.
    """

    severity: Severity
    code: str
    file: str
    message: str
    image_id: ImageId | None = None
    annotation_id: ImageId | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """One line: where, then what."""
        ids = [] if self.image_id is None else [f"image {self.image_id!r}"]
        ids += [] if self.annotation_id is None else [f"annotation {self.annotation_id!r}"]
        return f"{self.file}{' (' + ', '.join(ids) + ')' if ids else ''}: {self.message}"


def count_faults(faults: Iterable[Fault]) -> dict[str, int]:
    """How many of each code, in the order of first appearance."""
    return dict(Counter(fault.code for fault in faults))


def has_errors(faults: Iterable[Fault]) -> bool:
    """Whether one of them is an error."""
    return any(fault.severity == "error" for fault in faults)


@dataclasses.dataclass(frozen=True)
class BoxVerdict:
    """What `judge_box` thinks: the box to use (None for none), and a finding (code None: fine)."""

    box: tuple[float, float, float, float] | None
    code: str | None = None
    severity: Severity = "error"
    message: str = ""


def judge_box(xyxy: Sequence[float], hw: tuple[int, int]) -> BoxVerdict:
    """Judge a box (left, top, right, bottom, pixels) against its image's height and width.

    Sticking out by at most a pixel is rounding and clipped without a word; by more it is clipped
    with a warning. Non-finite, inverted, empty boxes and boxes outside are not usable.
    """
    height, width = hw
    shown = "[" + ", ".join(f"{v:g}" for v in xyxy) + "]"
    if not all(math.isfinite(v) for v in xyxy):
        return BoxVerdict(None, "box-not-finite", message=f"box {shown} is not finite")
    left, top, right, bottom = xyxy
    size = f"image {width} x {height}"
    if right < left or bottom < top:
        return BoxVerdict(None, "box-inverted", message=f"box {shown} (xyxy) is inverted")
    if right == left or bottom == top:
        return BoxVerdict(None, "box-empty", message=f"box {shown} (xyxy) is empty")
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        message = f"box {shown} (xyxy) lies outside the {size}"
        return BoxVerdict(None, "box-outside", message=message)
    box = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
    if max(-left, -top, right - width, bottom - height) > ROUNDING:
        message = f"box {shown} (xyxy) sticks out of the {size}; it is clipped"
        return BoxVerdict(box, "box-beyond", "warning", message)
    if min(box[2] - box[0], box[3] - box[1]) < TINY:
        message = f"box {shown} (xyxy) has a side below {TINY:g} pixels"
        return BoxVerdict(box, "box-tiny", "warning", message)
    return BoxVerdict(box)


def stays_inside(name: str) -> bool:
    """Whether a relative file name stays below its folder, on every system."""
    windows = PureWindowsPath(name)
    outside = PurePosixPath(name).is_absolute() or windows.drive or windows.root
    return bool(name) and "\0" not in name and not outside and ".." not in windows.parts
