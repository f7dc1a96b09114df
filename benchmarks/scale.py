"""How time and memory grow with the data: opening, the loss, the metrics, the loaders.

    python benchmarks/scale.py --json scale.json
    python benchmarks/scale.py opening loss

All data is synthetic. The last column of each table has the growth of the quantity and that of the
first cost, since the first row of a series: linear is what grows no more than its quantity.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Row(NamedTuple):
    """One measurement.

    Attributes:
        series: of which measurements with a growing quantity it is one.
        what: the quantity, in words.
        amount: its number.
        costs: by name, with the unit in the name.
    """

    series: str
    what: str
    amount: float
    costs: dict[str, float]


OPENED = ((11_800, 86_000), (118_000, 860_000), (180_000, 2_700_000))
"""Images and boxes: a tenth of COCO's train2017, all of it, a tenth of Objects365."""
OBJECTS = (10, 100, 300, 1000)
CLASSES = (80, 320, 1203)
SIDES = (320, 640, 1280)
BATCHES = (1, 4, 16)
EVALUATED = (1_250, 5_000, 20_000)
PASSES = 6


def opening(scale: float = 1) -> Iterator[Row]:
    """Opening a COCO file in a process of its own: the first time, and from the kept columns."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for images, boxes in OPENED:
            images, boxes = int(images * scale), int(boxes * scale)
            path = folder / f"{images}.json"
            _alone(_write_coco, path, images, boxes)
            cache = str(folder / f"cache-{images}")
            first, again = (_alone(_open, path, cache) for _ in range(2))
            yield Row(
                "opening",
                f"{images:,} images, {boxes:,} boxes, {path.stat().st_size / 1e6:.0f} MB",
                boxes,
                {
                    "first s": first[0],
                    "first MB": first[1],
                    "again s": again[0],
                    "again MB": again[1],
                },
            )


def loss(repeats: int = 5) -> Iterator[Row]:
    """Assignment and loss, forward and backward, of raw predictions."""
    plain = {"objects": 20, "classes": 80, "side": 640, "batch": 4}
    series = {"objects": OBJECTS, "classes": CLASSES, "side": SIDES, "batch": BATCHES}
    for name, amounts in series.items():
        for amount in amounts:
            seconds = _time_loss(**{**plain, name: amount}, repeats=repeats)
            grown = (amount / 32) ** 2 if name == "side" else amount
            yield Row(name, f"{name} {amount}", grown, {"ms": 1000 * seconds})


def metrics(counts: Sequence[int] = EVALUATED) -> Iterator[Row]:
    """The COCO metrics of 80 detections an image, from arrays."""
    from oculox.evaluation.coco_metrics import evaluate_boxes, match_boxes

    for images in counts:
        index, found = make_evaluation(images)
        yield Row(
            "metrics",
            f"{images:,} images, {len(found):,} detections",
            images,
            {
                "twelve s": _median_seconds(partial(match_boxes, index, found), 3),
                "all s": _median_seconds(partial(evaluate_boxes, index, found), 3),
            },
        )


def loaders(passes: int = PASSES, workers: int = 2) -> Iterator[Row]:
    """Memory of two loader processes over passes through a set, mosaic and mixup on."""
    from oculox.config import load_config
    from oculox.data.coco import load_split
    from oculox.data.loader import build_train_loader
    from oculox.datasets.demo.dataset import write_demo

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "demo"
        write_demo(root, train=200, val=1)
        words = [f"data.root={root}", "input.size=320", f"data.workers={workers}"]
        config = load_config("yolox-s", words)
        loader = build_train_loader(config, load_split(config.data, "train"), batch_per_process=8)
        for number in range(passes):
            for _ in loader.iterate(number, mosaic=True):
                pass
            own = sum(_own_megabytes(p.pid) for p in multiprocessing.active_children() if p.pid)
            yield Row("loaders", f"pass {number + 1}", number + 1, {"MB": own})
        loader.close()


PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "opening": opening,
    "loss": loss,
    "metrics": metrics,
    "loaders": loaders,
}


def make_evaluation(images: int, *, seed: int = 0) -> Any:
    """An index with about seven objects an image, and 80 detections an image around them."""
    from oculox.data.coco import index_scan
    from oculox.data.coco_scan import GroundTruth, scan_tree
    from oculox.evaluation.coco_metrics import FoundObjects

    rng = np.random.default_rng(seed)
    tree = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": 480, "width": 640}
            for i in range(1, images + 1)
        ],
        "annotations": [],
        "categories": [{"id": c, "name": f"class {c}"} for c in range(1, 81)],
    }
    objects, detections = images * 36 // 5, images * 80
    sizes = rng.uniform(8, 200, (objects, 2))
    xywh = np.concatenate((rng.uniform(0, 440, (objects, 2)), sizes), axis=1)
    truth = GroundTruth(
        owners=np.sort(rng.integers(0, images, objects)),
        labels=rng.integers(0, 80, objects),
        xywh=xywh,
        areas=sizes.prod(axis=1),
        crowd=rng.random(objects) < 0.01,
    )
    index = index_scan(scan_tree(tree, Path("scale.json")), Path())
    of = rng.integers(0, objects, detections)
    boxes = xywh[of] + rng.normal(0, 0.15, (detections, 4)) * np.tile(sizes[of], 2)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)
    wrong = rng.random(detections) < 0.3
    found = FoundObjects(
        owners=truth.owners[of],
        labels=np.where(wrong, rng.integers(0, 80, detections), truth.labels[of]),
        xywh=boxes,
        scores=rng.random(detections),
    )
    return dataclasses.replace(index, truth=truth), found


def _time_loss(*, objects: int, classes: int, side: int, batch: int, repeats: int) -> float:
    import torch

    from oculox.losses.criterion import Criterion
    from oculox.types import RawPredictions, Targets

    torch.manual_seed(0)
    levels = tuple((side // stride, side // stride) for stride in (8, 16, 32))
    cells = sum(rows * columns for rows, columns in levels)
    raw = RawPredictions(
        torch.randn(batch, cells, 4).mul_(0.3).requires_grad_(),
        torch.randn(batch, cells).requires_grad_(),
        torch.randn(batch, cells, classes).requires_grad_(),
        levels,
    )
    centres = torch.rand(batch, objects, 2) * side
    halves = torch.rand(batch, objects, 2) * 40 + 4
    targets = Targets(
        torch.cat((centres - halves, centres + halves), dim=2),
        torch.randint(0, classes, (batch, objects)),
        torch.ones(batch, objects, dtype=torch.bool),
    )
    criterion = Criterion(num_classes=classes, strides=(8, 16, 32))

    def step() -> None:
        terms = criterion(raw, targets, use_l1=True)
        (terms.box + terms.objectness + terms.classes + terms.l1).backward()

    return _median_seconds(step, repeats)


def _median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall time, after one turn that does not count."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _alone(work: Callable[..., Any], *arguments: object) -> Any:
    """What a function returns in a process of its own, which starts without our memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def _open(path: Path, cache: str) -> tuple[float, float]:
    """Seconds of opening, and the most megabytes that this process ever had."""
    os.environ["OCULOX_CACHE"] = cache
    from oculox.data.coco import load_coco

    start = time.perf_counter()
    index = load_coco(path, path.parent / path.stem)
    seconds = time.perf_counter() - start
    assert len(index.truth.labels) > 0
    status = Path("/proc/self/status").read_text()
    [peak] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return seconds, int(peak.split()[1]) / 1000


