"""What every reader returns and every writer takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from oculox.data.faults import Fault, Severity, judge_box
from oculox.datasets.check_images import look_at
from oculox.types import FloatArray, IntArray

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"))
SPLITS = ("train", "val", "test")
"""Names of splits in a converted data set."""

Progress = Callable[[], None]


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
    """A data set that was read: class names, images by split, and what was wrong with it."""

    classes: tuple[str, ...]
    splits: Mapping[str, tuple[LabelledImage, ...]]
    faults: tuple[Fault, ...]


@dataclasses.dataclass(frozen=True)
class RawObject:
    """An object as a label file tells it: class name, xyxy pixels, where in the file."""

    class_name: str
    xyxy: tuple[float, float, float, float]
    where: str


class ImageReader:
    """Turns raw objects into labelled images, telling every fault on the way."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._names: dict[str, set[str]] = {}

    def tell(
        self, code: str, file: Path | str, message: str, *, severity: Severity = "error"
    ) -> None:
        """Note a finding."""
        self.faults.append(Fault(severity=severity, code=code, file=str(file), message=message))

    def measure(self, path: Path) -> tuple[int, int] | None:
        """Height and width of an image; None, and a finding, where it cannot be used."""
        fact = look_at(path, depth="header")
        if fact.problem is not None:
            code = "image-missing" if fact.missing else "image-unreadable"
            self.tell(code, path, fact.problem)
        return fact.hw

    def keep(
        self, objects: Sequence[RawObject], hw: tuple[int, int], *, file: Path
    ) -> list[tuple[str, tuple[float, float, float, float]]]:
        """Class and box of the usable ones among the objects that a label file tells."""
        kept = []
        for found in objects:
            verdict = judge_box(found.xyxy, hw)
            if verdict.code is not None:
                message = f"{found.where}: {verdict.message}"
                self.tell(verdict.code, file, message, severity=verdict.severity)
            if verdict.box is not None:
                kept.append((found.class_name, verdict.box))
        return kept

    def free_name(self, split: str, name: str) -> str:
        """The name, or one like it that the split does not use yet (on any system)."""
        taken = self._names.setdefault(split, set())
        path = PurePosixPath(name)
        number = 1
        # Labels are named after the stem, and some disks do not tell A from a.
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
    objects: Sequence[tuple[str, tuple[float, float, float, float]]],
    classes: Sequence[str],
) -> LabelledImage:
    """An image with objects (class name and box), all of classes that are known."""
    index = {c: i for i, c in enumerate(classes)}
    return LabelledImage(
        source=source,
        name=name,
        hw=hw,
        boxes=np.array([box for _, box in objects], np.float32).reshape(-1, 4),
        labels=np.array([index[c] for c, _ in objects], np.int64),
        crowd=np.zeros(len(objects), np.bool_),
    )
