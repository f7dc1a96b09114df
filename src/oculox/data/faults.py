"""What can be wrong with a dataset: the same faults for training, the check and the converters."""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath, PureWindowsPath
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from oculox.errors import DataError
from oculox.types import ImageId

Severity = Literal["error", "warning", "info"]

ROUNDING = 1.0
"""Pixels by which a box may stick out of its image without a fault: rounding."""
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
        image_id: the dataset's id of the image, where it has one.
        annotation_id: the dataset's id of the object, where it has one.
    """

    severity: Severity = "error"
    code: str
    file: str
    message: str
    image_id: ImageId | None = None
    annotation_id: ImageId | None = None

    def __str__(self) -> str:
        """One line: where, then what."""
        ids = [] if self.image_id in (None, self.file) else [f"image {self.image_id!r}"]
        ids += [] if self.annotation_id is None else [f"annotation {self.annotation_id!r}"]
        return f"{self.file}{' (' + ', '.join(ids) + ')' if ids else ''}: {self.message}"


def count_faults(faults: Iterable[Fault]) -> dict[str, int]:
    """How many of each code, in the order of first appearance."""
    return dict(Counter(fault.code for fault in faults))


class BoxFault(NamedTuple):
    """What is wrong with box number `row`."""

    row: int
    code: str
    severity: Severity
    message: str


# The first that applies is reported; a box with a warning can be used.
_BOX_FAULTS: tuple[tuple[str, Severity, str], ...] = (
    ("box-not-finite", "error", "is not finite"),
    ("box-inverted", "error", "is inverted"),
    ("box-empty", "error", "is empty"),
    ("box-outside", "error", "lies outside the {image}"),
    ("box-beyond", "warning", "sticks out of the {image}; it is clipped"),
    ("box-tiny", "warning", f"has a side below {TINY:g} pixels"),
)


def check_boxes(
    xyxy: npt.NDArray[np.float64], sizes_hw: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], list[BoxFault]]:
    """Compare boxes with their images.

    Sticking out by at most a pixel is rounding and clipped silently; by more it is clipped with
    a warning. Non-finite, inverted and empty boxes and boxes outside cannot be used.

    Args:
        xyxy: (n, 4), left, top, right, bottom in pixels.
        sizes_hw: (n, 2), height and width of each box's image, infinite where they are not
            known; or (2,) of their common one.

    Returns:
        float64 (n, 4), the boxes clipped to their images; bool (n,), which can be used; the
        faults, at most one per box.
    """
    height, width = np.broadcast_to(np.asarray(sizes_hw, np.float64), (len(xyxy), 2)).T
    left, top, right, bottom = xyxy.T
    boxes = np.clip(xyxy, 0, np.stack((width, height, width, height), axis=1))
    excess = np.stack((-left, -top, right - width, bottom - height))
    kind = np.select(
        (
            ~np.isfinite(xyxy).all(axis=1),
            (right < left) | (bottom < top),
            (right == left) | (bottom == top),
            (right <= 0) | (bottom <= 0) | (left >= width) | (top >= height),
            excess.max(axis=0) > ROUNDING,
            np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) < TINY,
        ),
        range(len(_BOX_FAULTS)),
        default=-1,
    )
    faults, usable = [], np.ones(len(xyxy), np.bool_)
    for row in np.flatnonzero(kind >= 0).tolist():
        code, severity, text = _BOX_FAULTS[kind[row]]
        usable[row] = severity != "error"
        shown = ", ".join(f"{v:g}" for v in xyxy[row])
        image = "image"
        if np.isfinite(width[row]):
            image += f" of {width[row]:g} x {height[row]:g}"
        message = f"box [{shown}] (xyxy) {text.format(image=image)}"
        faults.append(BoxFault(row, code, severity, message))
    return boxes, usable, faults


class BadImages:
    """Counts the images of a split that cannot be used, and refuses too many.

    Training and evaluation leave bad images out: a bad image of a mosaic is a grey tile, in
    place of a bad plain one the next is taken, an evaluation goes on without it.

    Args:
        limit: how many may be left out.
        setting: what sets the limit, for messages.
    """

    def __init__(self, limit: int, *, setting: str) -> None:
        self._limit = limit
        self._setting = setting
        self._found: set[str] = set()

    def add(self, messages: Iterable[str]) -> list[str]:
        """Count images, each once, by a message that names it and says what is wrong.

        Returns:
            The messages that are new.

        Raises:
            DataError: there are more than the limit.
        """
        new = [m for m in dict.fromkeys(messages) if m not in self._found]
        self._found.update(new)
        if len(self._found) > self._limit:
            raise DataError(
                f"{new[0] if new else min(self._found)}; bad images: {len(self._found)}, and "
                f"{self._setting} allows {self._limit}; `oculox data check` lists all"
            )
        return new


def bad_training_images(stated: int | None, *, images: int) -> BadImages:
    """The count for a training split; without a stated limit a hundredth, at least 10."""
    limit = max(10, images // 100) if stated is None else stated
    return BadImages(limit, setting="data.max_bad_images")


def bad_evaluation_images(limit: int) -> BadImages:
    """The count for a split that is evaluated on."""
    return BadImages(limit, setting="`max_bad_images` (in training eval.max_bad_images)")


def stays_inside(name: str) -> bool:
    """Whether a relative file name stays below its folder, on every system."""
    if not name or "\0" in name:
        return False
    if name[0] not in "/\\." and ".." not in name and ":" not in name:
        return True  # nearly all; the careful look below is slow
    windows = PureWindowsPath(name)
    outside = PurePosixPath(name).is_absolute() or windows.drive or windows.root
    return not outside and ".." not in windows.parts
