"""``oculox eval``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from oculox.api import Detector
from oculox.cli.console import note, print_json, progress_bar, say
from oculox.config.schema import Precision
from oculox.distributed.devices import open_processes
from oculox.distributed.launch import is_launched, launch
from oculox.evaluation.evaluate import Evaluation
from oculox.files import write_json

Model = Annotated[Path, typer.Argument(metavar="WEIGHTS", help="A checkpoint or exported model.")]
Conf = Annotated[float, typer.Option(min=0, max=1, help="Lowest score kept.")]
Iou = Annotated[float, typer.Option(min=0, max=1, help="IoU above which the weaker box goes.")]
ImageSize = Annotated[
    int | None, typer.Option("--imgsz", help="Input size; the model's own by default.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps or npu.")]
PrecisionOption = Annotated[Precision, typer.Option(help="Of the network, for PyTorch weights.")]
BackendName = Annotated[
    str | None,
    typer.Option("--backend", help="For checkpoints: torch, onnx, openvino or auto (fastest)."),
]


def evaluate(
    context: typer.Context,
    weights: Model,
    data: Annotated[
        Path | None,
        typer.Option(help="Data set folder or COCO JSON; the run's own data by default."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images, when --data is a JSON file.")
    ] = None,
    split: Annotated[str, typer.Option(help="val or train, when --data is a folder.")] = "val",
    conf: Conf = 0.01,
    iou: Iou = 0.65,
    imgsz: ImageSize = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 8,
    workers: Annotated[int, typer.Option(min=0, help="Loader processes.")] = 1,
    device: Device = "auto",
    precision: PrecisionOption = "fp32",
    backend: BackendName = None,
    devices: Annotated[
        int, typer.Option(min=1, help="Processes that share the images, one for each device.")
    ] = 1,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write all metrics there; '-' prints them.")
    ] = None,
    detections: Annotated[
        Path | None, typer.Option(help="Write all detections there, in COCO's format.")
    ] = None,
) -> None:
    """Evaluate a model: the 12 COCO metrics, AP and AR of every class, speed by stage."""
    if devices > 1 and not is_launched():
        raise typer.Exit(launch(context.obj, processes=devices))
    with ExitStack() as stack:
        processes = stack.enter_context(open_processes(device))
        progress = stack.enter_context(progress_bar("evaluating"))
        detector = Detector(
            weights, device=processes.device, precision=precision, backend=backend, imgsz=imgsz
        )
        if backend == "auto" and processes.rank == 0:
            note(f"backend: {detector.backend.kind}, the fastest one installed")
        result = detector.evaluate(
            data,
            images=images,
            split=split,
            conf=conf,
            iou=iou,
            batch=batch,
            workers=workers,
            rank=processes.rank,
            world_size=processes.world_size,
            gather=processes.gather,
            progress=progress,
        )
    if processes.rank > 0:
        return
    if detections is not None:
        write_json(detections, result.results)
        note(f"{len(result.results)} detections in {detections}")
    if json is not None and str(json) == "-":
        print_json(_as_json(result))
        return
    _say(result)
    if json is not None:
        write_json(json, _as_json(result))
        note(f"metrics in {json}")


def _say(result: Evaluation) -> None:
    for text in result.notes:
        note(text)
    say(result.metrics.table())
    say()
    say(result.metrics.class_table())
    say()
    stages = ", ".join(f"{name} {value:.1f}" for name, value in result.times.milliseconds().items())
    say(f"{result.images} images, {result.images_per_second:.1f} a second; ms each: {stages}")


def _as_json(result: Evaluation) -> dict[str, object]:
    metrics = result.metrics
    return {
        "metrics": metrics.as_dict(),
        "classes": [
            {
                "name": c.name,
                "objects": c.objects,
                "ap": c.ap,
                "ap50": c.ap50,
                "ar": c.ar,
                "precision": c.precision,
                "recall": c.recall,
                "f1": c.f1,
                "score": c.confidence,
            }
            for c in metrics.classes
        ],
        "confusion": metrics.confusion.tolist(),
        "images": result.images,
        "images_per_second": result.images_per_second,
        "milliseconds": result.times.milliseconds(),
        "notes": list(result.notes),
    }
