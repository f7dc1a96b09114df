"""What a GPU gives: training, inference, NMS. One JSON file, and a table beside it.

    python benchmarks/gpu.py --json build/bench/gpu.json
    python benchmarks/gpu.py compiled --budget 3000 --json build/bench/compiled.json
    python benchmarks/gpu.py --device cpu --quick

Training goes through the real loop and loader: bf16, channels last, images in memory, mosaic and
mixup of the recipe at its input size. Images are rendered, with as many boxes as crowded ones of
COCO; weights are fresh, but detect. What does not fit into the budget is left out and named; what
the machine lacks is a row that says so. Files are written after every row. Seconds of inference are
medians.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch._dynamo.utils import counters

from oculox import TrainCallback, train
from oculox.config import load_config
from oculox.data.coco import load_split
from oculox.data.loader import build_train_loader
from oculox.datasets.demo.dataset import write_demo
from oculox.distributed.devices import describe_machine, usable_device
from oculox.errors import OculoxError, TrainingError, first_line
from oculox.exporting.benchmark import sample_jpegs, time_pipeline
from oculox.exporting.job import ExportOptions
from oculox.exporting.run import export_model
from oculox.exporting.targets import TARGETS
from oculox.extras import require
from oculox.models import build_model
from oculox.ops.nms import nms
from oculox.postprocess import DetectSettings, select_detections
from oculox.runtime.backend import Backend
from oculox.runtime.onnx_backend import choose_providers
from oculox.runtime.open_model import open_model
from oculox.runtime.torch_backend import TorchBackend
from oculox.training.log import StepLoss, read_log
from oculox.types import DecodedPredictions, ModelSpec
from oculox.weights import Weights

BATCHES = {
    "yolox-s": 64,
    "yolox-darknet53": 64,
    "yolox-x": 64,
    "yolox-nano": 64,
    "yolox-tiny": 64,
    "yolox-m": 64,
    "yolox-l": 64,
}
"""Images a step, which fit into 78 GiB; in the order in which networks are measured."""
LISTED_OBJECTS = 25
"""Boxes of a training image: mosaics of COCO have up to 120, those of the demo few."""

Values = dict[str, float]


class Job(NamedTuple):
    """A row to measure."""

    part: str
    what: str
    measure: Callable[[], Values]


class Row(NamedTuple):
    """What was measured, by name with the unit in it; or why it could not be."""

    part: str
    what: str
    values: Values
    seconds: float
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extent:
    """How much is measured.

    Attributes:
        batches: networks that are trained, and images a step.
        warm_up, steps: training steps before those that count, and those; the first ones live on
            batches that loader processes have ahead.
        workers: loader processes.
        rendered: training images that are rendered; they are listed as often as needed.
        image_size: width and height of them.
        words: further settings of training.
        inferred: the network whose inference is timed.
        side: of its input; None for the recipe's.
        together: images at once for the throughput.
        rounds: how often something is timed.
        compiler: of `torch.compile` in inference.
        boxes: numbers of boxes for NMS.
    """

    batches: dict[str, int] = dataclasses.field(default_factory=lambda: BATCHES)
    warm_up: int = 60
    steps: int = 20
    workers: int = max(1, (os.cpu_count() or 1) - 2)
    rendered: int = 300
    image_size: tuple[int, int] = (640, 480)
    words: tuple[str, ...] = ()
    inferred: str = "yolox-s"
    side: int | None = None
    together: int = 64
    rounds: int = 30
    compiler: str = "inductor"
    boxes: tuple[int, ...] = (1_000, 5_000, 20_000)


QUICK = Extent(
    batches={"yolox-nano": 2},
    warm_up=4,
    steps=2,
    workers=0,
    rendered=4,
    image_size=(96, 72),
    words=("input.size=64", "model.width=0.125"),
    inferred="yolox-nano",
    side=64,
    together=2,
    rounds=2,
    compiler="eager",
    boxes=(100,),
)
"""Of all parts a little, to try them."""


class Watch(TrainCallback):
    """Ends a run after its steps, and counts how often one of them waits for the device."""

    def __init__(self, extent: Extent, caught: Sequence[warnings.WarningMessage]) -> None:
        self.waits = 0
        self._extent, self._caught = extent, caught

    def on_step(self, step: int, total: int, loss: StepLoss) -> bool:
        """Look at the third step."""
        if torch.cuda.is_available():
            if step in (2, 3):
                self.waits = sum("synchronizing CUDA" in str(w.message) for w in self._caught)
                torch.cuda.set_sync_debug_mode("warn" if step == 2 else "default")
            if step == self._extent.warm_up // 2:
                # Without what cuDNN took to try its algorithms.
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
        return step == self._extent.warm_up + self._extent.steps


def settings(name: str, data: Path, *, device: torch.device, extent: Extent) -> tuple[str, ...]:
    """What training and its loader alone have in common."""
    return (
        f"data.root={data}",
        "data.cache=ram",
        f"data.workers={extent.workers}",
        f"train.device={device.type}",
        f"train.batch={extent.batches[name]}",
        "augment.multiscale=null",
        *extent.words,
    )


def load_batches(name: str, data: Path, *, device: torch.device, extent: Extent) -> Values:
    """The loader alone: the most images a second that training can get."""
    config = load_config(name, settings(name, data, device=device, extent=extent))
    batch, index = extent.batches[name], load_split(config.data, "train")
    with closing(build_train_loader(config, index, batch_per_process=batch)) as loader:
        batches = loader.iterate(0, mosaic=True)
        for _ in islice(batches, extent.warm_up):
            pass
        start = time.perf_counter()
        for _ in islice(batches, extent.steps):
            pass
        took = time.perf_counter() - start
    return {"batch": batch, "images/s": batch * extent.steps / took}


def train_steps(
    name: str, data: Path, *, device: torch.device, extent: Extent, compiled: bool
) -> Values:
    """A short run of a recipe."""
    batch = extent.batches[name]
    words = (
        *settings(name, data, device=device, extent=extent),
        "train.precision=bf16",
        f"train.compile={str(compiled).lower()}",
        f"train.log_interval={extent.steps}",
        "train.report=false",
    )
    torch._dynamo.reset()  # it compiles a function only so often
    counters.clear()
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watch = Watch(extent, caught)
        summary = train(name, *words, output=Path(folder) / "run", callback=watch)
        rows = [r for r in read_log(summary.output) if r["step"] > extent.warm_up]
    if compiled and not counters["stats"]["unique_graphs"]:
        # Training goes on with what fails to compile.
        raise TrainingError("not compiled: torch.compile failed, and the network ran as it is")
    took = sum(row["step_ms"] for row in rows)
    images = batch * 1000 / statistics.mean(row["step_ms"] for row in rows)
    values = {
        "batch": batch,
        "images/s": images,
        "waiting %": 100 * sum(row["data_wait"] * row["step_ms"] for row in rows) / took,
    }
    if on_gpu:
        values["peak GB"] = torch.cuda.max_memory_reserved() / 1e9
        values["host waits a step"] = watch.waits
    return values


def write_data(folder: Path, extent: Extent) -> Path:
    """The demo dataset, listed so often that no run comes to the end of its first epoch.

    Every image gets boxes of others too: how quick a step is does not depend on what is in them.
    """
    write_demo(folder, train=extent.rendered, val=1, size=extent.image_size)
    path = folder / "annotations/instances_train2017.json"
    coco = json.loads(path.read_text("utf-8"))
    images, objects = coco["images"], coco["annotations"]
    needed = max(extent.batches.values()) * (extent.warm_up + extent.steps + 1)
    coco["images"] = [{**images[n % len(images)], "id": n} for n in range(needed)]
    coco["annotations"] = [
        {**objects[n % len(objects)], "id": n, "image_id": n // LISTED_OBJECTS}
        for n in range(needed * LISTED_OBJECTS)
    ]
    path.write_text(json.dumps(coco), "utf-8")
    return folder


def fresh_weights(extent: Extent) -> Weights:
    """Of the network whose inference is timed; its speed is that of trained ones."""
    words = [f"input.size={extent.side}"] if extent.side else []
    config = load_config(extent.inferred, words)
    torch.manual_seed(0)
    network = build_model(config.model, num_classes=80)
    for predictor in network.head.reg_preds:
        predictor.weight.data *= 0.1  # calm boxes, which a check of fp16 can compare
    # The cells of the coarsest level are detections, 400 at 640 pixels: fresh weights have none.
    for predictors in (network.head.obj_preds, network.head.cls_preds):
        predictors[-1].bias.data.fill_(3.0)
    spec = ModelSpec(
        model=config.model.model_copy(update={"num_classes": 80}),
        input=config.input,
        names=tuple(f"class {i}" for i in range(80)),
    )
    return Weights(spec=spec, state=network.state_dict())


Opener = Callable[[int], Backend]
"""The backend for so many images at once."""


def openers(
    weights: Weights, folder: Path, *, device: torch.device, compiler: str
) -> Iterator[tuple[str, Opener]]:
    """Each way to run a network, the quickest to prepare first."""

    def in_torch(precision: str, *, compiled: bool = False) -> TorchBackend:
        backend = TorchBackend.from_weights(weights, device=device, precision=precision)
        if compiled:
            torch._dynamo.reset()  # it compiles a function only so often
            backend.network = torch.compile(backend.network, backend=compiler)
        return backend

    def exported(batch: int, *, kind: str, precision: str) -> Backend:
        if kind == "onnx":  # before an export that takes long
            runtime = require("onnxruntime", extra="onnx", purpose="this row")
            choose_providers(runtime.get_available_providers(), str(device))
        options = ExportOptions(format=kind, batch=batch, precision=precision)
        path = folder / f"{precision}-{batch}{TARGETS[kind].suffix}"
        return open_model(export_model(weights, options, path).path, device=str(device))

    tf32 = device.type == "cuda" and torch.backends.cudnn.allow_tf32
    precisions = {"fp32": "fp32 (TF32)" if tf32 else "fp32", "bf16": "bf16", "fp16": "fp16"}
    for precision, named in precisions.items():
        yield f"PyTorch {named}", lambda batch, p=precision: in_torch(p)
    for kind, title in (("onnx", "ONNX Runtime"), ("tensorrt", "TensorRT")):
        for precision in ("fp32", "fp16"):
            yield (
                f"{title} {precision}",
                functools.partial(exported, kind=kind, precision=precision),
            )
    for precision in ("fp32", "bf16"):
        named = precisions[precision]
        yield f"torch.compile {named}", lambda batch, p=precision: in_torch(p, compiled=True)


def infer(opener: Opener, *, extent: Extent, size: tuple[int, int]) -> Values:
    """Latency of one image, from JPEG to detections, and images a second in large batches."""
    spread = time_pipeline(opener(1), sample_jpegs(None, extent.rounds), size)
    backend = opener(extent.together)
    images = torch.full((extent.together, 3, *size), 114, dtype=torch.uint8)
    images = images.pin_memory() if torch.cuda.is_available() else images
    seconds = median_seconds(lambda: backend.predict(images), max(2, extent.rounds // 3))
    return {
        "ms an image": spread["total"].median,
        "of it network ms": spread["network"].median,
        f"images/s at {extent.together}": extent.together / seconds,
    }


def suppress(count: int, *, device: torch.device) -> Values:
    """NMS of boxes around a tenth as many objects, of 80 classes."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 640, (count // 10, 2)).repeat(10, axis=0)
    corners = centres + rng.normal(0, 6, (count // 10 * 10, 2))
    boxes = np.concatenate((corners - 20, corners + 20), axis=1)
    found = (
        torch.from_numpy(boxes).float(),
        torch.from_numpy(rng.random(len(boxes))).float(),
        torch.from_numpy(rng.integers(0, 80, len(boxes))),
    )
    return both_ways(
        lambda xyxy, scores, classes: nms(xyxy, scores, iou_threshold=0.65, class_ids=classes),
        found,
        device,
    )


def select(images: int, *, device: torch.device) -> Values:
    """From decoded predictions at 640, a tenth above the threshold, to detections."""
    generator = torch.Generator().manual_seed(0)
    cells = 8400
    centres = torch.rand(images, cells, 2, generator=generator) * 640
    halves = torch.rand(images, cells, 2, generator=generator) * 40 + 4
    decoded = (
        torch.cat((centres - halves, centres + halves), dim=-1),
        (torch.rand(images, cells, generator=generator) < 0.1).float(),
        torch.rand(images, cells, 80, generator=generator),
    )
    settings = DetectSettings(conf=0.01, iou=0.65)
    return both_ways(
        lambda *parts: select_detections(DecodedPredictions(*parts), settings), decoded, device
    )


def both_ways(
    work: Callable[..., object], tensors: Sequence[torch.Tensor], device: torch.device
) -> Values:
    """Milliseconds for tensors on the device, and for the same on the CPU."""
    moved = [tensor.to(device) for tensor in tensors]
    return {
        "on the device ms": 1000 * median_seconds(lambda: work(*moved), 5),
        "on the CPU ms": 1000 * median_seconds(lambda: work(*tensors), 5),
    }


def median_seconds(work: Callable[[], object], rounds: int) -> float:
    """Median wall time until the device is done, after two turns that do not count."""
    times = []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


PARTS = ("training", "nms", "inference", "compiled")


def list_jobs(
    parts: Sequence[str], folder: Path, *, device: torch.device, extent: Extent
) -> Iterator[Job]:
    """All rows of the parts."""
    if {"training", "compiled"} & set(parts):
        data = write_data(folder / "data", extent)
    weights = fresh_weights(extent)
    size = weights.spec.input.size
    for part in parts:
        if part in ("training", "compiled"):
            first = next(iter(extent.batches))
            if part == "training":
                load = functools.partial(load_batches, first, data, device=device, extent=extent)
                yield Job(part, f"{first}, loader alone", load)
            run = functools.partial(train_steps, data=data, device=device, extent=extent)
            for name in extent.batches:
                yield Job(part, name, functools.partial(run, name, compiled=part == "compiled"))
        elif part == "inference":
            for way, opener in openers(weights, folder, device=device, compiler=extent.compiler):
                what = f"{extent.inferred}, {way}"
                yield Job(part, what, functools.partial(infer, opener, extent=extent, size=size))
        else:
            for count in extent.boxes:
                what = f"{count:,} boxes"
                yield Job(part, what, functools.partial(suppress, count, device=device))
            what = f"selection, {extent.together} images"
            yield Job(part, what, functools.partial(select, extent.together, device=device))


def measure(
    jobs: Iterator[Job], *, budget: float, save: Callable[[list[Row], list[str]], None]
) -> None:
    """Measure what fits into the budget, if it takes no longer than the longest row of its part.

    Args:
        jobs: in their order.
        budget: seconds.
        save: is told after every row: the rows so far, and what was left out.
    """
    rows: list[Row] = []
    left_out: list[str] = []
    start = time.perf_counter()
    for job in jobs:
        began = time.perf_counter()
        # A part that begins may have rows as long as any.
        known = [r for r in rows if r.part == job.part] or rows
        longest = max((row.seconds for row in known), default=0)
        if began - start + longest > budget:
            left_out.append(f"{job.part}: {job.what}")
        else:
            try:
                values, note = job.measure(), ""
            except Exception as error:  # noqa: BLE001 - of any library; the other rows count too
                values, note = {}, first_line(error)
            rows.append(Row(job.part, job.what, values, time.perf_counter() - began, note))
            print(f"{job.part}: {job.what}: {rows[-1].seconds:.1f} s {note}", flush=True)
            gc.collect()
            torch.cuda.empty_cache()
        save(rows, left_out)


def tables(rows: Sequence[Row], left_out: Sequence[str]) -> str:
    """A Markdown table for each part, and what was left out."""
    blocks = []
    for part in dict.fromkeys(row.part for row in rows):
        of_part = [row for row in rows if row.part == part]
        names = list(dict.fromkeys(name for row in of_part for name in row.values))
        lines = [f"| {part} | {' | '.join([*names, 'note'])} |"]
        lines.append(f"| --- |{' ---: |' * len(names)} --- |")
        for row in of_part:
            cells = [f"{row.values[n]:,.4g}" if n in row.values else "" for n in names]
            lines.append(" | ".join([f"| {row.what}", *cells, f"{row.note} |"]))
        blocks.append("\n".join(lines))
    if left_out:
        blocks.append("Left out, for lack of time: " + "; ".join(left_out) + ".")
    return "\n\n".join(blocks) + "\n"


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "parts",
        nargs="*",
        choices=[*PARTS, []],
        metavar="PART",
        help=f"{', '.join(PARTS)} (training with torch.compile); all by default",
    )
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the program")
    parser.add_argument("--quick", action="store_true", help="a little of everything, to try it")
    parser.add_argument("--network", help="of inference, in place of yolox-s")
    parser.add_argument("--budget", type=float, default=540, help="seconds")
    parser.add_argument("--json", type=Path, default=Path("build/bench/gpu.json"))
    arguments = parser.parse_args()
    extent = QUICK if arguments.quick else Extent()
    if arguments.network:
        extent = dataclasses.replace(extent, inferred=arguments.network)
    try:
        device = usable_device(arguments.device)
    except OculoxError as error:
        parser.error(str(error))
    machine = describe_machine()
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        machine |= {"gpu_memory_gb": f"{total / 1e9:.0f}"}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    text = ""

    def save(rows: list[Row], left_out: list[str]) -> None:
        nonlocal text
        text = tables(rows, left_out)
        arguments.json.with_suffix(".md").write_text(text, "utf-8")
        content = {
            "machine": machine,
            "rows": [row._asdict() for row in rows],
            "left_out": left_out,
        }
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", "utf-8")

    with tempfile.TemporaryDirectory() as folder:
        jobs = list_jobs(arguments.parts or PARTS, Path(folder), device=device, extent=extent)
        measure(jobs, budget=arguments.budget, save=save)
    print(f"\n{machine}\n\n{text}")


if __name__ == "__main__":
    main()
