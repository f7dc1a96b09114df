"""``oculox track``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from oculox.cli import options as o
from oculox.cli.console import milliseconds, note, print_json, progress_bar, say
from oculox.errors import plural

if TYPE_CHECKING:
    from oculox.predict.track import TrackSummary


def parse_points(text: str) -> tuple[tuple[int, int], ...]:
    """``x1,y1,x2,y2,...`` as points.

    Raises:
        BadParameter: for any other text.
    """
    try:
        values = [int(value) for value in text.split(",")]
        return tuple(zip(values[::2], values[1::2], strict=True))
    except ValueError:
        raise typer.BadParameter(f"expected x1,y1,x2,y2,... in pixels, got {text!r}") from None


def track(
    weights: o.Model,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A video, a webcam's number, the URL of a stream, or a folder of frames.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Folder to write to; a new runs/track by default.")
    ] = None,
    tracker: Annotated[
        Literal["bytetrack", "sort", "ocsort", "botsort"],
        typer.Option(help="How objects are followed."),
    ] = "bytetrack",
    start_conf: Annotated[
        float, typer.Option(min=0, max=1, help="Lowest score that starts a new object.")
    ] = 0.5,
    lost_seconds: Annotated[
        float, typer.Option(min=0, help="How long an object that is not seen keeps its number.")
    ] = 1.0,
    line: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X1,Y1,X2,Y2",
            help="Count what crosses this line; may be repeated.",
        ),
    ] = None,
    zone: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X1,Y1,X2,Y2,X3,Y3,...",
            help="Count what is in this polygon; may be repeated.",
        ),
    ] = None,
    conf: o.Conf = 0.1,
    iou: o.Iou = 0.45,
    max_det: o.MaxDet = 1000,
    classes: o.Classes = None,
    agnostic_nms: o.AgnosticNms = False,
    imgsz: o.ImageSize = None,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    backend: o.Backend = None,
    no_draw: o.NoDraw = False,
    overwrite: o.Overwrite = False,
    max_frames: o.MaxFrames = None,
    fps: Annotated[
        float | None,
        typer.Option(min=0.1, help="Frames in a second; by default what the source says, or 25."),
    ] = None,
    retry_seconds: Annotated[
        float,
        typer.Option(min=0, help="How long a camera or stream that broke off is tried again."),
    ] = 30.0,
    json: o.Json = False,
) -> None:
    """Follow and count objects in a video, camera or stream.

    Writes an annotated video, JSON lines and MOT challenge text.
    """
    from oculox.api import Detector
    from oculox.files import free_path
    from oculox.predict.counting import Counter
    from oculox.predict.frames import open_frames
    from oculox.predict.sources import find_sources
    from oculox.predict.track import summary_as_dict, track_to_folder
    from oculox.predict.tracker import TrackSettings
    from oculox.runtime.timing import Stopwatch

    sources = find_sources([source])
    counter = Counter(map(parse_points, line or ()), map(parse_points, zone or ()))
    detector = Detector(
        weights,
        conf=conf,
        iou=iou,
        max_det=max_det,
        classes=o.split_names(classes),
        agnostic_nms=agnostic_nms,
        imgsz=imgsz,
        device=device,
        precision=precision,
        backend=backend,
    )
    if detector.choice is not None:
        note(f"note: {detector.choice}")
    watch = Stopwatch()
    with (
        open_frames(sources, fps=fps, retry_seconds=retry_seconds, watch=watch) as frames,
        progress_bar("tracking") as progress,
    ):
        summary = track_to_folder(
            detector.pipeline,
            frames,
            TrackSettings(algorithm=tracker, start_conf=start_conf, lost_seconds=lost_seconds),
            source=source,
            output=output or free_path(Path("runs/track")),
            counter=counter,
            draw=not no_draw,
            overwrite=overwrite,
            max_frames=max_frames,
            watch=watch,
            progress=progress,
        )
    if json:
        print_json(summary_as_dict(summary))
    else:
        _say(summary)
    if summary.lost:
        note(f"error: {summary.lost}; what came before is kept")
        raise typer.Exit(1)


def _say(summary: TrackSummary) -> None:
    objects = ", ".join(f"{count} {name}" for name, count in summary.objects.items())
    dropped = f" ({summary.dropped} dropped)" if summary.dropped else ""
    say(f"{plural(summary.frames, 'frame')}{dropped}; objects: {objects or 'none'}")
    for i, line in enumerate(summary.lines, start=1):
        say(f"line {i}: {line['in']} in, {line['out']} out")
    for i, zone in enumerate(summary.zones, start=1):
        say(f"zone {i}: {plural(zone['objects'], 'object')}, at most {zone['most']} at a time")
    stages = milliseconds({stage: ms.median for stage, ms in summary.milliseconds.items()})
    if stages:
        say(f"median ms per frame: {stages}")
    files = (summary.video, summary.predictions, summary.mot)
    say(f"in {summary.output}: {', '.join(file.name for file in files if file)}")
