"""``oculox predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from oculox.api import Detector
from oculox.cli.console import note, print_json, progress_bar, say
from oculox.cli.evaluate import BackendName, Conf, Device, ImageSize, Iou, Model, PrecisionOption
from oculox.predict.folder import PREDICTIONS, PredictSummary, predict_to_folder
from oculox.predict.sources import find_sources


def predict(
    weights: Model,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Images, folders, patterns, videos, a camera's number or '-' (stdin).",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for what is written.")] = Path(
        "runs/predict"
    ),
    conf: Conf = 0.3,
    iou: Iou = 0.45,
    classes: Annotated[
        str | None, typer.Option(help="Only these classes: names or numbers, comma-separated.")
    ] = None,
    imgsz: ImageSize = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 1,
    device: Device = "auto",
    precision: PrecisionOption = "fp32",
    backend: BackendName = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Look into folders of folders.")
    ] = False,
    no_draw: Annotated[bool, typer.Option("--no-draw", help="Write no annotated images.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Allow an output folder that is not empty.")
    ] = False,
    max_frames: Annotated[
        int | None, typer.Option(min=1, help="Most frames of a video or camera.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print a JSON summary instead of text.")
    ] = False,
) -> None:
    """Find objects in images and videos; write annotated copies and a JSON file."""
    found = find_sources(sources, recursive=recursive)
    detector = Detector(
        weights,
        conf=conf,
        iou=iou,
        classes=None if classes is None else [c.strip() for c in classes.split(",")],
        imgsz=imgsz,
        device=device,
        precision=precision,
        backend=backend,
        batch=batch,
    )
    if backend == "auto":
        note(f"backend: {detector.backend.kind}, the fastest one installed")
    with progress_bar("predicting") as progress:
        summary = predict_to_folder(
            detector.pipeline,
            found,
            output=output,
            draw=not no_draw,
            overwrite=overwrite,
            max_frames=max_frames,
            progress=progress,
        )
    for skipped in summary.unreadable:
        note(f"error: {skipped.error}")
    if json:
        print_json(_as_json(summary))
    else:
        _say(summary)
    if not summary.ok:
        raise typer.Exit(1)


def _say(summary: PredictSummary) -> None:
    stages = ", ".join(
        f"{name} {value:.1f}" for name, value in summary.times.milliseconds().items()
    )
    say(f"{summary.images} images, {summary.detections} detections; ms each: {stages}")
    say(f"images and {PREDICTIONS} in {summary.output}")
    for video in summary.videos:
        say(f"{video.frames} frames of {video.source}: {video.video}, {video.predictions}")


def _as_json(summary: PredictSummary) -> dict[str, object]:
    return {
        "output": str(summary.output),
        "predictions": str(summary.output / PREDICTIONS),
        "images": summary.images,
        "detections": summary.detections,
        "unreadable": [
            {"source": u.source.name, "error": str(u.error)} for u in summary.unreadable
        ],
        "videos": [str(v.video) for v in summary.videos],
        "milliseconds": summary.times.milliseconds(),
    }
