"""AP against milliseconds: one network at several input sizes, in several runtimes, as a plot.

    python benchmarks/sizes.py yolox_nano.pth --data coco --plot sizes.png

Each point is a run of ``oculox benchmark``: the median time of an image from JPEG to detections,
one after the other, and the AP on the validation split.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from matplotlib.figure import Figure

from oculox.distributed.devices import describe_machine
from oculox.exporting.benchmark import Measurement, benchmark


def draw(curves: dict[str, dict[int, Measurement]], title: str, path: Path) -> None:
    """A line for each runtime, a point for each size."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, points in curves.items():
        times = [point.median_ms for point in points.values()]
        [line] = axes.plot(times, [p.ap for p in points.values()], marker="o", label=name)
        for size, point in points.items():
            axes.annotate(
                str(size),
                (point.median_ms, point.ap or 0),
                xytext=(5, -11),
                textcoords="offset points",
                color=line.get_color(),
                fontsize=8,
            )
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds an image, from JPEG to detections")
    axes.set_ylabel("AP")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("weights", help="a checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="dataset to measure AP on")
    parser.add_argument("--formats", default="torch,openvino,openvino-int8")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 320, 416, 512])
    parser.add_argument("--samples", type=int, default=50, help="images to time")
    parser.add_argument("--plot", type=Path, help="write an image to this file")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    curves: dict[str, dict[int, Measurement]] = {}
    print("| format | size | ms | AP |\n| --- | ---: | ---: | ---: |")
    for size in arguments.sizes:
        result = benchmark(
            arguments.weights,
            arguments.formats.split(","),
            imgsz=size,
            samples=arguments.samples,
            data=arguments.data,
            calib=arguments.data,
        )
        for one in result.measurements:
            curves.setdefault(one.format, {})[size] = one
            print(f"| {one.format} | {size} | {one.median_ms:.1f} | {one.ap:.4f} |", flush=True)
    if arguments.plot:
        draw(curves, f"{result.model}, AP on the images of {arguments.data.name}", arguments.plot)
    if arguments.json:
        rows = {
            name: {size: dataclasses.asdict(point) for size, point in points.items()}
            for name, points in curves.items()
        }
        content = {"machine": describe_machine(), "formats": rows}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
