"""The comparison at the end of every export: does the file give the same results as PyTorch?

The reference is the network as the weights have it: not fused, its focus not folded, decoded and
put through NMS by `oculox.postprocess`. Inputs are sums of noise at all scales, which have the
spectrum of photographs; with white noise a detector finds almost nothing.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from functools import partial

import cv2
import numpy as np
import torch

from oculox.config.schema import InputConfig
from oculox.data.preprocess import preprocess, to_floats
from oculox.models.yolox import YOLOX
from oculox.ops.boxes import pairwise_iou
from oculox.postprocess import DetectSettings, decode, select_detections
from oculox.predict.pipeline import Pipeline
from oculox.runtime.backend import fixed_batches
from oculox.runtime.exported import Array, ExportedBackend, ExportPrecision, InGraphNms, Parts
from oculox.runtime.torch_backend import TorchBackend
from oculox.types import DecodedPredictions, Detections, ImageArray

TOP_CELLS = 100
"""Cells of an image, best first, whose errors count in reduced precision: the others, thousands
of cells without an object, are never detections."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Largest errors allowed.

    Attributes:
        score: of probabilities.
        box: of coordinates, as a fraction of the box's longer side (at least one stride of 8).
        missing: fraction of detections without a counterpart.
        mean: whether `score` and `box` bound the mean error of the best cells, instead of the
            largest one of all cells.
    """

    score: float
    box: float
    missing: float
    mean: bool


TOLERANCES: dict[ExportPrecision, Tolerance] = {
    "fp32": Tolerance(score=1e-3, box=2e-3, missing=0.01, mean=False),
    "fp16": Tolerance(score=1e-2, box=1e-2, missing=0.05, mean=True),
    "int8": Tolerance(score=0.1, box=0.1, missing=0.35, mean=True),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityRow:
    """One comparison.

    Attributes:
        case: batch and size that were fed.
        quantity: what was compared.
        error: the measured error.
        tolerance: the largest one allowed.
        compared: how many detections there were; 1 where all cells were compared.
    """

    case: str
    quantity: str
    error: float
    tolerance: float
    compared: int = 1

    @property
    def ok(self) -> bool:
        """Whether it passed; a NaN did not."""
        return self.error <= self.tolerance


def check_parity(backend: ExportedBackend, network: YOLOX) -> list[ParityRow]:
    """Compare an exported file with the network it came from.

    Args:
        backend: the opened file.
        network: in float32 on the CPU, in evaluation mode.

    Few of the sample images may hold anything above the threshold of NMS in a file. So what comes
    before NMS is compared too, cell by cell, and NMS alone with cells that all have a place in it.

    Returns:
        One row a comparison, for one, two and three images (a file of one batch size gets them
        filled up) and, where the size is free, for a second size. Where there was nothing to
        compare, a row that is not ok.
    """
    metadata = backend.metadata
    parts = None if metadata.nms is None or backend.cut is None else backend.cut()
    height, width = backend.spec.input.size
    sizes = [(height, width)]
    if backend.spec.dynamic_size:
        stride = max(backend.spec.strides)
        sizes.append((height + stride, max(width - stride, stride)))
    rows: list[ParityRow] = []
    for size in sizes:
        images = sample_inputs(3, backend.spec.input.at(size))
        for batch in (1, 2, 3):
            case = f"batch {batch}, {size[0]} x {size[1]}"
            rows += _compare(backend, parts, network, images[-batch:], case)
    if metadata.preprocess:
        rows += _compare_whole(backend, parts, network)
    if not any(row.compared for row in rows):
        nothing = "nothing compared, as the sample images give no boxes; lower `conf`; error"
        rows.append(ParityRow(case="all", quantity=nothing, error=math.inf, tolerance=0.0))
    return rows


def sample_inputs(count: int, input_config: InputConfig) -> ImageArray:
    """Sample images as the network gets them: uint8 (count, 3, H, W)."""
    return preprocess(list(_samples(count)), input_config)[0]


def sample_image(size_hw: tuple[int, int], *, rng: np.random.Generator) -> ImageArray:
    """An image with the spectrum of a photograph: noise of every scale, coarse scales strongest.

    Returns:
        uint8 (H, W, 3), BGR.
    """
    height, width = size_hw
    total = np.zeros((height, width, 3), np.float32)
    cell = 2
    while cell < max(size_hw):
        coarse = rng.standard_normal((-(-height // cell) + 1, -(-width // cell) + 1, 3))
        smooth = cv2.resize(coarse.astype(np.float32), (width, height))
        total += cell**0.5 * smooth
        cell *= 2
    total = (total - total.mean()) / total.std()
    return np.asarray(np.clip(128 + 64 * total, 0, 255), np.uint8)


def _samples(count: int) -> Iterator[ImageArray]:
    sizes = ((240, 320), (320, 240), (200, 360))
    for i in range(count):
        yield sample_image(sizes[i % len(sizes)], rng=np.random.default_rng((7, i)))


def _compare(
    backend: ExportedBackend,
    parts: Parts | None,
    network: YOLOX,
    images: ImageArray,
    case: str,
) -> list[ParityRow]:
    precision = backend.metadata.precision
    # With preprocessing inside, the backend always takes BGR.
    for_network = images
    weights_input = backend.metadata.spec.input
    if backend.spec.input.color != weights_input.color:
        for_network = images[:, ::-1].copy()
    with torch.inference_mode():
        reference = decode(network(to_floats(for_network, weights_input)), network.strides)
    rows: list[ParityRow] = []
    nms = backend.metadata.nms
    if nms is not None:
        settings = _settings(nms)
        expected = select_detections(reference, settings)
        found = backend.detect(images, settings)
        rows += compare_detections(expected, found, nms=nms, precision=precision, case=case)
        if parts is None:
            return rows
    cells = backend.run if parts is None else parts.cells
    chunks = [
        [output[:real] for output in cells(backend.inputs(np.asarray(chunk)))]
        for chunk, real in fixed_batches(images, backend.spec.batch)
    ]
    boxes, scores = (np.concatenate(outputs) for outputs in zip(*chunks, strict=True))
    rows += compare_cells(reference, boxes, scores, precision=precision, case=case)
    if nms is not None and parts is not None:
        rows.append(_compare_nms(parts, nms, boxes[:1], scores[:1], batch=backend.spec.batch or 1))
    return rows


def _compare_nms(
    parts: Parts, nms: InGraphNms, boxes: Array, scores: Array, *, batch: int
) -> ParityRow:
    """Give NMS the boxes of an image's cells in pairs that overlap from all to nothing.

    The scores are in the order of the cells' own, a quarter of them too low.
    """
    count = boxes.shape[1] // 2
    # An untrained network may predict infinite boxes.
    boxes, labels = np.clip(boxes, -1e4, 1e4), scores.argmax(axis=-1)
    first, second = (slice(start, start + 2 * count, 2) for start in (0, 1))
    away = (boxes[:, first, 2] - boxes[:, first, 0]) * np.linspace(0, 1, count, dtype=np.float32)
    boxes[:, second] = boxes[:, first]
    boxes[:, second, 0::2] += away[..., None]
    labels[:, second] = labels[:, first]
    lowest = max(0.0, nms.conf - (1 - nms.conf) / 3)
    spread = np.linspace(lowest, 1, 2 * count, dtype=np.float32).reshape(1, count, 2)
    pairs = np.empty_like(spread)
    order = scores[:, first].max(axis=-1).argsort(axis=-1)
    np.put_along_axis(pairs, order[..., None], spread, 1)
    ranks = np.zeros(labels.shape, np.float32)
    ranks[:, : 2 * count] = pairs.reshape(1, -1)
    crowd = np.zeros_like(scores)
    np.put_along_axis(crowd, labels[..., None], ranks[..., None], -1)
    boxes, crowd = (np.repeat(values, batch, axis=0) for values in (boxes, crowd))
    cells = DecodedPredictions(
        torch.from_numpy(boxes), torch.ones(crowd.shape[:2]), torch.from_numpy(crowd)
    )
    expected = {
        (i, int(one.class_ids[n]), float(one.scores[n]), *map(float, one.xyxy[n]))
        for i, one in enumerate(select_detections(cells, _settings(nms)))
        for n in range(len(one))
    }
    corners, best, classes, counts = parts.nms(boxes, crowd)
    found = {
        (i, int(classes[i, n]), float(best[i, n]), *map(float, corners[i, n]))
        for i, count in enumerate(counts)
        for n in range(int(count))
    }
    total = len(expected)
    # No two scores are equal, and nothing is computed but overlaps: few are near the threshold.
    return ParityRow(
        case="NMS alone",
        quantity=f"other detections, {total} boxes",
        error=len(expected ^ found) / max(total, 1),
        tolerance=TOLERANCES["fp16"].missing,
        compared=total,
    )


def _compare_whole(
    backend: ExportedBackend, parts: Parts | None, network: YOLOX
) -> list[ParityRow]:
    """Feed an image as it is, letterbox and all, against the Python pipeline.

    Resizing differs in the last bit of a pixel between libraries, so the tolerance is that of
    reduced precision.
    """
    metadata = backend.metadata
    nms = metadata.nms or InGraphNms()
    spec = dataclasses.replace(metadata.spec, batch=None)
    pipeline = Pipeline(TorchBackend.from_network(network, spec), _settings(nms))
    rows: list[ParityRow] = []
    for image in _samples(2):
        expected = pipeline([image])
        images = np.repeat(image[None], metadata.spec.batch or 1, axis=0)
        found = backend.select(backend.run(images), _settings(nms))[:1]
        height, width = image.shape[:2]
        limits = np.array([width, height, width, height], np.float32)
        found = [dataclasses.replace(f, xyxy=np.clip(f.xyxy, 0, limits)) for f in found]
        precision: ExportPrecision = "fp16" if metadata.precision == "fp32" else metadata.precision
        case = f"image {height} x {width}"
        rows += compare_detections(expected, found, nms=nms, precision=precision, case=case)
        if parts is not None:
            floats = to_floats(preprocess([image], metadata.spec.input)[0], metadata.spec.input)
            with torch.inference_mode():
                reference = decode(network(floats), network.strides)
            boxes, scores = (cells[:1] for cells in parts.cells(images))
            rows += compare_cells(reference, boxes, scores, precision=precision, case=case)
    return rows


def _settings(nms: InGraphNms) -> DetectSettings:
    return DetectSettings(conf=nms.conf, iou=nms.iou, max_det=nms.max_det)


def compare_cells(
    reference: DecodedPredictions,
    boxes: Array,
    scores: Array,
    *,
    precision: ExportPrecision,
    case: str,
) -> list[ParityRow]:
    """Errors of outputs of all cells.

    Args:
        reference: of the same images.
        boxes: (B, N, 4) xyxy.
        scores: (B, N, C).
        precision: chooses the tolerance.
        case: for the rows.
    """
    tolerance = TOLERANCES[precision]
    expected_boxes = reference.boxes.numpy()
    expected_scores = (reference.objectness[..., None] * reference.classes).numpy()
    if boxes.shape != expected_boxes.shape or scores.shape != expected_scores.shape:
        wrong = f"shapes {boxes.shape}, {scores.shape}"
        return [ParityRow(case=case, quantity=wrong, error=float("inf"), tolerance=0.0)]
    score_errors = _gaps(scores, expected_scores).max(axis=-1)
    sides = (expected_boxes[..., 2:] - expected_boxes[..., :2]).max(axis=-1)
    box_errors = _gaps(boxes, expected_boxes).max(axis=-1)
    box_errors = box_errors / np.maximum(sides, 8)
    if tolerance.mean:
        best = np.argsort(-expected_scores.max(axis=-1), axis=-1)[:, :TOP_CELLS]
        score_error = float(np.take_along_axis(score_errors, best, axis=1).mean())
        box_error = float(np.take_along_axis(box_errors, best, axis=1).mean())
        which = f"mean of the best {TOP_CELLS}"
    else:
        score_error, box_error = float(score_errors.max()), float(box_errors.max())
        which = "largest"
    row = partial(ParityRow, case=case)
    return [
        row(quantity=f"score error, {which}", error=score_error, tolerance=tolerance.score),
        row(quantity=f"box error, {which}", error=box_error, tolerance=tolerance.box),
    ]


def _gaps(a: Array, b: Array) -> Array:
    """Absolute differences; none between equal infinities, which untrained networks predict."""
    with np.errstate(invalid="ignore"):
        return np.where(a == b, 0, np.abs(a.astype(np.float64) - b))


def compare_detections(
    expected: Sequence[Detections],
    found: Sequence[Detections],
    *,
    nms: InGraphNms,
    precision: ExportPrecision,
    case: str,
) -> list[ParityRow]:
    """Errors of detections.

    Where two scores are equal but for rounding, either box may have suppressed the other, and
    either may be the last one that the file's limit lets through. So a detection of one side
    counts as missing on the other only if nothing there explains its absence: a box of its
    class that suppresses it, with no lower score, or a full list of better ones.

    Args:
        expected: of the reference, one per image.
        found: of the file.
        nms: that both went through.
        precision: chooses the tolerance.
        case: for the rows.
    """
    tolerance = TOLERANCES[precision]
    missing, total = 0, 0
    score_errors: list[float] = []
    box_errors: list[float] = []
    for a, b in zip(expected, found, strict=True):
        overlaps = _overlaps(a, b)
        missing += _unexplained(a, b, overlaps, nms, slack=tolerance.score)
        missing += _unexplained(b, a, overlaps.T, nms, slack=tolerance.score)
        total += len(a) + len(b)
        if overlaps.size:
            best = overlaps.max(axis=1)
            box_errors += (1 - best[best > 0]).tolist()
            same = best >= 0.95
            errors = np.abs(a.scores - b.scores[overlaps.argmax(axis=1)])
            score_errors += errors[same].tolist()
    measure = np.mean if tolerance.mean else np.max
    rows = (
        ("without a counterpart", missing / max(total, 1), tolerance.missing),
        ("score error", float(measure(score_errors or [0.0])), tolerance.score),
        ("1 - IoU, median", float(np.median(box_errors or [0.0])), tolerance.box),
    )
    return [
        ParityRow(
            case=case,
            quantity=f"{name}, {total} boxes",
            error=error,
            tolerance=allowed,
            compared=total,
        )
        for name, error, allowed in rows
    ]


def _overlaps(a: Detections, b: Detections) -> Array:
    """IoU of every detection of `a` with those of `b` that have its class."""
    iou = pairwise_iou(torch.from_numpy(a.xyxy), torch.from_numpy(b.xyxy)).numpy()
    return np.where(a.class_ids[:, None] == b.class_ids, iou, 0)


def _unexplained(
    a: Detections, b: Detections, overlaps: Array, nms: InGraphNms, *, slack: float
) -> int:
    """How many detections of `a` should have been in `b`."""
    reaches = overlaps >= min(nms.iou, 0.7) - 0.01
    no_worse = b.scores[None] >= a.scores[:, None] - slack
    explained = (reaches & no_worse).any(axis=1)
    if len(b) == nms.max_det:
        explained |= a.scores <= b.scores.min() + slack
    # The threshold itself lets one side keep what the other drops.
    explained |= a.scores <= nms.conf + slack
    return int((~explained).sum())
