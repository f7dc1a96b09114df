"""Images a second of `oculox predict --engine`: one process with threads, against workers on Ray.

Both take turns, on a Ray that is started before. The opening of the model and the start of Ray are
not counted.

    python benchmarks/many.py yolox_nano.pth coco/val2017 --limit 300 --workers 2
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from itertools import islice

from oculox import predict_many
from oculox.distributed.devices import describe_machine
from oculox.predict.sources import list_images


def main() -> None:
    """Take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="a checkpoint")
    parser.add_argument("images", nargs="+", help="folders of images")
    parser.add_argument("--limit", type=int, default=300, help="most images of the folders")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--part-size", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    import ray

    images = list(islice(list_images(arguments.images), arguments.limit))
    engines: dict[str, dict[str, object]] = {
        "local": {},
        "ray": {"workers": arguments.workers},
    }
    speeds: dict[str, list[float]] = {engine: [] for engine in engines}
    ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    for _ in range(arguments.rounds):
        for engine, options in engines.items():
            with tempfile.TemporaryDirectory() as folder:
                summary = predict_many(
                    arguments.weights,
                    images,
                    folder,
                    engine=engine,
                    part_size=arguments.part_size,
                    device="cpu",
                    backend=arguments.backend,
                    batch=1,
                    **options,
                )
            speeds[engine].append(summary.images_per_second)
    print(f"{describe_machine()}, {len(images)} images\n")
    print("| engine | images/s of each round | median |")
    print("| --- | ---: | ---: |")
    for engine, found in speeds.items():
        each = ", ".join(f"{speed:.1f}" for speed in found)
        print(f"| {engine} | {each} | {statistics.median(found):.1f} |")


if __name__ == "__main__":
    main()
