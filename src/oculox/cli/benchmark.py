"""``oculox benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from oculox.cli.console import note, print_json, say
from oculox.cli.evaluate import Model
from oculox.cli.export import data_index, input_size
from oculox.export.benchmark import TORCH, run_benchmark
from oculox.export.benchmark_report import as_json, as_table, write_plot
from oculox.files import write_json
from oculox.weights import load_weights

_DEFAULT = f"{TORCH},onnx,openvino"


def benchmark(
    weights: Model,
    formats: Annotated[
        str,
        typer.Option(help="Comma-separated, -fp16 or -int8 behind: torch,onnx,openvino-int8."),
    ] = _DEFAULT,
    imgsz: Annotated[
        str | None,
        typer.Option("--imgsz", help="Input size: 640 or height,width; by default the model's."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Images to time.")] = 50,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the CPU; one per core by default.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data set folder or COCO JSON to measure AP on.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images, when --data is a JSON file.")
    ] = None,
    calib: Annotated[
        Path | None, typer.Option(help="Data set or folder to calibrate int8 on.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write all metrics there; '-' prints them.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the stages to this PNG or SVG.")] = None,
) -> None:
    """Measure size, speed, stages, AP and parity of a model in several formats."""
    result = run_benchmark(
        load_weights(weights),
        [name.strip() for name in formats.split(",") if name.strip()],
        size_hw=input_size(imgsz),
        samples=samples,
        threads=threads,
        data=data_index(data, images),
        calibration=calib,
        progress=note,
    )
    if json is not None and str(json) == "-":
        print_json(as_json(result))
    else:
        say(", ".join(f"{key} {value}" for key, value in result.machine.items()))
        say()
        say(as_table(result))
    if json is not None and str(json) != "-":
        write_json(json, as_json(result))
    if plot is not None:
        write_plot(result, plot)
    if not result.measurements:
        raise typer.Exit(1)
