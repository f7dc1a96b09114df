"""``oculox compare``."""

from __future__ import annotations

from typing import Annotated

import typer

from oculox.cli import options as o
from oculox.cli.console import note, print_json, progress_bar, say


def compare(
    a: Annotated[
        str,
        typer.Argument(metavar="A", help="The first model, as WEIGHTS of eval."),
    ],
    b: Annotated[
        str,
        typer.Argument(metavar="B", help="The second one, of the same classes."),
    ],
    data: o.Data = None,
    images: o.Images = None,
    split: o.Split = "val",
    conf: o.Conf = 0.01,
    iou: o.Iou = 0.65,
    max_det: o.MaxDet = 1000,
    agnostic_nms: o.AgnosticNms = False,
    imgsz: o.ImageSize = None,
    batch: o.Batch = 8,
    workers: o.Workers = 1,
    max_bad_images: o.MaxBadImages = 0,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    backend: o.Backend = None,
    draws: Annotated[
        int, typer.Option(min=0, help="Bootstrap draws for the intervals; 0: no intervals.")
    ] = 1000,
    report: o.Report = None,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Compare two models on the same images.

    Prints the 12 COCO metrics of both and their differences, each with a 95 % bootstrap interval
    over the images. Without --data the validation split of the first model's run is used.
    """
    from oculox import api

    with progress_bar("evaluating") as progress:
        result = api.compare(
            a,
            b,
            data,
            images=images,
            split=split,
            conf=conf,
            iou=iou,
            max_det=max_det,
            agnostic_nms=agnostic_nms,
            imgsz=imgsz,
            batch=batch,
            workers=workers,
            max_bad_images=max_bad_images,
            device=device,
            precision=precision,
            backend=backend,
            draws=draws,
            report=report,
            overwrite=overwrite,
            progress=progress,
        )
    if report is not None:
        note(f"report in {report}")
    for name, one in zip("AB", result.results, strict=True):
        for text in (*one.left_out, *one.notes):
            note(f"note on {name}: {text}")
    if json:
        print_json(result.as_dict())
    else:
        say(result.table())
