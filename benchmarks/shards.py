"""How fast training samples are read from files and from shards, here and from S3.

The dataset is packed into a temporary folder. Files and shards then take turns in one process:
first with nothing of them in memory, and nothing of an address in the cache ("cold"), then again
("warm"). `read` reads the bytes of all images in random order, `train` makes training samples with
mosaic and mixup. With --s3 both are served by an S3 server on this machine too, so no network is
between; it needs the packages s3fs and moto[server].

    python benchmarks/shards.py coco --s3 --json shards.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from oculox.addresses import Address, attempt, on_disk, upload
from oculox.config.load import load_config
from oculox.config.schema import DataConfig
from oculox.data.coco import CocoIndex
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


def forget(index: CocoIndex, *, cache: Path) -> None:
    """Drop what the system keeps of the images in memory, and the cache of addresses."""
    shutil.rmtree(cache, ignore_errors=True)
    if isinstance(index.image_dir, Path):
        for path in index.image_dir.rglob("*.*"):
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


@contextmanager
def served(indexes: dict[str, CocoIndex], cache: Path) -> Iterator[Address]:
    """The address of a bucket on an S3 server, with a copy of each split below its name."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "benchmark")
    os.environ |= keys | {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "OCULOX_CACHE": str(cache),
    }
    words = ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            bucket = Address("s3://benchmark")
            attempt(bucket, lambda system, path: system.mkdir(path))
            for name, index in indexes.items():
                root = on_disk(index.annotations).parents[1]
                stored = {f"{index.image_dir.name}/{index.stored_in(i)}" for i in range(len(index))}
                for file in (f"annotations/{index.annotations.name}", *stored):
                    upload(root / file, bucket / name / file)
            yield bucket
        finally:
            server.kill()


def measure(
    indexes: dict[str, CocoIndex], forget: Callable[[CocoIndex], None], *, rounds: int
) -> Iterator[Row]:
    """Each kind of work on each source, cold and warm, in turns."""
    for what, work in (("read", read_all), ("train", train_on)):
        found: dict[tuple[str, str], list[float]] = {}
        for _ in range(rounds):
            for name, index in indexes.items():
                forget(index)
                for state in ("cold", "warm"):
                    found.setdefault((name, state), []).append(work(index))
        for (name, state), rates in found.items():
            yield Row(what, name, state, statistics.median(rates), rates)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder of a COCO dataset, of files")
    parser.add_argument("--split", default="train", choices=("train", "val"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--s3", action="store_true", help="read from an S3 server here as well")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    arguments = parser.parse_args()
    if sys.platform != "linux":
        parser.error("files are dropped from memory with posix_fadvise: this needs Linux")
    with ExitStack() as stack:
        # Beside the data: a folder for temporary files may be in memory.
        beside = tempfile.TemporaryDirectory(dir=arguments.data.absolute().parent)
        scratch = Path(stack.enter_context(beside))
        pack_data(arguments.data, scratch / "shards")
        roots = {"files": arguments.data, "shards": scratch / "shards"}
        indexes = {
            name: load_splits(DataConfig(root=root), arguments.split)[0]
            for name, root in roots.items()
        }
        if arguments.s3:
            bucket = stack.enter_context(served(indexes, scratch / "cache"))
            for name in roots:
                root = bucket / name
                indexes[f"{name} in S3"] = load_splits(DataConfig(root=root), arguments.split)[0]
        drop = partial(forget, cache=scratch / "cache")
        rows = list(measure(indexes, drop, rounds=arguments.rounds))
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
