"""What every reader returns and every writer takes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from oculox.data.faults import Fault, Severity, check_boxes
from oculox.data.image import ImageFile
from oculox.datasets.image_facts import ImageFacts
from oculox.types import FloatArray, IntArray

SPLITS = ("train", "val", "test")
"""Names of splits in a converted dataset."""

TEXT = "utf-8-sig"
"""Encoding of what people write by hand: editors of Windows begin a file with a mark of UTF-8."""

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
        scores: float32 (n,), of a model's detections; empty for what people drew.
        places: where each object stands in its label file, such as ``line 3``; empty for COCO.
    """

    source: ImageFile
    name: str
    hw: tuple[int, int]
    boxes: FloatArray
    labels: IntArray
    crowd: npt.NDArray[np.bool_]
    scores: FloatArray = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))
    places: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class LabelledData:
    """A dataset that was read: class names, images by split, and what was wrong with each split."""

    classes: tuple[str, ...]
    splits: Mapping[str, tuple[LabelledImage, ...]]
    faults: Mapping[str, Sequence[Fault]]

    @property
    def all_faults(self) -> tuple[Fault, ...]:
        """What was wrong, split by split."""
        return tuple(fault for many in self.faults.values() for fault in many)


class LabelledObject(NamedTuple):
    """An object of a label file: class name, xyxy pixels, and its place in the file."""

    class_name: str
    xyxy: tuple[float, float, float, float]
    where: str


NO_SIZE = (1, 1)
"""Stands for the size of an image that cannot be read."""


class ImageReader:
    """Turns what the label files of a split state into labelled images, and collects the faults.

    Args:
        keep_bad_images: keep images that cannot be read or have not the size that is stated,
            without objects: training, evaluation and the check count those themselves.
    """

    def __init__(self, *, keep_bad_images: bool = False) -> None:
        self.faults: list[Fault] = []
        self.keep_bad_images = keep_bad_images
        self._names: set[str] = set()

    def fault(
        self, code: str, file: Path | str, message: str, *, severity: Severity = "error"
    ) -> None:
        """Note a finding."""
        self.faults.append(Fault(severity=severity, code=code, file=str(file), message=message))

    def measure(self, path: Path, fact: ImageFacts) -> tuple[int, int] | None:
        """Height and width of an image; None, and a fault, where it cannot be used.

        A bad image that is kept has `NO_SIZE`.
        """
        if fact.problem is not None:
            code, message = fact.problem
            self.fault(code, path, message)
            return NO_SIZE if self.keep_bad_images and code != "image-missing" else None
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

    def free_name(self, name: str) -> str:
        """The name, or one like it that the split does not use yet (on any system)."""
        path = PurePosixPath(name)
        number = 1
        # Labels are named after the stem, and some disks take A for a.
        while (key := str(path.with_suffix("")).casefold()) in self._names:
            number += 1
            path = PurePosixPath(name).with_stem(f"{PurePosixPath(name).stem}-{number}")
        self._names.add(key)
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
        places=tuple(found.where for found in objects),
    )
