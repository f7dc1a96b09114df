"""What all exported models have in common: their metadata and the way from outputs to detections.

An export carries one JSON text, wherever its format keeps such things: everything needed to feed
it and to read its outputs, so that the file alone is enough.
"""

from __future__ import annotations

import abc
import dataclasses
import json
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from oculox.errors import CheckpointError
from oculox.ops.nms import nms
from oculox.postprocess import select_detections
from oculox.runtime.backend import (
    DetectSettings,
    ModelSpec,
    fixed_batches,
    network_input,
)
from oculox.runtime.timing import Stopwatch
from oculox.types import DecodedPredictions, Detections, ImageArray, Preprocessing

METADATA_KEY = "oculox"
"""Name under which every format keeps the metadata."""
METADATA_VERSION = 1

CELL_OUTPUTS = ("boxes", "scores")
"""Outputs without NMS: float32 (B, N, 4) xyxy and float32 (B, N, C), for every cell."""
NMS_OUTPUTS = ("boxes", "scores", "classes", "counts")
"""Outputs with NMS, best first: float32 (B, K, 4) xyxy, float32 (B, K), int64 (B, K),
int64 (B,); rows from ``counts`` on are zero."""

Precision = Literal["fp32", "fp16", "int8"]
Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InGraphNms:
    """NMS inside a model; its thresholds are constants of the file.

    Attributes:
        conf: lowest score kept.
        iou: IoU above which the weaker of two boxes of a class goes.
        max_det: K, the rows of the outputs.
    """

    conf: float = 0.01
    iou: float = 0.65
    max_det: int = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportMetadata:
    """What an exported file tells about itself.

    Attributes:
        format: the kind of file, such as ``onnx``.
        model: the network's name.
        names: class names by index.
        category_ids: category id of each class in the training data, where known.
        preprocessing: colour order, pixel range and letterbox that the network was trained with.
        size_hw: input height and width in pixels (the default one when `dynamic_size`).
        strides: pixels between the cells of each level.
        dynamic_size: whether other multiples of the largest stride work.
        batch: the only batch size that works; None for any.
        precision: of weights and arithmetic.
        nms: NMS inside the graph; None for outputs of every cell.
        letterbox: whether preprocessing is inside the graph: the input is then ``images``,
            uint8 (B, height, width, 3) BGR of any size, and boxes are in pixels of the images.
        oculox: version that wrote the file.
        license: of the weights, as the exporter stated it.
    """

    format: str
    model: str
    names: tuple[str, ...]
    category_ids: tuple[int, ...] | None
    preprocessing: Preprocessing
    size_hw: tuple[int, int]
    strides: tuple[int, ...]
    dynamic_size: bool = False
    batch: int | None = 1
    precision: Precision = "fp32"
    nms: InGraphNms | None = None
    letterbox: bool = False
    oculox: str = ""
    license: str = ""

    @property
    def input_name(self) -> str:
        """Name of the model's one input."""
        return "raw_images" if self.letterbox else "images"

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return CELL_OUTPUTS if self.nms is None else NMS_OUTPUTS

    @property
    def spec(self) -> ModelSpec:
        """What the pipeline has to feed."""
        preprocessing = self.preprocessing
        if self.letterbox:
            # The graph turns BGR into the network's colours; an input that is letterboxed
            # already passes its letterbox unchanged.
            preprocessing = dataclasses.replace(preprocessing, color="bgr")
        return ModelSpec(
            name=self.model,
            names=self.names,
            category_ids=self.category_ids,
            preprocessing=preprocessing,
            size_hw=self.size_hw,
            strides=self.strides,
            num_classes=len(self.names),
            dynamic_size=self.dynamic_size,
            batch=self.batch,
        )

    def to_json(self) -> str:
        """The text that goes into the file."""
        outputs = list(self.output_names)
        plain = dataclasses.asdict(self)
        return json.dumps(
            {"metadata_version": METADATA_VERSION, **plain, "outputs": outputs}, sort_keys=True
        )

    @classmethod
    def from_json(cls, text: str | None, *, where: str) -> ExportMetadata:
        """Read the text back.

        Args:
            text: the JSON; None when the file has none.
            where: the file, for messages.

        Raises:
            CheckpointError: when it is absent, newer than this Oculox, or incomplete.
        """
        if text is None:
            raise CheckpointError(
                f"{where}: holds no metadata of Oculox, so its classes and preprocessing are "
                "unknown; export the model with `oculox export`"
            )
        try:
            content = json.loads(text)
            version = content["metadata_version"]
            if not isinstance(version, int) or not 1 <= version <= METADATA_VERSION:
                raise CheckpointError(
                    f"{where}: metadata version {version!r}; this Oculox reads up to "
                    f"{METADATA_VERSION}, a newer one may be needed"
                )
            ids, inside = content["category_ids"], content["nms"]
            return cls(
                format=content["format"],
                model=content["model"],
                names=tuple(content["names"]),
                category_ids=None if ids is None else tuple(ids),
                preprocessing=Preprocessing(**content["preprocessing"]),
                size_hw=(int(content["size_hw"][0]), int(content["size_hw"][1])),
                strides=tuple(content["strides"]),
                dynamic_size=content["dynamic_size"],
                batch=content["batch"],
                precision=content["precision"],
                nms=None if inside is None else InGraphNms(**inside),
                letterbox=content["letterbox"],
                oculox=content["oculox"],
                license=content["license"],
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise CheckpointError(f"{where}: its metadata is damaged ({error!r})") from None


class ExportedBackend(abc.ABC):
    """A backend over an exported file: a format supplies `run` alone.

    Args:
        metadata: from the file.
    """

    kind: str

    def __init__(self, metadata: ExportMetadata) -> None:
        self.metadata = metadata
        self.spec = metadata.spec

    @abc.abstractmethod
    def run(self, inputs: Array) -> tuple[Array, ...]:
        """Run the model.

        Args:
            inputs: float32 (B, 3, H, W), in the network's pixel range; with the letterbox
                inside uint8 (B, H, W, 3), BGR.

        Returns:
            Outputs in the order of `ExportMetadata.output_names`.
        """

    def outputs(self, images: ImageArray | Tensor) -> tuple[Array, ...]:
        """Raw outputs for letterboxed uint8 (B, 3, H, W); B is `spec.batch` where that is set."""
        if self.metadata.letterbox:
            array = images.cpu().numpy() if isinstance(images, Tensor) else images
            return self.run(np.ascontiguousarray(array.transpose(0, 2, 3, 1)))
        floats = network_input(images, self.spec.preprocessing)
        return self.run(floats.contiguous().numpy())

    def detect(
        self,
        images: ImageArray | Tensor,
        settings: DetectSettings,
        *,
        watch: Stopwatch | None = None,
    ) -> list[Detections]:
        """See `Backend.detect`.

        A file with NMS inside cannot give what it has thrown away: thresholds of
        `settings` that are looser than the file's have no effect, and a warning says so.
        """
        watch = watch or Stopwatch()
        inside = self.metadata.nms
        if inside is not None and (settings.conf < inside.conf or settings.iou > inside.iou):
            warnings.warn(
                f"the model suppresses at conf {inside.conf}, IoU {inside.iou} by itself; "
                f"conf {settings.conf}, IoU {settings.iou} cannot bring back what it drops",
                stacklevel=2,
            )
        found: list[Detections] = []
        for chunk, real in fixed_batches(images, self.spec.batch):
            with watch.stage("network"):
                outputs = self.outputs(chunk)
            with watch.stage("postprocess"):
                found += self.detections([output[:real] for output in outputs], settings)
        return found

    def detections(self, outputs: Sequence[Array], settings: DetectSettings) -> list[Detections]:
        """Detections from raw outputs (see `run`), as `settings` want them."""
        if self.metadata.nms is not None:
            rows = zip(*outputs, strict=True)
            return [self._selected(*row, settings=settings) for row in rows]
        boxes, scores = (torch.from_numpy(np.asarray(o, np.float32)) for o in outputs)
        return select_detections(
            # The scores are products with the objectness already.
            DecodedPredictions(boxes, torch.ones(scores.shape[:2]), scores),
            conf=settings.conf,
            iou=settings.iou,
            max_det=settings.max_det,
            agnostic_nms=settings.agnostic_nms,
            class_ids=settings.class_ids,
            names=self.spec.names,
        )

    def _selected(
        self, boxes: Array, scores: Array, classes: Array, count: Array, *, settings: DetectSettings
    ) -> Detections:
        """What `settings` keep of one image's survivors.

        Suppressing them again at the file's own threshold changes nothing, at a stricter one it
        drops more.
        """
        kept = scores[: int(count)] >= settings.conf
        if settings.class_ids is not None:
            kept &= np.isin(classes[: int(count)], settings.class_ids)
        all_found = Detections(
            np.asarray(boxes[: int(count)], np.float32)[kept],
            np.asarray(scores[: int(count)], np.float32)[kept],
            np.asarray(classes[: int(count)], np.int64)[kept],
            self.spec.names,
        )
        stays = nms(
            torch.from_numpy(all_found.xyxy),
            torch.from_numpy(all_found.scores),
            iou_threshold=settings.iou,
            class_ids=None if settings.agnostic_nms else torch.from_numpy(all_found.class_ids),
        )
        return all_found[stays.numpy()[: settings.max_det]]
