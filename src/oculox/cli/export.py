"""``oculox export``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from oculox.cli import options as o
from oculox.cli.console import note, print_json, say

if TYPE_CHECKING:
    from oculox.exporting.parity import ParityRow
    from oculox.exporting.run import ExportReport


def parse_batch(text: str) -> str:
    """A number or ``dynamic``, unchanged.

    Raises:
        BadParameter: for any other text.
    """
    if text != "dynamic" and not str(text).isdecimal():
        raise typer.BadParameter(f"expected a number or dynamic, got {text!r}")
    return str(text)


def export(  # the options are the command's surface
    weights: o.Weights,
    format: Annotated[  # noqa: A002
        str,
        typer.Option(
            "--format",
            help="onnx, openvino, torchscript, pt2, ncnn, litert, coreml, tensorrt or mindir.",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="File to write; a new one beside the weights by default."
        ),
    ] = None,
    overwrite: o.Overwrite = False,
    imgsz: o.ImageSize = None,
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="Take any multiple of 32 as input size.")
    ] = False,
    batch: Annotated[
        str,
        typer.Option(
            parser=parse_batch, metavar="N|dynamic", help="Batch of the file: a number or dynamic."
        ),
    ] = "1",
    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        typer.Option("--precision", help="Precision of the file; int8 needs --calib."),
    ] = "fp32",
    calib: o.Calibration = None,
    calib_images: Annotated[int, typer.Option(min=1, help="Most images used of --calib.")] = 300,
    nms: Annotated[
        bool, typer.Option("--nms", help="Put NMS into the file, with --conf, --iou, --max-det.")
    ] = False,
    conf: o.Conf = 0.01,
    iou: o.Iou = 0.65,
    max_det: o.MaxDet = 300,
    preprocess: Annotated[
        bool,
        typer.Option("--preprocess", help="Put the letterbox into the file: images of any size."),
    ] = False,
    opset: Annotated[int, typer.Option(help="ONNX operator set.")] = 18,
    data: o.Data = None,
    images: o.Images = None,
    max_ap_loss: Annotated[
        float, typer.Option(min=0, help="With --data: most AP that may be lost.")
    ] = 0.01,
    license: Annotated[  # noqa: A002
        str, typer.Option(help="License of the weights.")
    ] = "Apache-2.0",
    json: o.Json = False,
) -> None:
    """Write a model for another runtime, such as ONNX.

    The file is compared with PyTorch before it is written to its place.
    """
    from oculox import api
    from oculox.exporting.run import ParityError

    try:
        report = api.export(
            weights,
            format,
            output=output,
            overwrite=overwrite,
            imgsz=imgsz,
            dynamic_size=dynamic_size,
            batch=None if batch == "dynamic" else int(batch),
            precision=precision,
            calib=calib,
            calib_images=calib_images,
            nms=nms,
            conf=conf,
            iou=iou,
            max_det=max_det,
            preprocess=preprocess,
            opset=opset,
            data=data,
            images=images,
            max_ap_loss=max_ap_loss,
            license=license,
            log=note,
        )
    except ParityError as error:
        note(parity_table(error.parity))
        raise
    if json:
        print_json(
            {
                "files": [str(file) for file in report.files],
                "format": report.metadata.format,
                "precision": report.metadata.precision,
                "parity": [{**asdict(row), "ok": row.ok} for row in report.parity],
                "ap": report.ap,
            }
        )
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
    for path in report.files:
        if isinstance(path, Path):
            size = sum(f.stat().st_size for f in (path, *path.rglob("*")) if f.is_file())
            say(f"{path}  {size / 1e6:.2f} MB")
        else:
            say(str(path))
