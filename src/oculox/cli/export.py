"""``oculox export``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from oculox.cli.console import note, print_json, say
from oculox.cli.evaluate import Model
from oculox.config.schema import DataConfig
from oculox.data.coco import CocoIndex, load_coco, load_split
from oculox.errors import UsageError
from oculox.export.job import DEFAULT_LICENSE, DEFAULT_OPSET, ExportOptions
from oculox.export.parity import ParityRow
from oculox.export.run import MAX_AP_LOSS, ExportReport, ParityError, export_model
from oculox.export.targets import TARGETS, find_target
from oculox.runtime.exported import ExportPrecision, InGraphNms
from oculox.weights import load_weights

_NMS = InGraphNms()


def export(  # the options are the command's surface
    weights: Model,
    format: Annotated[str, typer.Option("--format", help=f"One of {', '.join(TARGETS)}.")],  # noqa: A002
    imgsz: Annotated[
        str | None,
        typer.Option("--imgsz", help="Input size: 640 or height,width; by default the model's."),
    ] = None,
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="Take any multiple of 32 as input size.")
    ] = False,
    batch: Annotated[str, typer.Option(help="Images at once: a number, or dynamic.")] = "1",
    half: Annotated[bool, typer.Option("--half", help="Float16.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="8-bit integers; needs --calib.")] = False,
    calib: Annotated[
        Path | None,
        typer.Option(help="Data set (its training images) or folder to calibrate int8 on."),
    ] = None,
    calib_images: Annotated[int, typer.Option(min=1, help="Most images used of it.")] = 300,
    nms: Annotated[
        bool, typer.Option("--nms", help="Put non-maximum suppression into the file.")
    ] = False,
    conf: Annotated[
        float, typer.Option(min=0, max=1, help="With --nms: lowest score kept.")
    ] = _NMS.conf,
    iou: Annotated[
        float, typer.Option(min=0, max=1, help="With --nms: IoU above which a box goes.")
    ] = _NMS.iou,
    max_det: Annotated[
        int, typer.Option(min=1, help="With --nms: detections of an image.")
    ] = _NMS.max_det,
    preprocess: Annotated[
        bool,
        typer.Option("--preprocess", help="Put the letterbox into the file: images of any size."),
    ] = False,
    opset: Annotated[int, typer.Option(help="ONNX operator set.")] = DEFAULT_OPSET,
    data: Annotated[
        Path | None, typer.Option(help="Data set folder or COCO JSON to measure AP on.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images, when --data is a JSON file.")
    ] = None,
    max_ap_loss: Annotated[
        float, typer.Option(min=0, help="With --data: most AP that may be lost.")
    ] = MAX_AP_LOSS,
    output: Annotated[
        Path | None, typer.Option(help="File to write; beside the weights by default.")
    ] = None,
    license: Annotated[  # noqa: A002
        str, typer.Option(help="License of the weights.")
    ] = DEFAULT_LICENSE,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Write a model for another runtime, and prove that it answers what PyTorch answers."""
    if half and int8:
        raise UsageError("--half and --int8 exclude each other")
    precision: ExportPrecision = "int8" if int8 else "fp16" if half else "fp32"
    options = ExportOptions(
        format=format,
        size_hw=input_size(imgsz),
        dynamic_size=dynamic_size,
        batch=_batch(batch),
        precision=precision,
        calibration=calib,
        calibration_images=calib_images,
        nms=InGraphNms(conf=conf, iou=iou, max_det=max_det) if nms else None,
        preprocess=preprocess,
        opset=opset,
        license=license,
    )
    final = output or _default_output(weights, options)
    if final.suffix != find_target(options).suffix:
        raise UsageError(
            f"--output {final}: a file of format {format} ends in {find_target(options).suffix}"
        )
    index = data_index(data, images)
    try:
        report = export_model(
            load_weights(weights),
            options,
            final,
            data=index,
            max_ap_loss=max_ap_loss,
            progress=note,
        )
    except ParityError as error:
        note(parity_table(error.parity))
        raise
    if json:
        print_json(_as_json(report))
    else:
        _say(report)


def parity_table(rows: Sequence[ParityRow]) -> str:
    """One line a comparison, aligned."""
    cases = max((len(row.case) for row in rows), default=0)
    quantities = max((len(row.quantity) for row in rows), default=0)
    return "\n".join(
        f"{row.case:<{cases}}  {row.quantity:<{quantities}}  {row.error:9.2e}"
        f"  (allowed {row.tolerance:.0e})  {'ok' if row.ok else 'FAILED'}"
        for row in rows
    )


def _say(report: ExportReport) -> None:
    if report.parity:
        say(parity_table(report.parity))
    else:
        say("not compared with PyTorch: this format cannot be run here")
    if report.ap is not None:
        say(
            f"AP {report.ap.checkpoint:.4f} in PyTorch, {report.ap.exported:.4f} exported "
            f"(loss {report.ap.loss:+.4f}, allowed {report.ap.allowed})"
        )
    for file in report.files:
        size = sum(f.stat().st_size for f in _files_of(file))
        say(f"{file}  {size / 1e6:.2f} MB")


def _files_of(path: Path) -> list[Path]:
    return [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]


def _as_json(report: ExportReport) -> dict[str, object]:
    return {
        "files": [str(file) for file in report.files],
        "format": report.metadata.format,
        "precision": report.metadata.precision,
        "parity": [{**dataclasses.asdict(row), "ok": row.ok} for row in report.parity],
        "ap": None if report.ap is None else dataclasses.asdict(report.ap),
    }


def input_size(text: str | None) -> tuple[int, int] | None:
    """``640`` or ``480,640`` as height and width.

    Raises:
        UsageError: for any other text.
    """
    if text is None:
        return None
    sides = text.replace("x", ",").split(",")
    if len(sides) > 2 or not all(side.strip().isdecimal() for side in sides):
        raise UsageError(f"--imgsz takes a number or height,width, got {text!r}")
    return int(sides[0]), int(sides[-1])


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isdecimal():
        raise UsageError(f"--batch takes a number or dynamic, got {text!r}")
    return int(text)


def _default_output(weights: Path, options: ExportOptions) -> Path:
    tail = "" if options.precision == "fp32" else f"_{options.precision}"
    return weights.with_name(f"{weights.stem}{tail}{find_target(options).suffix}")


def data_index(data: Path | None, images: Path | None) -> CocoIndex | None:
    """The validation split of a data set folder, or a COCO file with its folder of images.

    Raises:
        UsageError: when the folder of the images is not named.
        DataError: when the data cannot be read.
    """
    if data is None:
        return None
    if data.is_dir():
        return load_split(DataConfig(root=data), "val")
    if images is None:
        raise UsageError("--data is a file: name the folder of its images with --images")
    return load_coco(data, images)
