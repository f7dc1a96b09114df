"""What was found in an image."""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from oculox import draw as drawing
from oculox.errors import UsageError
from oculox.files import encode_image, write_image
from oculox.types.arrays import FloatArray, ImageArray, ImageId, IntArray

if TYPE_CHECKING:
    import supervision


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detection:
    """One found object.

    Attributes:
        box: left, top, right, bottom in pixels of the original image.
        score: objectness times class probability.
        class_id: contiguous class index.
        name: of the class; its number where names are unknown.
        track_id: number of the object in a video, from 1; None where it was not tracked.
    """

    box: tuple[float, float, float, float]
    score: float
    class_id: int
    name: str
    track_id: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, best score first, in pixels of the original image.

    Iterating gives each `Detection`; an integer index gives one, anything else that numpy takes
    as an index gives the selected `Detections`.

    Attributes:
        xyxy: float32 (D, 4), left, top, right, bottom.
        scores: float32 (D,), objectness times class probability.
        class_ids: int64 (D,), contiguous class indices.
        names: class names by index; empty when unknown.
        source: file or address of the image or video; None where it has none.
        read: gives the image's pixels, uint8 (H, W, 3), BGR; None where they are not known.
        track_ids: int64 (D,), number of each object in its video; None where nothing was tracked.

    Raises:
        ValueError: when shapes do not agree; the message gives expected and actual.
    """

    xyxy: FloatArray
    scores: FloatArray
    class_ids: IntArray
    names: tuple[str, ...] = ()
    source: str | None = None
    read: Callable[[], ImageArray] | None = None
    track_ids: IntArray | None = None

    def __post_init__(self) -> None:
        """Validate shapes."""
        n = len(self.xyxy)
        shapes = {"xyxy": (n, 4), "scores": (n,), "class_ids": (n,), "track_ids": (n,)}
        for field, expected in shapes.items():
            values = getattr(self, field)
            shape = expected if values is None else values.shape
            if shape != expected:
                raise ValueError(f"Detections.{field} must have shape {expected}, got {shape}")

    @classmethod
    def empty(cls, names: tuple[str, ...] = ()) -> Detections:
        """No detections."""
        return cls(
            np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), names
        )

    def __len__(self) -> int:
        """Number of detections."""
        return len(self.xyxy)

    def __iter__(self) -> Iterator[Detection]:
        """Each detection, best score first."""
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> Detection: ...
    @overload
    def __getitem__(self, index: npt.NDArray[Any] | Sequence[int] | slice) -> Detections: ...
    def __getitem__(
        self, index: int | np.integer[Any] | npt.NDArray[Any] | Sequence[int] | slice
    ) -> Detection | Detections:
        """One by its place (negative: from the end); several by a mask, indices or a slice.

        Raises:
            IndexError: there is no such detection.
        """
        if isinstance(index, int | np.integer):
            left, top, right, bottom = self.xyxy[index].tolist()
            class_id = int(self.class_ids[index])
            return Detection(
                box=(left, top, right, bottom),
                score=float(self.scores[index]),
                class_id=class_id,
                name=self.name(class_id),
                track_id=None if self.track_ids is None else int(self.track_ids[index]),
            )
        return dataclasses.replace(
            self,
            xyxy=self.xyxy[index],
            scores=self.scores[index],
            class_ids=self.class_ids[index],
            track_ids=None if self.track_ids is None else self.track_ids[index],
        )

    def __repr__(self) -> str:
        """How many of each class, and where."""
        where = f" in {self.source}" if self.source else ""
        return f"<Detections{where}: {self.summary()}>"

    def __str__(self) -> str:
        """A table: class, score and box of each detection, and its number in a video."""
        width = max([5, *(len(one.name) for one in self)])
        tracked = self.track_ids is not None
        rows = [
            f"{'   id  ' * tracked}{'class':<{width}}  score     left      top    right   bottom"
        ]
        for one in self:
            box = " ".join(f"{side:8.1f}" for side in one.box)
            number = f"{one.track_id:5}  " if tracked else ""
            rows.append(f"{number}{one.name:<{width}}  {one.score:5.3f} {box}")
        return "\n".join(rows) if len(self) else "nothing found"

    def counts(self) -> dict[str, int]:
        """How many there are of each class that was found, the most frequent first."""
        return dict(collections.Counter(one.name for one in self).most_common())

    def summary(self) -> str:
        """The counts as a text, such as ``2 person, 1 dog``."""
        return ", ".join(f"{n} {name}" for name, n in self.counts().items()) or "nothing found"

    @property
    def image(self) -> ImageArray:
        """The image they were found in, uint8 (H, W, 3), BGR; a file is read again.

        Raises:
            UsageError: they do not know it.
            DataError: its file is gone or cannot be read any more.
        """
        if self.read is None:
            raise UsageError(
                "these detections do not know their image: those of a call of a Detector do; "
                "draw(image) takes it"
            )
        return self.read()

    def plot(self) -> ImageArray:
        """A copy of the own image with boxes, names and scores drawn on it; see `image`."""
        return self.draw(self.image)

    def show(self) -> None:
        """Show `plot` with matplotlib, in a notebook or a window; without a screen use `save`."""
        import supervision as sv

        sv.plot_image(self.plot())

    def save(self, path: str | Path) -> None:
        """Write `plot` to an image file.

        Raises:
            UsageError: the suffix is not that of an image, or the image is not known.
            OculoxError: it cannot be written.
        """
        write_image(Path(path), self.plot())

    def crop(self) -> list[ImageArray]:
        """What is inside each box, uint8 (h, w, 3), BGR; a box without area gives no pixels."""
        image = self.image
        low, high = np.floor(self.xyxy).astype(int), np.ceil(self.xyxy).astype(int)
        return [
            image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)].copy()
            for (left, top, _, _), (_, _, right, bottom) in zip(low, high, strict=True)
        ]

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows."""
        return None if self.read is None else encode_image(drawing.shrunk(self.plot()), ".png")

    def name(self, class_id: int) -> str:
        """The class's name, or its number where names are unknown."""
        return self.names[class_id] if class_id < len(self.names) else str(class_id)

    def draw(self, image: ImageArray) -> ImageArray:
        """A copy of `image` (uint8 (H, W, 3), BGR) with boxes, names and scores drawn on it.

        A colour stands for a class; after tracking for an object, whose number is shown too.
        """
        colors = self.class_ids if self.track_ids is None else self.track_ids
        numbers = ["" if one.track_id is None else f"#{one.track_id} " for one in self]
        captions = [
            f"{number}{one.name} {one.score:.2f}" for number, one in zip(numbers, self, strict=True)
        ]
        return drawing.draw_boxes(image, self.xyxy, colors, captions=captions)

    def to_dicts(self) -> list[dict[str, Any]]:
        """One plain mapping per detection: box (xyxy), score, class_id, name; tracked, track_id."""
        return [
            {
                "box": [round(v, 3) for v in one.box],
                "score": round(one.score, 6),
                "class_id": one.class_id,
                "name": one.name,
                **({} if one.track_id is None else {"track_id": one.track_id}),
            }
            for one in self
        ]

    def to_coco(
        self, image_id: ImageId, category_ids: Sequence[int] | Mapping[int, int] | None = None
    ) -> list[dict[str, Any]]:
        """COCO results: image_id, category_id, bbox (x, y, width, height), score.

        `category_ids` maps class index to the dataset's category id; without it the index
        itself is written.

        Raises:
            UsageError: `category_ids` lacks a class that was found.
        """
        rows = []
        for one in self:
            c, (x1, y1, x2, y2) = one.class_id, one.box
            try:
                category = c if category_ids is None else category_ids[c]
            except LookupError:
                raise UsageError(
                    f"category_ids has no id for class {c} ({one.name}); give one for each class"
                ) from None
            rows.append(
                {
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": one.score,
                }
            )
        return rows

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`: name, score, class_id, left, top, right, bottom; tracked, track_id.

        Raises:
            UsageError: pandas is not installed.
        """
        if importlib.util.find_spec("pandas") is None:
            raise UsageError("to_pandas needs the package 'pandas'; run: pip install pandas")
        pandas = importlib.import_module("pandas")
        sides = dict(zip(("left", "top", "right", "bottom"), self.xyxy.T, strict=True))
        tracks = {} if self.track_ids is None else {"track_id": self.track_ids}
        columns = {"score": self.scores, "class_id": self.class_ids, **sides, **tracks}
        return pandas.DataFrame({"name": [one.name for one in self], **columns})

    def to_supervision(self) -> supervision.Detections:
        """As `supervision.Detections`, with class names under ``data["class_name"]``."""
        import supervision as sv

        return sv.Detections(
            xyxy=self.xyxy,
            confidence=self.scores,
            class_id=self.class_ids,
            tracker_id=self.track_ids,
            data={"class_name": np.array([one.name for one in self])},
        )

    @classmethod
    def from_supervision(
        cls, detections: supervision.Detections, names: tuple[str, ...] = ()
    ) -> Detections:
        """From `supervision.Detections`; a missing confidence counts as 1, a missing class as 0."""
        n = len(detections)
        scores = np.ones(n) if detections.confidence is None else detections.confidence
        classes = np.zeros(n) if detections.class_id is None else detections.class_id
        return cls(
            np.asarray(detections.xyxy, np.float32).reshape(n, 4),
            np.asarray(scores, np.float32),
            np.asarray(classes, np.int64),
            names,
            track_ids=None
            if detections.tracker_id is None
            else np.asarray(detections.tracker_id, np.int64),
        )
