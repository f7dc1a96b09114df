"""A network over a dataset: detections, COCO metrics and speed, on one or many processes."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from oculox.data.coco import CocoIndex
from oculox.data.faults import bad_evaluation_images
from oculox.data.loader import EvalLoader
from oculox.data.preprocess import boxes_to_source, letterbox_geometry
from oculox.distributed.ahead import usable_threads, work_ahead
from oculox.distributed.devices import Processes
from oculox.errors import DataError, UsageError
from oculox.evaluation.coco_metrics import FoundObjects, evaluate_boxes
from oculox.evaluation.metrics import CocoMetrics
from oculox.postprocess import DetectSettings
from oculox.runtime.backend import Backend
from oculox.runtime.timing import StageTimes, Stopwatch
from oculox.runtime.views import ImageDetector, Views
from oculox.types import Batch, Detections, ImageId, IntArray, ModelSpec, Progress

OFFICIAL_SETTINGS = DetectSettings(conf=0.01, iou=0.65, max_det=1000)
"""Thresholds of the official evaluation; it has no limit, and COCO counts 100 detections."""

ALONE = Processes()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What an evaluation found.

    Attributes:
        metrics: the COCO metrics.
        index: the data.
        found: all detections.
        times: seconds by stage over all processes; `decode` is the wait for the loader.
        seconds: wall time of the slowest process, without the counting of metrics.
        images: number of images that could be read.
        left_out: what is wrong with each of the others, which do not count.
        left_out_ids: the ids of those images.
        notes: what a reader of the metrics should know, in sentences.
    """

    metrics: CocoMetrics
    index: CocoIndex
    found: FoundObjects
    times: StageTimes
    seconds: float
    images: int
    left_out: tuple[str, ...] = ()
    left_out_ids: frozenset[ImageId] = frozenset()
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def results(self) -> list[dict[str, Any]]:
        """All detections as COCO results, in the dataset's image and category ids."""
        return self.found.to_coco(self.index)

    @property
    def images_per_second(self) -> float:
        """Throughput, all stages and processes together."""
        return self.images / self.seconds if self.seconds > 0 else 0.0


