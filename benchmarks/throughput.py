"""How many times faster whole folders are than one image after the other.

The reference is the plain loop: read, network on all cores, draw, write, and the next image. For an
evaluation it is the loop over the loader's batches. Both take turns in one process, in several
rounds; each figure is that of the best round.

    python benchmarks/throughput.py yolox_nano.pth coco/val2017 --limit 500
    python benchmarks/throughput.py yolox_nano.pth coco/val2017 --data coco
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from oculox.config.schema import DataConfig
from oculox.data.coco import CocoIndex, load_split
from oculox.data.loader import EvalLoader
from oculox.distributed.devices import describe_machine
from oculox.evaluation.evaluate import OFFICIAL_SETTINGS, evaluate
from oculox.exporting.open_with import RunOptions, open_with
from oculox.files import write_image
from oculox.predict.folder import predict_to_folder
from oculox.predict.pipeline import Pipeline
from oculox.predict.sources import Source, find_sources, read_source
from oculox.runtime.backend import Backend


def folder_in_turn(pipeline: Pipeline, sources: Sequence[Source], output: Path) -> None:
    """The reference for a folder."""
    for number, source in enumerate(sources):
        image = read_source(source).image
        (found,) = pipeline([image])
        found.to_dicts()
        write_image(output / f"{number}.jpg", found.draw(image))


def folder_ahead(pipeline: Pipeline, sources: Sequence[Source], output: Path) -> None:
    """What `oculox predict` does."""
    predict_to_folder(pipeline, sources, output=output, overwrite=True)


def evaluation_in_turn(backend: Backend, index: CocoIndex) -> None:
    """The reference for an evaluation, without the counting of metrics."""
    loader = EvalLoader(index, input_config=backend.spec.input, batch=8, workers=1)
    for batch in loader:
        for found in backend.detect(batch.images, OFFICIAL_SETTINGS):
            found.to_coco(0, index.category_ids)


def evaluation_ahead(backend: Backend, index: CocoIndex) -> float:
    """What `oculox eval` does; the seconds without the counting of metrics."""
    return evaluate(backend, index, workers=1).seconds


def time_run(run: Callable[[], float | None]) -> tuple[float, float]:
    """Seconds, and the share of the cores that was busy; loader processes are not counted."""
    wall, used = time.perf_counter(), time.process_time()
    told = run()
    wall = time.perf_counter() - wall
    return told or wall, (time.process_time() - used) / wall / torch.get_num_threads()


def main() -> None:
    """Take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="a checkpoint")
    parser.add_argument("images", nargs="+", type=Path, help="folders of images")
    parser.add_argument("--limit", type=int, default=500, help="most images of the folders")
    parser.add_argument("--data", type=Path, help="data set to evaluate on as well")
    parser.add_argument("--backends", default="torch,onnx,openvino")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sources = find_sources(arguments.images)[: arguments.limit]
    index = load_split(DataConfig(root=arguments.data), "val") if arguments.data else None
    rows: list[dict[str, float | str]] = []
    for name in arguments.backends.split(","):
        backend = open_with(arguments.weights, RunOptions(device="cpu"), backend=name)
        pipeline = Pipeline(backend, batch=1)
        with tempfile.TemporaryDirectory() as folder:
            given = pipeline, sources, Path(folder)
            runs = [("folder", len(sources), partial(folder_in_turn, *given),
                     partial(folder_ahead, *given))]  # fmt: skip
            if index is not None:
                runs.append(("evaluation", len(index), partial(evaluation_in_turn, backend, index),
                             partial(evaluation_ahead, backend, index)))  # fmt: skip
            rows += [
                compare(name, what, count, (plain, ahead), rounds=arguments.rounds)
                for what, count, plain, ahead in runs
            ]
        del backend, pipeline
        gc.collect()
    print(f"{describe_machine()}\n")
    print("| runtime | what | images/s in turn | images/s | times faster | cores busy |")
    print("|---|---|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row['runtime']} | {row['what']} | {row['in_turn']:.1f} | {row['ahead']:.1f} "
            f"| {row['times_faster']:.2f} | {100 * float(row['busy']):.0f} % |"
        )
    if arguments.json:
        text = json.dumps({"machine": describe_machine(), "rows": rows}, indent=1)
        arguments.json.write_text(text + "\n", "utf-8")


def compare(
    name: str, what: str, count: int, runs: Sequence[Callable[[], float | None]], *, rounds: int
) -> dict[str, float | str]:
    """A row: images a second of both runs, their ratio, and how busy the cores were."""
    times = [[time_run(run) for run in runs] for _ in range(rounds)]
    (plain, _), (ahead, busy) = (min(column) for column in zip(*times, strict=True))
    return {
        "runtime": name,
        "what": what,
        "in_turn": count / plain,
        "ahead": count / ahead,
        "times_faster": plain / ahead,
        "busy": busy,
    }


if __name__ == "__main__":
    main()
