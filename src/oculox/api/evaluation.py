"""`evaluate` and `compare`: models on labelled images."""

import dataclasses
from pathlib import Path

from oculox.addresses import Location
from oculox.api.detector import Detector
from oculox.config.schema import Precision
from oculox.data.coco import Split
from oculox.datasets.splits import open_split
from oculox.evaluation.evaluate import Evaluation, match_classes
from oculox.evaluation.evaluate import evaluate as evaluate_backend
from oculox.files import require_new_file
from oculox.report.comparison import Comparison, compare_evaluations, write_comparison
from oculox.runtime.backend import Backend
from oculox.runtime.views import Tta
from oculox.types import ImageSize, Progress


def evaluate(
    model: str | Location | Backend,
    data: str | Location | None = None,
    *,
    split: Split = "val",
    images: str | Location | None = None,
    conf: float = 0.01,
    iou: float = 0.65,
    max_det: int = 1000,
    agnostic_nms: bool = False,
    imgsz: ImageSize | None = None,
    batch: int = 8,
    workers: int = 1,
    max_bad_images: int = 0,
    device: str = "auto",
    precision: Precision = "fp32",
    backend: str | None = None,
    tta: Tta | None = None,
    tile: int | None = None,
    tile_overlap: float = 0.2,
    report: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """COCO metrics of a model on a dataset; see `Detector` and `Detector.evaluate`.

    Raises:
        OculoxError: anything wrong with the model, the data or an option.
    """
    detector = Detector(
        model,
        max_det=max_det,
        agnostic_nms=agnostic_nms,
        imgsz=imgsz,
        device=device,
        precision=precision,
        backend=backend,
        tta=tta,
        tile=tile,
        tile_overlap=tile_overlap,
    )
    result = detector.evaluate(
        data,
        split=split,
        images=images,
        conf=conf,
        iou=iou,
        batch=batch,
        workers=workers,
        max_bad_images=max_bad_images,
        report=report,
        overwrite=overwrite,
        progress=progress,
    )
    if detector.choice is None:
        return result
    return dataclasses.replace(result, notes=(*result.notes, str(detector.choice)))


def compare(
    model_a: str | Location | Backend,
    model_b: str | Location | Backend,
    data: str | Location | None = None,
    *,
    split: Split = "val",
    images: str | Location | None = None,
    conf: float = 0.01,
    iou: float = 0.65,
    max_det: int = 1000,
    agnostic_nms: bool = False,
    imgsz: ImageSize | None = None,
    batch: int = 8,
    workers: int = 1,
    max_bad_images: int = 0,
    device: str = "auto",
    precision: Precision = "fp32",
    backend: str | None = None,
    draws: int = 1000,
    report: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Two models on the same images: differences of the metrics, and the images that differ.

    Args:
        model_a: the first model, as for `Detector`.
        model_b: the second one, of the same classes.
        data: a dataset folder or COCO JSON; by default what the first model was trained on.
        split: ``val``, ``train`` or ``test``, of a folder.
        images: folder of the images of a JSON file; by default the file's own.
        conf: lowest score kept.
        iou: NMS: IoU above which the weaker of two boxes of a class is dropped.
        max_det: most detections per image.
        agnostic_nms: NMS across all classes.
        imgsz: input size of both; by default each one's own.
        batch: images at once.
        workers: loader processes.
        max_bad_images: how many images that cannot be read may be left out.
        device: ``auto`` takes the best present.
        precision: of the networks, for PyTorch weights.
        backend: the runtime for checkpoints, as for `Detector`.
        draws: how often images are drawn with replacement for the intervals; 0 for none.
        report: HTML file to write.
        overwrite: replace `report` where it exists.
        progress: called with the numbers of batches done and in all, for one model and then for
            the other.

    Raises:
        OculoxError: anything wrong with a model, the data or an option.
    """
    page = None if report is None else require_new_file(Path(report), overwrite=overwrite)
    detectors = [
        Detector(
            model,
            max_det=max_det,
            agnostic_nms=agnostic_nms,
            imgsz=imgsz,
            device=device,
            precision=precision,
            backend=backend,
        )
        for model in (model_a, model_b)
    ]
    index = (
        detectors[0]._own_data(split) if data is None else open_split(data, split, images=images)
    )
    names = [str(one.path or one.backend.spec.model.name) for one in detectors]
    for side, one, name in zip("AB", detectors, names, strict=True):
        match_classes(one.backend.spec, index, model=f"model {side} ({name})")
    settings = detectors[0]._evaluation_settings(conf, iou)
    first, second = (
        evaluate_backend(
            one.backend,
            index,
            settings=settings,
            size_hw=one.size_hw,
            batch=batch,
            workers=workers,
            max_bad_images=max_bad_images,
            progress=progress,
        )
        for one in detectors
    )
    result = compare_evaluations((names[0], names[1]), (first, second), index, draws=draws)
    if page is not None:
        described = [one._described(settings) for one in detectors]
        tables = {f"Settings of {side}": d for side, d in zip("AB", described, strict=True)}
        write_comparison(page, result, settings=tables)
    return result