def evaluate(
    backend: Backend,
    index: CocoIndex,
    *,
    settings: DetectSettings = OFFICIAL_SETTINGS,
    views: Views | None = None,
    size_hw: tuple[int, int] | None = None,
    batch: int = 8,
    workers: int = 0,
    max_bad_images: int = 0,
    processes: Processes = ALONE,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a network on a dataset, as the official code does: boxes are not clipped.

    With several processes each takes its share of the images, and all return the same metrics.

    Args:
        backend: the network.
        index: the data; metrics are counted against its `truth`.
        settings: thresholds.
        views: how each image is looked at; by default once.
        size_hw: input height and width; None for the network's own.
        batch: images at once; where there are several views, views of one image at once.
        workers: loader processes.
        max_bad_images: how many images that cannot be read may be left out.
        processes: those that share the images.
        progress: called with the numbers of batches done and in all, of this process.

    Raises:
        DataError: when the network predicts another number of classes than the data has, or more
            images cannot be read than allowed.
        UsageError: when the network does not take that size.
    """
    if batch < 1:
        raise UsageError(f"batch must be at least 1, got {batch}")
    input_config, detector = backend.spec.input.at(backend.spec.check_size(size_hw)), None
    if views is not None and views != Views():
        detector = ImageDetector(
            backend, settings, views=views, size_hw=size_hw, batch=batch, clip=False
        )
    loader = EvalLoader(
        index,
        input_config=input_config if detector is None else None,
        batch=batch if detector is None else 1,
        workers=workers,
        rank=processes.rank,
        world_size=processes.world_size,
        max_bad_images=max_bad_images,
    )
    return evaluate_loader(
        backend,
        loader,
        settings=settings,
        detector=detector,
        processes=processes,
        progress=progress,
    )


def evaluate_loader(
    backend: Backend,
    loader: EvalLoader,
    *,
    settings: DetectSettings = OFFICIAL_SETTINGS,
    detector: ImageDetector | None = None,
    processes: Processes = ALONE,
    progress: Progress | None = None,
) -> Evaluation:
    """`evaluate` with a loader that is kept between evaluations, as training does.

    Args:
        backend: the network.
        loader: this process's share of the images, with the preprocessing of `backend`, or
            whole ones for `detector`.
        settings: thresholds.
        detector: finds objects in whole images, in place of `backend` alone.
        processes: those that share the images.
        progress: called with the numbers of batches done and in all, of this process.

    Raises:
        DataError: as `evaluate`.
        ValueError: when the loader prepares images in another way than the network needs.
    """
    index, spec = loader.index, backend.spec
    given = loader.input_config
    if detector is not None:
        fits = given is None
    else:
        fits = given is not None and given == spec.input.at(given.size)
    if not fits:
        needed = "whole images" if detector is not None else spec.input
        raise ValueError(f"the loader's preprocessing is {given}, the network needs {needed}")
    categories, notes = match_classes(spec, index)
    spec.check_classes(settings.class_ids)
    labels = np.array([index.category_ids.index(category) for category in categories], np.int64)
    share = _evaluate_share(detector or backend, loader, settings, labels, progress)
    shares = processes.gather([share])
    found = FoundObjects.join(s.found for s in shares)
    times = sum((s.times for s in shares), StageTimes())
    left_out = {image_id: fault for s in shares for image_id, fault in s.left_out.items()}
    faults = bad_evaluation_images(loader.max_bad_images).add(left_out.values())
    return Evaluation(
        metrics=evaluate_boxes(index, found, left_out=left_out),
        index=index,
        found=found,
        times=times,
        seconds=max(s.seconds for s in shares),
        images=times.images - len(left_out),
        left_out=tuple(faults),
        left_out_ids=frozenset(left_out),
        notes=notes,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Share:
    """What one process found."""

    found: FoundObjects
    left_out: dict[ImageId, str]
    times: StageTimes
    seconds: float


def _evaluate_share(
    model: Backend | ImageDetector,
    loader: EvalLoader,
    settings: DetectSettings,
    labels: IntArray,
    progress: Progress | None,
) -> _Share:
    threads = usable_threads()
    shared = model.for_threads(threads)
    position = {image_id: i for i, image_id in enumerate(loader.index.image_ids)}

    def work(batch: Batch) -> tuple[Batch, FoundObjects, StageTimes]:
        watch = Stopwatch()
        if isinstance(shared, ImageDetector):
            found = shared(list(batch.images.permute(0, 2, 3, 1).numpy()), watch=watch)
        else:
            # Threads side by side have a batch in memory together, not each.
            count = len(batch.images)
            size = max(1, count // threads) if shared.side_by_side else count
            found = []
            for start in range(0, count, size):
                found += shared.detect(batch.images[start : start + size], settings, watch=watch)
        with watch.stage("postprocess"):
            columns = FoundObjects.join(
                _columns(result, position[image_id], labels)
                for result, image_id in _in_sources(batch, found, loader)
            )
        watch.count(len(found))
        return batch, columns, watch.times()

    parts: list[FoundObjects] = []
    left_out: dict[ImageId, str] = {}
    start = time.perf_counter()
    waiting = Stopwatch()
    times = StageTimes()
    done = work_ahead(work, _timed(loader, waiting), threads=threads)
    for count, (batch, columns, seconds) in enumerate(done, start=1):
        parts.append(columns)
        times += seconds
        bad = zip(batch.image_ids, batch.faults, strict=True)
        left_out.update({image_id: faults[0] for image_id, faults in bad if faults})
        if progress is not None:
            progress(count, len(loader))
    return _Share(
        found=FoundObjects.join(parts),
        left_out=left_out,
        times=times + waiting.times(),
        seconds=time.perf_counter() - start,
    )


def _timed(loader: EvalLoader, watch: Stopwatch) -> Iterator[Batch]:
    """The batches; the wait for them counts as decoding."""
    batches = iter(loader)
    while True:
        with watch.stage("decode"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _in_sources(
    batch: Batch, found: Sequence[Detections], loader: EvalLoader
) -> Iterator[tuple[Detections, ImageId]]:
    """What was found in each image that could be read, in the image's own pixels."""
    to = loader.input_config
    described = zip(found, batch.image_ids, batch.source_hw, batch.faults, strict=True)
    for result, image_id, source_hw, faults in described:
        if faults:
            continue
        if to is not None:
            geometry = letterbox_geometry(source_hw, to.size, to.placement)
            boxes = boxes_to_source(result.xyxy, geometry, clip=False)
            result = dataclasses.replace(result, xyxy=boxes)
        yield result, image_id


def _columns(found: Detections, owner: int, labels: IntArray) -> FoundObjects:
    """Detections of an image as columns; `labels` gives the data's class of the model's."""
    corners = found.xyxy.astype(np.float64)
    return FoundObjects(
        owners=np.full(len(found), owner, np.int64),
        labels=labels[found.class_ids],
        xywh=np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1),
        scores=found.scores.astype(np.float64),
    )


def match_classes(
    spec: ModelSpec, index: CocoIndex, *, model: str = "the model"
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The data's category id of each class the network predicts, and notes on how they match.

    Equal sets of names are matched by name, in any order; otherwise by position. `model` names
    the network in the error.

    Raises:
        DataError: when the numbers of classes differ.
    """
    if spec.num_classes != len(index.class_names):
        raise DataError(
            f"wrong class count: {model} predicts {spec.num_classes} classes, "
            f"{index.annotations} has {len(index.class_names)}; evaluate on the data the model "
            "was trained for, or fine-tune it on this data"
        )
    if spec.names == index.class_names:
        return index.category_ids, ()
    by_name: Mapping[str, int] = dict(zip(index.class_names, index.category_ids, strict=True))
    if len(by_name) == len(set(spec.names)) == spec.num_classes and set(spec.names) == set(by_name):
        note = "the model's classes come in another order than the data's: matched by name"
        return tuple(by_name[name] for name in spec.names), (note,)
    pairs = zip(spec.names, index.class_names, strict=True)
    model, data = next(pair for pair in pairs if pair[0] != pair[1])
    note = (
        "class names of model and data differ, matched by position "
        f"(the first: {model!r} of the model is taken for {data!r} of the data)"
    )
    return index.category_ids, (note,)
