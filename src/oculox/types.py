"""The values that flow between the parts of Oculox, and the legend of shapes.

Legend used in every docstring and in shape-suffixed names:

- ``B`` images in a batch, ``H``/``W`` height and width in pixels, ``C`` classes
- ``N`` prediction cells of an input: all cells of strides 8, 16, 32, in that order, row-major
- ``M`` label slots an image (padded), ``K`` candidate cells an image, ``D`` detections

Boxes are float32 ``xyxy`` pixels everywhere outside `oculox.ops` and `oculox.losses`.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import importlib.util
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
from pydantic_core import to_jsonable_python

from oculox import draw as drawing
from oculox.config.schema import InputConfig, ModelConfig
from oculox.errors import CheckpointError, UsageError
from oculox.files import write_image

if TYPE_CHECKING:
    import supervision
    from torch import Tensor

ImageArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
ImageId = int | str
ImageSize = int | tuple[int, int]
"""Side of a square, or height and width, in pixels."""
Progress = Callable[[int, int | None], None]
"""Called with how much is done and how much there is, None where that is unknown."""


def height_width(size: ImageSize) -> tuple[int, int]:
    """Height and width in pixels."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def counted(progress: Progress | None, total: int | None = None) -> Callable[[], None]:
    """A function that counts its calls and reports them, where somebody listens."""
    if progress is None:
        return lambda: None
    numbers = itertools.count(1)
    return lambda: progress(next(numbers), total)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a model is, what it takes and what it returns.

    Checkpoints, exported files, backends and runs all carry one, with one JSON form.

    Attributes:
        model: the network's shape.
        input: default size, colour order, pixel range and letterbox.
        names: class names by index.
        category_ids: the training data's category id of each class, where known.
        dynamic_size: whether other input sizes (multiples of the largest stride) work.
        batch: the only batch size that works; None for any.

    Raises:
        ValueError: when the counts of classes, names and category ids differ.
    """

    model: ModelConfig
    input: InputConfig
    names: tuple[str, ...]
    category_ids: tuple[int, ...] | None = None
    dynamic_size: bool = True
    batch: int | None = None

    def __post_init__(self) -> None:
        """Check the counts against each other."""
        count = self.model.num_classes
        if count != len(self.names):
            raise ValueError(f"expected {count} class names, got {len(self.names)}")
        if self.category_ids is not None and count != len(self.category_ids):
            raise ValueError(f"expected {count} category ids, got {len(self.category_ids)}")

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between the cells of each level."""
        return self.model.strides

    def check_size(self, size_hw: tuple[int, int] | None) -> tuple[int, int]:
        """The input height and width to use; the model's own for None.

        Raises:
            UsageError: when the model is built for another size, or the size is not a multiple of
                its largest stride.
        """
        own = self.input.size
        if size_hw is None or tuple(size_hw) == own:
            return own
        if not self.dynamic_size:
            raise UsageError(
                f"this model was built for {own[0]} x {own[1]} (height x width), "
                f"got {size_hw[0]} x {size_hw[1]}; export it with that size"
            )
        stride = max(self.strides)
        if any(side < stride or side % stride for side in size_hw):
            raise UsageError(
                f"the input size must be multiples of {stride}, got {size_hw[0]} x {size_hw[1]}"
            )
        return size_hw[0], size_hw[1]

    def check_classes(self, class_ids: Sequence[int] | None) -> None:
        """Check a class filter.

        Raises:
            UsageError: when it is empty or an index is outside the model's classes.
        """
        if class_ids is None:
            return
        if not class_ids:
            raise UsageError("the class filter is empty; leave it out to keep all classes")
        for index in class_ids:
            if not 0 <= index < self.num_classes:
                raise UsageError(
                    f"class {index} does not exist; the model has 0-{self.num_classes - 1}"
                )

    def class_ids(self, classes: str | int | Sequence[str | int]) -> tuple[int, ...]:
        """Class names or indices, or one of them -> class indices.

        A text that is not a name but a number counts as an index, so that a command line may
        pass both.

        Raises:
            UsageError: when a class is unknown; the message names the nearest known one.
        """
        indices = []
        for item in [classes] if isinstance(classes, str | int) else classes:
            text = str(item).strip()
            if isinstance(item, str) and text in self.names:
                indices.append(self.names.index(text))
            elif text.isdecimal():
                indices.append(int(text))
            else:
                near = difflib.get_close_matches(text, self.names, n=1)
                shown = ", ".join(self.names[:10]) + (", ..." if self.num_classes > 10 else "")
                hint = f"did you mean {near[0]!r}?" if near else f"its classes: {shown}"
                raise UsageError(f"the model has no class {text!r}; {hint}")
        self.check_classes(indices)
        return tuple(dict.fromkeys(indices))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints and exported files."""
        values: dict[str, Any] = to_jsonable_python(self)
        return values

    @classmethod
    def from_dict(cls, values: object, *, where: str) -> ModelSpec:
        """Read `as_dict` back.

        Args:
            values: the mapping; `dynamic_size` and `batch` may be absent.
            where: the file, for messages.

        Raises:
            CheckpointError: when it is incomplete or invalid.
        """
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{where}: holds no description of its network")
        try:
            ids, batch = values["category_ids"], values.get("batch")
            return cls(
                model=ModelConfig.model_validate(values["model"]),
                input=InputConfig.model_validate(values["input"]),
                names=tuple(str(name) for name in values["names"]),
                category_ids=None if ids is None else tuple(int(i) for i in ids),
                dynamic_size=bool(values.get("dynamic_size", True)),
                batch=None if batch is None else int(batch),
            )
        except (KeyError, TypeError, ValueError) as error:  # pydantic's is a ValueError too
            detail = str(error).splitlines()[0]
            raise CheckpointError(f"{where}: its description is incomplete: {detail}") from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with its labels.

    Attributes:
        image: uint8 (H, W, 3), BGR.
        boxes: float32 (n, 4), xyxy pixels of `image`.
        labels: int64 (n,), contiguous class indices 0..C-1.
        image_id: the dataset's own id, returned untouched.
        source_hw: height and width of the file's image before any resizing.
        faults: what is wrong with image files that were left out of it, each named.
    """

    image: ImageArray
    boxes: FloatArray
    labels: IntArray
    image_id: ImageId
    source_hw: tuple[int, int]
    faults: tuple[str, ...] = ()


