"""What all exported models have in common: their metadata and the way from outputs to detections.

An export carries one JSON text, wherever its format keeps such things: everything needed to feed
it and to read its outputs, so that nothing but the file is needed.
"""

import dataclasses
import json
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic_core import to_jsonable_python
from torch import Tensor

from oculox.data.preprocess import to_float_array
from oculox.errors import CheckpointError, OculoxWarning
from oculox.postprocess import DetectSettings, narrow_detections, select_detections
from oculox.runtime.backend import Backend
from oculox.types import DecodedPredictions, Detections, ImageArray, ModelSpec

METADATA_KEY = "oculox"
"""Name under which every format keeps the metadata."""
METADATA_VERSION = 2

CELL_OUTPUTS = ("boxes", "scores")
"""Outputs without NMS: float32 (B, N, 4) xyxy and float32 (B, N, C), for every cell."""
NMS_OUTPUTS = ("boxes", "scores", "classes", "counts")
"""Outputs with NMS, best first: float32 (B, K, 4) xyxy, float32 (B, K), int64 (B, K),
int64 (B,); rows from ``counts`` on are zero."""

ExportPrecision = Literal["fp32", "fp16", "int8"]
"""Of an exported file's weights and arithmetic."""
Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InGraphNms:
    """NMS inside a model; its thresholds are constants of the file.

    Attributes:
        conf: lowest score kept.
        iou: IoU above which the weaker of two boxes of a class is dropped.
        max_det: K, the rows of the outputs.
    """

    conf: float = 0.01
    iou: float = 0.65
    max_det: int = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportMetadata:
    """What an exported file says about itself.

    Attributes:
        spec: the model; its input section is that of the weights.
        format: the kind of file, such as ``onnx``.
        precision: of weights and arithmetic.
        nms: NMS inside the graph; None for outputs of every cell.
        preprocess: whether preprocessing is inside the graph: the input is then ``raw_images``,
            uint8 (B, height, width, 3) BGR of any size, and boxes are in pixels of the images.
        oculox: version that wrote the file.
        license: of the weights, as the exporter stated it.
    """

    spec: ModelSpec
    format: str
    precision: ExportPrecision = "fp32"
    nms: InGraphNms | None = None
    preprocess: bool = False
    oculox: str = ""
    license: str = ""

    @property
    def input_name(self) -> str:
        """Name of the model's one input."""
        return "raw_images" if self.preprocess else "images"

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return CELL_OUTPUTS if self.nms is None else NMS_OUTPUTS

    @property
    def fed_spec(self) -> ModelSpec:
        """The model as its users have to feed it.

        A graph with preprocessing inside always takes BGR; an input that is letterboxed already
        passes its letterbox unchanged.
        """
        if not self.preprocess:
            return self.spec
        return dataclasses.replace(
            self.spec, input=self.spec.input.model_copy(update={"color": "bgr"})
        )

    def to_json(self) -> str:
        """The text that goes into the file."""
        values = {
            "metadata_version": METADATA_VERSION,
            **to_jsonable_python(self),
            "outputs": list(self.output_names),
        }
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes | None, *, where: str) -> Self:
        """Read the text back.

        Args:
            text: the JSON, also encoded; None when the file has none.
            where: the file, for messages.

        Raises:
            CheckpointError: when it is absent, of another version, or incomplete.
        """
        if text is None:
            raise CheckpointError(
                f"{where}: holds no metadata of Oculox, so its classes and preprocessing are "
                "unknown; export the model with `oculox export`"
            )
        try:
            content = json.loads(text)
            version = content["metadata_version"]
            if version != METADATA_VERSION:
                raise CheckpointError(
                    f"{where}: metadata version {version!r}, this Oculox reads "
                    f"{METADATA_VERSION}; export the model again"
                )
            inside = content["nms"]
            return cls(
                spec=ModelSpec.from_dict(content["spec"], where=where),
                format=content["format"],
                precision=content["precision"],
                nms=None if inside is None else InGraphNms(**inside),
                preprocess=content["preprocess"],
                oculox=content["oculox"],
                license=content["license"],
            )
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{where}: its metadata is damaged ({error!r})") from None


