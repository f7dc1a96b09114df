"""``oculox predict``."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from oculox.cli import options as o
from oculox.cli.console import milliseconds, note, print_json, progress_bar, say
from oculox.errors import plural

if TYPE_CHECKING:
    from oculox.api import Detector
    from oculox.predict.folder import PredictSummary
    from oculox.predict.many import ManySummary


_MOST_LINES = 25
"""Of the table of what was found."""


def predict(
    weights: o.Model,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Images, folders, glob patterns, videos, URLs, a webcam's number or '-' (stdin).",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Folder to write to; a new runs/predict by default."),
    ] = None,
    conf: o.Conf = 0.3,
    iou: o.Iou = 0.45,
    max_det: o.MaxDet = 1000,
    classes: o.Classes = None,
    agnostic_nms: o.AgnosticNms = False,
    imgsz: o.ImageSize = None,
    tta: o.Tta = None,
    tile: o.Tile = None,
    tile_overlap: o.TileOverlap = 0.2,
    batch: o.Batch = 1,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    backend: o.Backend = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Search subfolders too.")] = False,
    no_draw: o.NoDraw = False,
    overwrite: o.Overwrite = False,
    max_frames: o.MaxFrames = None,
    engine: Annotated[
        Literal["local", "ray"] | None,
        typer.Option(
            help="For any number of images: write Parquet files, nothing drawn; in this process or "
            "by workers on Ray."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Ray workers; by default one per GPU, or one per machine without GPUs."
        ),
    ] = None,
    part_size: Annotated[int, typer.Option(min=1, help="Images per Parquet file.")] = 1000,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume from the Parquet files in --output.")
    ] = False,
    json: o.Json = False,
) -> None:
    """Find objects in images and videos.

    Writes annotated copies and predictions.json; of a video an annotated one and JSON lines.
    """
    from oculox.addresses import to_location
    from oculox.api import Detector, predict_many
    from oculox.errors import UsageError
    from oculox.files import free_path
    from oculox.predict.folder import predict_to_folder
    from oculox.predict.sources import find_sources

    options: dict[str, Any] = {
        "conf": conf,
        "iou": iou,
        "max_det": max_det,
        "classes": o.split_names(classes),
        "agnostic_nms": agnostic_nms,
        "imgsz": imgsz,
        "tta": tta,
        "tile": tile,
        "tile_overlap": tile_overlap,
        "device": device,
        "precision": precision,
        "backend": backend,
        "batch": batch,
    }
    if engine is not None:
        if resume and output is None:
            raise UsageError("`resume` continues what is in `output`: name it")
        if max_frames is not None:
            raise UsageError("`max_frames` is for videos, `engine` for images alone")
        # Ray prints what it has to say to standard output.
        with (
            progress_bar("predicting", rate="images") as progress,
            redirect_stdout(sys.stderr),
        ):
            many = predict_many(
                weights,
                sources,
                output or free_path(Path("runs/predict")),
                engine=engine,
                workers=workers,
                part_size=part_size,
                recursive=recursive,
                resume=resume,
                overwrite=overwrite,
                progress=progress,
                **options,
            )
        _finish_many(many, json=json)
        return
    if resume or workers is not None:
        raise UsageError("`resume` and `workers` are for many images: pass `engine` too")
    found = find_sources(sources, recursive=recursive)
    detector = Detector(weights, **options)
    if detector.choice is not None:
        note(f"note: {detector.choice}")
    with progress_bar("predicting") as progress:
        summary = predict_to_folder(
            detector.pipeline,
            found,
            output=to_location(output) if output else free_path(Path("runs/predict")),
            draw=not no_draw,
            overwrite=overwrite,
            max_frames=max_frames,
            progress=progress,
        )
    for source in summary.truncated:
        note(
            f"warning: {source.name}: the image is truncated (its end is missing); "
            "predicted on what could be decoded"
        )
    for skipped in summary.unreadable:
        note(f"error: {skipped.error}")
    if json:
        print_json({**_as_dict(summary), "backend": _backend(detector)})
    elif not summary.empty:
        _say(summary, conf=conf)
    if not summary.ok:
        raise typer.Exit(1)


def _finish_many(summary: ManySummary, *, json: bool) -> None:
    for part in summary.failed_parts:
        note(f"error: part {part.number} is missing: {part.error}")
    if json:
        print_json(
            {
                **dataclasses.asdict(summary),
                "output": str(summary.output),
                "predictions": str(summary.predictions),
                "manifest": str(summary.manifest),
            }
        )
    else:
        kept = f", {summary.kept_parts} of them from before" if summary.kept_parts else ""
        say(
            f"{plural(summary.images, 'image')} ({summary.unreadable} unreadable), "
            f"{plural(summary.detections, 'detection')}; "
            f"{summary.images_per_second:.1f} images/s"
        )
        say(f"{plural(summary.parts - len(summary.failed_parts), 'part')}{kept}")
        say(f"{summary.predictions}")
    if not summary.ok:
        note("the other parts are done; --resume tries again those that are missing")
        raise typer.Exit(1)


def _say(summary: PredictSummary, *, conf: float) -> None:
    lines = (
        str(summary.found[0]).splitlines()
        if len(summary.found) == 1
        else [f"{found.source}: {found.summary()}" for found in summary.found]
    )
    for line in lines[:_MOST_LINES]:
        say(line)
    if len(lines) > _MOST_LINES:
        say(f"... and {len(lines) - _MOST_LINES} more in {summary.predictions.name}")
    frames = sum(video.frames for video in summary.videos)
    counts = f"{plural(summary.images, 'image')}, " if summary.images or not frames else ""
    counts += f"{plural(frames, 'video frame')}, " if frames else ""
    # Of one image alone the time is that of warming up, which is no speed.
    stages = milliseconds({stage: ms.median for stage, ms in summary.speed.items()})
    speed = f"; median ms per image: {stages}" if stages else ""
    score = "" if summary.detections else f" with a score of {conf} or more (--conf)"
    say(f"{counts}{plural(summary.detections, 'detection')}{score}{speed}")
    say(f"images and {summary.predictions.name} in {summary.output}")
    for video in summary.videos:
        files = ", ".join(str(path) for path in (video.video, video.predictions) if path)
        say(f"{plural(video.frames, 'frame')} of {video.source}: {files}")


def _backend(detector: Detector) -> dict[str, Any]:
    """What runs the model and, where `auto` chose it, why."""
    choice = {} if detector.choice is None else dataclasses.asdict(detector.choice)
    return {"runtime": detector.backend.kind, **choice}


def _as_dict(summary: PredictSummary) -> dict[str, Any]:
    return {
        "output": None if summary.empty else str(summary.output),
        "predictions": None if summary.empty else str(summary.predictions),
        "images": summary.images,
        "detections": summary.detections,
        "unreadable": [
            {"source": u.source.name, "error": str(u.error)} for u in summary.unreadable
        ],
        "truncated": [source.name for source in summary.truncated],
        "videos": [
            {
                "source": v.source,
                "frames": v.frames,
                "detections": v.detections,
                "predictions": str(v.predictions),
                "annotated": None if v.video is None else str(v.video),
            }
            for v in summary.videos
        ],
        "milliseconds": {stage: dataclasses.asdict(ms) for stage, ms in summary.speed.items()},
    }