class Targets(NamedTuple):
    """Padded labels of a batch, in the pixels of the letterboxed input.

    boxes: float32 (B, M, 4), xyxy; labels: int64 (B, M); mask: bool (B, M), true for real ones.
    """

    boxes: Tensor
    labels: Tensor
    mask: Tensor


class Batch(NamedTuple):
    """Images and labels of a batch.

    images: uint8 (B, 3, H, W), in the colour order of the input section, 0-255, letterboxed;
    image_ids, source_hw and faults have B entries in the same order. faults: what is wrong with
    image files that were left out of an image, such as the tile of a mosaic.
    """

    images: Tensor
    targets: Targets
    image_ids: tuple[ImageId, ...]
    source_hw: tuple[tuple[int, int], ...]
    faults: tuple[tuple[str, ...], ...] = ()


class RawPredictions(NamedTuple):
    """What the head predicts, before decoding and without sigmoid.

    Attributes:
        deltas: (B, N, 4): centre offset (dx, dy) from the cell's corner in strides, then
            log width and log height in strides.
        objectness: (B, N) logits.
        classes: (B, N, C) logits.
        level_sizes: (rows, columns) of each stride's grid; their products sum to N.
    """

    deltas: Tensor
    objectness: Tensor
    classes: Tensor
    level_sizes: tuple[tuple[int, int], ...]


class DecodedPredictions(NamedTuple):
    """Predictions in the pixels of the network's input.

    Attributes:
        boxes: float32 (B, N, 4), xyxy.
        objectness: float32 (B, N), probabilities.
        classes: float32 (B, N, C), probabilities given an object.
    """

    boxes: Tensor
    objectness: Tensor
    classes: Tensor


class LossTerms(NamedTuple):
    """Sums of every loss term over a batch's positives (scalars, float32), not yet normalised.

    Divide by the (global) number of positives, at least 1, to get the paper's loss.

    Attributes:
        box: sum of ``1 - IoU^2`` over positives, already times the box weight (5).
        objectness: sum of BCE over all cells.
        classes: sum of BCE over positives.
        l1: sum of L1 over positives (zero while the L1 term is off).
        positives: number of positive cells.
        objects: number of labelled objects.
    """

    box: Tensor
    objectness: Tensor
    classes: Tensor
    l1: Tensor
    positives: Tensor
    objects: Tensor


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
        return None if self.read is None else drawing.to_png(self.plot())

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
        """
        rows = []
        for one in self:
            c, (x1, y1, x2, y2) = one.class_id, one.box
            rows.append(
                {
                    "image_id": image_id,
                    "category_id": c if category_ids is None else category_ids[c],
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