Run = Callable[[Array], tuple[Array, ...]]
"""Runs an exported model.

It takes float32 (B, 3, H, W) in the network's pixel range, or uint8 (B, H, W, 3) where
`Opened.takes_bytes` says so, as for every file with preprocessing inside. It gives the outputs in
the order of `ExportMetadata.output_names`.
"""
Share = Callable[[int], Run]
"""Makes a `Run` for so many threads that call it at once, each with its share of the cores."""
CELLS_BEFORE_NMS = ("network/boxes", "network/scores")
"""Values inside a file with NMS: `CELL_OUTPUTS`, but before NMS and in pixels of the input."""


class Parts(NamedTuple):
    """A file with NMS cut in two: what comes before NMS, and NMS alone.

    cells: a `Run` that gives `CELLS_BEFORE_NMS`; nms: takes these and gives `NMS_OUTPUTS`, boxes in
    pixels of the input.
    """

    cells: Run
    nms: Callable[[Array, Array], tuple[Array, ...]]


class Opened(NamedTuple):
    """What the function that opens a format gives.

    metadata: from the file; run: runs the model, for one caller at a time, as some runtimes have
    one set of buffers; share: where several threads can run the model at once; takes_bytes: the
    input of `run` is uint8 (B, H, W, 3); cut: makes the parts of a file with NMS, where the format
    can be cut.
    """

    metadata: ExportMetadata
    run: Run
    share: Share | None = None
    takes_bytes: bool = False
    cut: Callable[[], Parts] | None = None


class ExportedBackend(Backend):
    """A backend over an exported file: a format supplies an `Opened`.

    Args:
        kind: the format's short name.
        opened: what the format's `open_...` function gave.
    """

    def __init__(self, kind: str, opened: Opened) -> None:
        super().__init__(opened.metadata.fed_spec)
        self.kind = kind
        self.metadata, self.run, self._share, self._takes_bytes, self.cut = opened
        self._shared: dict[int, Run] = {}
        self._lock: AbstractContextManager[Any] = threading.Lock()

    def for_threads(self, threads: int) -> Backend:
        """See `Backend.for_threads`; what was made is kept."""
        if self._share is None or threads < 2:
            return self
        with self._lock:
            if threads not in self._shared:
                self._shared[threads] = self._share(threads)
        run = self._shared[threads]
        shared = Opened(self.metadata, run, takes_bytes=self._takes_bytes)
        backend = ExportedBackend(self.kind, shared)
        backend._lock, backend.side_by_side = nullcontext(), True
        return backend

    def predict(self, images: ImageArray | Tensor) -> tuple[Array, ...]:
        """See `Backend.predict`; the outputs of `run`."""
        array = images.cpu().numpy() if isinstance(images, Tensor) else images
        inputs = self.inputs(array)
        with self._lock:
            return self.run(inputs)

    def inputs(self, images: ImageArray) -> Array:
        """Letterboxed images as `run` takes them."""
        if self._takes_bytes:
            return np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        return to_float_array(images, self.spec.input)

    def select(self, outputs: Sequence[Array], settings: DetectSettings) -> list[Detections]:
        """See `Backend.select`.

        A file with NMS inside cannot give what it has dropped: thresholds of `settings` that are
        looser than the file's have no effect, and a warning says so.
        """
        inside, names = self.metadata.nms, self.spec.names
        if inside is None:
            boxes, scores = (torch.from_numpy(np.asarray(o, np.float32)) for o in outputs)
            # The scores are products with the objectness already.
            decoded = DecodedPredictions(boxes, torch.ones(scores.shape[:2]), scores)
            return select_detections(decoded, settings, names=names)
        if settings.conf < inside.conf or settings.iou > inside.iou:
            warnings.warn(
                f"the model applies NMS at conf {inside.conf}, IoU {inside.iou} by itself; "
                f"conf {settings.conf}, IoU {settings.iou} cannot bring back what it drops",
                OculoxWarning,
                stacklevel=3,
            )
        found = []
        for boxes, scores, classes, count in zip(*outputs, strict=True):
            real = slice(int(count))
            whole = Detections(
                np.asarray(boxes[real], np.float32),
                np.asarray(scores[real], np.float32),
                np.asarray(classes[real], np.int64),
                names,
            )
            found.append(narrow_detections(whole, settings))
        return found
