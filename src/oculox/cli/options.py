"""Options and arguments that several commands share: one meaning and one help text each.

Nothing heavy is imported here or at the top of any module of `oculox.cli`: the help of every
command must come at once.
"""

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import typer


class Size(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int


def parse_size(text: str) -> Size:
    """``640`` or ``480,640`` as height and width.

    Raises:
        BadParameter: for any other text.
    """
    try:
        sides = [int(side) for side in str(text).replace("x", ",").split(",")]
        return Size(*sides) if len(sides) == 2 else Size(sides[0], *sides)
    except (ValueError, TypeError):
        raise typer.BadParameter(f"expected a number or height,width, got {text!r}") from None


def split_names(text: str | None) -> list[str] | None:
    """``a, b`` as ``["a", "b"]``."""
    return None if text is None else [part.strip() for part in text.split(",")]


# What a command works on. What may be an address is text: a Path would take a slash out of it.
Model = Annotated[
    str,
    typer.Argument(
        metavar="WEIGHTS",
        help="A checkpoint, an exported model, published weights or a service's URL.",
    ),
]
Weights = Annotated[
    str,
    typer.Argument(metavar="WEIGHTS", help="A file of any project, or a published name."),
]
DataPath = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Dataset folder, data.yaml or a COCO JSON file.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="PATH",
        help="Dataset folder, data.yaml or a COCO JSON file, to measure on.",
    ),
]
Images = Annotated[
    str | None,
    typer.Option(
        "--images",
        metavar="PATH",
        help="Folder of the images of a COCO JSON file; by default the file's own.",
    ),
]
Split = Annotated[
    Literal["val", "train", "test"],
    typer.Option("--split", help="Which split of a dataset folder."),
]
MaxBadImages = Annotated[
    int,
    typer.Option(
        "--max-bad-images", min=0, help="Most unreadable images to leave out; more are an error."
    ),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        "--calib",
        metavar="PATH",
        help="Dataset or folder of images to calibrate int8 on.",
    ),
]

# How the model runs.
ImageSize = Annotated[
    Size | None,
    typer.Option(
        "--imgsz",
        parser=parse_size,
        metavar="S|H,W",
        help="Input size in pixels: a number or height,width; by default the model's own.",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps or npu.")]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16"],
    typer.Option("--precision", help="Precision of the network, for PyTorch weights."),
]
Backend = Annotated[
    str | None,
    typer.Option(
        "--backend",
        help="For checkpoints: torch, onnx, openvino, ncnn, or auto: on a CPU the quickest of "
        "those installed, measured the first time, else torch.",
    ),
]
Batch = Annotated[int, typer.Option("--batch", min=1, max=65536, help="Images at once.")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Loader processes.")]
Devices = Annotated[
    int,
    typer.Option("--devices", min=1, help="Number of processes, one for each device (CPU: any)."),
]

# Which detections are kept.
Conf = Annotated[
    float, typer.Option("--conf", min=0, max=1, help="Confidence threshold: lowest score kept.")
]
Iou = Annotated[
    float,
    typer.Option("--iou", min=0, max=1, help="NMS: IoU above which the weaker box is dropped."),
]
MaxDet = Annotated[int, typer.Option("--max-det", min=1, help="Most detections per image.")]
Classes = Annotated[
    str | None,
    typer.Option("--classes", help="Only these classes: names or numbers, comma-separated."),
]
AgnosticNms = Annotated[bool, typer.Option("--agnostic-nms", help="NMS across all classes.")]

# How an image is looked at.
Tta = Annotated[
    Literal["flip", "full"] | None,
    typer.Option(
        "--tta", help="Test-time augmentation: the mirror image too; full: both in three sizes."
    ),
]
Tile = Annotated[
    int | None,
    typer.Option(
        "--tile", min=32, help="Look at tiles of that many pixels too, if an image is larger."
    ),
]
TileOverlap = Annotated[
    float,
    typer.Option(
        "--tile-overlap", min=0, max=0.9, help="Part of a tile that the next tile shows too."
    ),
]

# What is written.
NoDraw = Annotated[bool, typer.Option("--no-draw", help="Write no annotated images and videos.")]
MaxFrames = Annotated[
    int | None, typer.Option("--max-frames", min=1, help="Most frames of a video or camera.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Overwrite existing output files.")]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report", help="Write an HTML page with tables, curves and images to this file."
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON on standard output and nothing else there.")
]
