"""What every reader returns and every writer takes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from oculox.data.faults import Fault, Severity, check_boxes
from oculox.datasets.check import look_at
from oculox.types import FloatArray, IntArray

SPLITS = ("train", "val", "test")
"""Names of splits in a converted dataset."""

OnImage = Callable[[], None]


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image on disk and its usable boxes.

    Attributes:
        source: the file.
        name: its name below the split's image folder, with forward slashes.
        hw: height and width in pixels, upright.
        boxes: float32 (n, 4), xyxy pixels inside the image.
        labels: int64 (n,), class indices.
        crowd: bool (n,), regions that hold many objects and count as none.
    """

    source: Path
    name: str
    hw: tuple[int, int]
    boxes: FloatArray
    labels: IntArray
    crowd: npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class LabelledData:
    """A dataset that was read: class names, images by split, and what was wrong with it."""

    classes: tuple[str, ...]
    splits: Mapping[str, tuple[LabelledImage, ...]]
    faults: tuple[Fault, ...]


class LabelledObject(NamedTuple):
    """An object of a label file: class name, xyxy pixels, and its place in the file."""

    class_name: str
    xyxy: tuple[float, float, float, float]
    where: str


class ImageReader:
    """Turns what label files state into labelled images, and collects the faults."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._names: dict[str, set[str]] = {}

    def fault(
        self, code: str, file: Path | str, message: str, *, severity: Severity = "error"
    ) -> None:
        """Note a finding."""
        self.faults.append(Fault(severity=severity, code=code, file=str(file), message=message))

    def measure(self, path: Path) -> tuple[int, int] | None:
        """Height and width of an image; None, and a fault, where it cannot be used."""
        fact = look_at(path)
        if fact.problem is not None:
            code, message = fact.problem
            self.fault(code, path, message)
        return fact.hw

    def keep(
        self, objects: Sequence[LabelledObject], hw: tuple[int, int], *, file: Path
    ) -> list[LabelledObject]:
        """The usable ones of the objects that `file` states, clipped to their image."""
        xyxy = np.array([found.xyxy for found in objects], np.float64).reshape(-1, 4)
        boxes, usable, faults = check_boxes(xyxy, hw)
        for row, code, severity, message in faults:
            self.fault(code, file, f"{objects[row].where}: {message}", severity=severity)
        rows = np.flatnonzero(usable).tolist()
        return [objects[row]._replace(xyxy=tuple(boxes[row].tolist())) for row in rows]

    def free_name(self, split: str, name: str) -> str:
        """The name, or one like it that the split does not use yet (on any system)."""
        taken = self._names.setdefault(split, set())
        path = PurePosixPath(name)
        number = 1
        # Labels are named after the stem, and some disks take A for a.
        while (key := str(path.with_suffix("")).casefold()) in taken:
            number += 1
            path = PurePosixPath(name).with_stem(f"{PurePosixPath(name).stem}-{number}")
        taken.add(key)
        return str(path)


def labelled(
    source: Path,
    name: str,
    *,
    hw: tuple[int, int],
    objects: Sequence[LabelledObject],
    classes: Sequence[str],
) -> LabelledImage:
    """An image with usable objects, all of classes that are known."""
    index = {c: i for i, c in enumerate(classes)}
    return LabelledImage(
        source=source,
        name=name,
        hw=hw,
        boxes=np.array([found.xyxy for found in objects], np.float32).reshape(-1, 4),
        labels=np.array([index[found.class_name] for found in objects], np.int64),
        crowd=np.zeros(len(objects), np.bool_),
    )
