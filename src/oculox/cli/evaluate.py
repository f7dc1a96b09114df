"""``oculox eval``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oculox.cli import options as o
from oculox.cli.console import (
    milliseconds,
    note,
    print_json,
    progress_bar,
    say,
)
from oculox.errors import plural

if TYPE_CHECKING:
    from oculox.evaluation.evaluate import Evaluation


def evaluate(
    context: typer.Context,
    weights: o.Model,
    data: o.Data = None,
    images: o.Images = None,
    split: o.Split = "val",
    conf: o.Conf = 0.01,
    iou: o.Iou = 0.65,
    max_det: o.MaxDet = 1000,
    agnostic_nms: o.AgnosticNms = False,
    imgsz: o.ImageSize = None,
    tta: o.Tta = None,
    tile: o.Tile = None,
    tile_overlap: o.TileOverlap = 0.2,
    batch: o.Batch = 8,
    workers: o.Workers = 1,
    max_bad_images: o.MaxBadImages = 0,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    backend: o.Backend = None,
    devices: o.Devices = 1,
    json: o.Json = False,
    report: o.Report = None,
    detections: Annotated[
        Path | None, typer.Option(help="Write all detections to this file, in COCO's format.")
    ] = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Measure the COCO metrics of a model on a dataset.

    Prints the 12 COCO metrics, AP and AR of every class and the speed by stage. Without --data
    a checkpoint is measured on the validation split of its own run.
    """
    from oculox import api
    from oculox.distributed.launch import is_launched, is_main_process, launch
    from oculox.files import require_new_file, write_json
    from oculox.weights.download import locate_weights

    for file in filter(None, (report, detections)):
        require_new_file(file, overwrite=overwrite)
    if devices > 1 and not is_launched():
        locate_weights(weights)  # published ones are fetched once, before processes start
        raise typer.Exit(launch(context.obj, processes=devices))
    with progress_bar("evaluating") as progress:
        result = api.evaluate(
            weights,
            data,
            images=images,
            split=split,
            conf=conf,
            iou=iou,
            max_det=max_det,
            agnostic_nms=agnostic_nms,
            imgsz=imgsz,
            tta=tta,
            tile=tile,
            tile_overlap=tile_overlap,
            batch=batch,
            workers=workers,
            max_bad_images=max_bad_images,
            device=device,
            precision=precision,
            backend=backend,
            report=report,
            overwrite=overwrite,
            progress=progress,
        )
    if not is_main_process():
        return
    if detections is not None:
        write_json(detections, result.results)
        note(f"{plural(len(result.results), 'detection')} in {detections}")
    if report is not None:
        note(f"report in {report}")
    for text in result.left_out:
        note(f"warning: left out: {text}")
    for text in result.notes:
        note(f"note: {text}")
    if json:
        print_json(_as_dict(result))
    else:
        _say(result)


def _say(result: Evaluation) -> None:
    say(result.metrics.table())
    say()
    say(result.metrics.class_table())
    say()
    stages = milliseconds(result.times.milliseconds())
    speed = f"{result.images_per_second:.1f} images/s; ms per image: {stages}"
    say(f"{plural(result.images, 'image')}, {speed}")


def _as_dict(result: Evaluation) -> dict[str, Any]:
    metrics = result.metrics
    classes = []
    for one in metrics.classes:
        row = dataclasses.asdict(one)
        del row["category_id"]
        row["score"] = row.pop("confidence")
        classes.append(row)
    return {
        "metrics": metrics.as_dict(),
        "classes": classes,
        "confusion": metrics.confusion.tolist(),
        "images": result.images,
        "left_out": list(result.left_out),
        "images_per_second": result.images_per_second,
        "milliseconds": result.times.milliseconds(),
        "notes": list(result.notes),
    }