def _own_megabytes(pid: int) -> float:
    """Memory of a process, what it shares with others in proportion."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("Pss:")]
    return int(line.split()[1]) / 1000


def _write_coco(path: Path, images: int, boxes: int) -> None:
    """A COCO file with the fields of the real one, and an empty file for every image."""
    rng = np.random.default_rng(0)
    (path.parent / path.stem).mkdir()
    names = [f"{i:012}.jpg" for i in range(1, images + 1)]
    for name in names:
        (path.parent / path.stem / name).touch()
    owners = rng.integers(1, images + 1, boxes).tolist()
    corners = rng.uniform(0, 400, (boxes, 2)).round(2)
    sizes = rng.uniform(8, 130, (boxes, 2)).round(2)
    url = "http://images.cocodataset.org/train2017/"
    with path.open("w") as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        for i, name in enumerate(names, start=1):
            file.write(
                f'{", " * (i > 1)}{{"license": 3, "file_name": "{name}", "coco_url": "{url}{name}"'
                f', "height": 480, "width": 640, "date_captured": "2013-11-14", "id": {i}}}'
            )
        file.write('], "annotations": [')
        rows = zip(owners, corners.tolist(), sizes.tolist(), strict=True)
        for i, (owner, (x, y), (w, h)) in enumerate(rows, start=1):
            right, bottom = round(x + w, 2), round(y + h, 2)
            outline = [[x, y, right, y, right, bottom, x, bottom] * 2]
            file.write(
                f'{", " * (i > 1)}{{"segmentation": {outline}, "area": {w * h:.3f}, "iscrowd": 0'
                f', "image_id": {owner}, "bbox": [{x}, {y}, {w}, {h}]'
                f', "category_id": {i % 80 + 1}, "id": {i}}}'
            )
        kinds = [{"supercategory": "kind", "id": c, "name": f"class {c}"} for c in range(1, 81)]
        file.write(f'], "categories": {json.dumps(kinds)}}}')


def table(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    names = list(rows[0].costs)
    lines = [f"| | {' | '.join(names)} | growth |", f"| --- |{' ---: |' * len(names)} --- |"]
    first: dict[str, Row] = {}
    for row in rows:
        start = first.setdefault(row.series, row)
        amount = row.amount / start.amount
        cost = row.costs[names[0]] / start.costs[names[0]]
        growth = "" if row is start else f"{amount:.3g} times: {cost:.3g}"
        cells = [f"{v:,.0f}" if v >= 100 else f"{v:.3g}" for v in row.costs.values()]
        lines.append(f"| {row.what} | {' | '.join(cells)} | {growth} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "parts",
        nargs="*",
        choices=[*PARTS, []],
        metavar="PART",
        help=f"{', '.join(PARTS)}; all by default",
    )
    parser.add_argument("--json", type=Path, help="file for the numbers")
    arguments = parser.parse_args()
    if sys.platform != "linux":
        parser.error("memory is read from /proc: this needs Linux")
    results = {}
    for name in arguments.parts or PARTS:
        rows = list(PARTS[name]())
        print(f"\n{(PARTS[name].__doc__ or '').strip()}\n\n{table(rows)}", flush=True)
        results[name] = [row._asdict() for row in rows]
    from oculox.distributed.devices import describe_machine

    print(f"\n{describe_machine()}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        content = {"machine": describe_machine(), "results": results}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
