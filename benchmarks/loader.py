"""Training samples a second of one core: the official loader beside ours, in turns.

    pip install --no-deps --no-build-isolation yolox==0.3.0 loguru thop tabulate
    python benchmarks/loader.py coco --split train --json loader.json

Mosaic and mixup as in the recipe of `yolox-s`, batches of 8, in this process with one thread and
no loader processes; seconds are those of the processor, so that other work counts little. Each
form makes as many batches in every round, from other images, without a cache and with decoded
images in memory (the official code keeps them in a file that is mapped into memory). The official
batches are floats, ours bytes, of which the device makes floats. A ratio is the median over rounds
of the rates in the same round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from oculox.config import Config, load_config
from oculox.data.coco import CocoIndex
from oculox.data.loader import build_train_loader
from oculox.datasets.splits import load_splits
from oculox.distributed.devices import describe_machine

BATCH = 8
Batches = Callable[[int], object]
"""Makes the batches of an epoch's number."""


def ours(config: Config, index: CocoIndex, steps: int) -> Batches:
    """Batches of the training loader: bytes, which the device makes floats of."""
    loader = build_train_loader(config, index, batch_per_process=BATCH)

    def make(epoch: int) -> None:
        for step, _ in enumerate(loader.iterate(epoch, mosaic=True), 1):
            if step == steps:
                return

    return make


def official(config: Config, index: CocoIndex, steps: int, *, folder: Path, cache: bool) -> Batches:
    """What the official ``get_data_loader`` and its workers do for the same settings."""
    from training_step import import_official  # of this folder

    data = import_official("yolox.data")
    import_official("loguru").logger.remove()
    (folder / "annotations").mkdir(exist_ok=True)
    for name, target in (
        ("annotations/split.json", index.annotations),
        ("images", index.image_dir),
    ):
        if not (folder / name).exists():
            (folder / name).symlink_to(Path(str(target)).resolve())
    size, augment = config.input.size, config.augment
    plain = data.COCODataset(
        data_dir=str(folder),
        json_file="split.json",
        name="images",
        img_size=size,
        preproc=data.TrainTransform(max_labels=50, flip_prob=0.5, hsv_prob=1.0),
        cache=cache,
    )
    samples = data.MosaicDetection(
        plain,
        size,
        preproc=data.TrainTransform(max_labels=120, flip_prob=0.5, hsv_prob=1.0),
        degrees=augment.degrees,
        translate=augment.translate,
        mosaic_scale=augment.mosaic_scale,
        mixup_scale=augment.mixup_scale,
        shear=augment.shear,
        mosaic_prob=augment.mosaic_prob,
        mixup_prob=augment.mixup_prob,
    )

    def make(epoch: int) -> None:
        order: Iterator[Any] = iter(np.random.default_rng(epoch).permutation(len(samples)))
        for _ in range(steps):
            torch.utils.data.default_collate(
                [samples[(True, int(next(order)))] for _ in range(BATCH)]
            )

    return make


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("root", help="COCO data")
    parser.add_argument("--split", choices=("train", "val"), default="train")
    parser.add_argument("--recipe", default="yolox-s")
    parser.add_argument("--steps", type=int, default=6, help="batches of 8 a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    words = [f"data.root={options.root}", "data.workers=0"]
    config = load_config(options.recipe, words)
    [index] = load_splits(config.data, options.split)
    if len(index) < BATCH * options.steps:
        raise SystemExit(f"{index.annotations} has {len(index)} images, too few for --steps")
    with tempfile.TemporaryDirectory() as folder:
        makers: dict[str, Batches] = {}
        for name, cache in (("no cache", "none"), ("cache", "ram")):
            own = load_config(options.recipe, [*words, f"data.cache={cache}"])
            makers[f"official, {name}"] = official(
                config, index, options.steps, folder=Path(folder), cache=cache == "ram"
            )
            makers[f"oculox, {name}"] = ours(own, index, options.steps)
        rates: dict[str, list[float]] = {name: [] for name in makers}
        for number in range(options.rounds + 1):
            for name, make in makers.items():
                start = time.process_time()
                make(number)
                if number:  # the first round is the warm-up
                    rate = BATCH * options.steps / (time.process_time() - start)
                    rates[name].append(rate)
    rows = []
    print("| loader | samples/s | times the official one |")
    print("| --- | ---: | ---: |")
    for name, found in rates.items():
        reference = rates[f"official, {name.partition(', ')[2]}"]
        ratio = statistics.median(a / b for a, b in zip(found, reference, strict=True))
        rows.append({"loader": name, "samples_per_s": found, "ratio": ratio})
        print(f"| {name} | {statistics.median(found):.1f} | {ratio:.2f} |")
    if options.json:
        told = {"machine": describe_machine(), "recipe": options.recipe, "rows": rows}
        options.json.write_text(json.dumps(told, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
