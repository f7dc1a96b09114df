"""How fast training samples are read from files and from shards.

The dataset is packed into a temporary folder. Files and shards then take turns in one process:
first with nothing of them in memory ("cold"), then again ("warm"). `read` reads the bytes of all
images in random order, `train` makes training samples with mosaic and mixup.

    python benchmarks/shards.py coco --json shards.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from oculox.config.load import load_config
from oculox.config.schema import DataConfig
from oculox.data.coco import CocoIndex, Split
from oculox.data.image import read_file
from oculox.data.loader import build_train_loader
from oculox.datasets.pack import pack_data
from oculox.datasets.splits import load_splits
from oculox.distributed.devices import describe_machine


class Row(NamedTuple):
    """Images or samples a second: the median of the rounds, and each round."""

    what: str
    source: str
    state: str
    median: float
    rounds: Sequence[float]


def forget(root: Path) -> None:
    """Drop what the system keeps of the files in memory."""
    for path in root.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def read_all(index: CocoIndex) -> float:
    """Images a second, bytes only."""
    order = np.random.default_rng(0).permutation(len(index)).tolist()
    started = time.perf_counter()
    for i in order:
        read_file(index.image_file(i))
    return len(index) / (time.perf_counter() - started)


def train_on(index: CocoIndex) -> float:
    """Training samples a second of one loader process, over an epoch of the official recipe."""
    config = load_config("yolox-s", ["data.workers=0"])
    loader = build_train_loader(config, index, batch_per_process=8)
    started = time.perf_counter()
    samples = sum(len(batch.images) for batch in loader.iterate(0, mosaic=True))
    return samples / (time.perf_counter() - started)


def measure(roots: dict[str, Path], *, split: Split, rounds: int) -> Iterator[Row]:
    """Each kind of work on each source, cold and warm, in turns."""
    indexes = {name: load_splits(DataConfig(root=root), split)[0] for name, root in roots.items()}
    for what, work in (("read", read_all), ("train", train_on)):
        found: dict[tuple[str, str], list[float]] = {}
        for _ in range(rounds):
            for name, index in indexes.items():
                forget(roots[name])
                for state in ("cold", "warm"):
                    found.setdefault((name, state), []).append(work(index))
        for (name, state), rates in found.items():
            yield Row(what, name, state, statistics.median(rates), rates)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="dataset of files, in any format")
    parser.add_argument("--split", default="train", choices=("train", "val"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the numbers")
    arguments = parser.parse_args()
    if sys.platform != "linux":
        parser.error("files are dropped from memory with posix_fadvise: this needs Linux")
    with tempfile.TemporaryDirectory(dir=arguments.data.absolute().parent) as scratch:
        shards = Path(scratch) / "shards"
        pack_data(arguments.data, shards)
        roots = {"files": arguments.data, "shards": shards}
        rows = list(measure(roots, split=arguments.split, rounds=arguments.rounds))
    print("| | source | | a second | rounds |\n| --- | --- | --- | ---: | --- |")
    for row in rows:
        rates = ", ".join(f"{rate:.1f}" for rate in row.rounds)
        print(f"| {row.what} | {row.source} | {row.state} | {row.median:.1f} | {rates} |")
    print(f"\n{describe_machine()}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        content = {"machine": describe_machine(), "results": [row._asdict() for row in rows]}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
