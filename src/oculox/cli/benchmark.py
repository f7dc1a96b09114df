"""``oculox benchmark``."""

from pathlib import Path
from typing import Annotated

import typer

from oculox.cli import options as o
from oculox.cli.console import note, print_json, say


def benchmark(
    weights: o.Weights,
    formats: Annotated[
        str,
        typer.Option(help="Comma-separated; add -fp16 or -int8: torch,onnx,openvino-int8."),
    ] = "torch,onnx,openvino",
    imgsz: o.ImageSize = None,
    samples: Annotated[int, typer.Option(min=1, help="Images to time.")] = 50,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; one per core by default.")
    ] = None,
    data: o.Data = None,
    images: o.Images = None,
    calib: o.Calibration = None,
    json: o.Json = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the stages to this PNG or SVG.")] = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Measure a model in several formats: size, speed, AP."""
    from oculox import api
    from oculox.exporting.benchmark_report import as_table, write_plot
    from oculox.files import require_new_file

    if plot is not None:
        require_new_file(plot, overwrite=overwrite)
    result = api.benchmark(
        weights,
        [name for name in o.split_names(formats) or () if name],
        imgsz=imgsz,
        samples=samples,
        threads=threads,
        data=data,
        images=images,
        calib=calib,
        log=note,
    )
    if json:
        print_json(result)
    else:
        say(", ".join(f"{key} {value}" for key, value in result.machine.items()))
        say()
        say(as_table(result))
    if plot is not None:
        write_plot(result, plot)
    if not result.measurements:
        raise typer.Exit(1)
