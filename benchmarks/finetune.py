"""Compare settings of fine-tuning on several small datasets, with several seeds, on a CPU.

Every run is an ordinary `oculox train` from the same weights with the same number of steps. The
table shows the mean AP of each setting and its paired difference from the baseline (the same
dataset, seed and start) with the standard error over all datasets. A difference counts when it
is more than twice its standard error. Results are kept in `WORK/results.jsonl`: a second call
runs only what is missing, and goes on with runs that were cut off.

    python benchmarks/finetune.py yolox_nano.pth --shared ../shared
    python benchmarks/finetune.py yolox_nano.pth --table my-settings.yaml --steps 160 320
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from oculox.config import config_to_dict, load_config
from oculox.datasets.demo.dataset import write_demo
from oculox.datasets.formats.convert import convert
from oculox.errors import OculoxError

SUBSETS = {
    "person": ("person",),
    "vehicles": ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    "animals": (
        *("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra"),
        "giraffe",
    ),
}
"""Classes of COCO that are datasets of their own, and once more with names that no weights know."""

RENAMED = "-renamed"

TRAIN_SHARE = 0.7
"""Part of a subset's images that is trained on; the hash of an image's bytes decides."""


@dataclasses.dataclass(frozen=True, order=True)
class Case:
    """One run: a setting on a dataset with a seed, at a number of steps.

    `digest` stands for what a setting's name does not say: all its values, the weights, the input.
    """

    digest: str
    setting: str
    dataset: str
    seed: int
    steps: int

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        return f"{self.setting}-{self.dataset}-{self.seed}-{self.steps}-{self.digest}"


def main() -> int:
    """Parse, prepare the datasets, run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, help="weights to start from")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="coco_mini, bccd")
    parser.add_argument("--work", type=Path, default=Path("runs/finetune"))
    parser.add_argument("--table", type=Path, default=Path(__file__).with_suffix(".yaml"))
    parser.add_argument("--settings", nargs="+", help="names from the table; all by default")
    parser.add_argument("--datasets", nargs="+", help="all by default")
    parser.add_argument("--recipe", default="yolox-nano")
    parser.add_argument("--imgsz", type=int, default=224)
    parser.add_argument("--steps", type=int, nargs="+", default=[320], help="one table for each")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument("--plot", type=Path, help="an image of mean AP over steps")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    table: Mapping[str, list[str]] = yaml.safe_load(args.table.read_text("utf-8"))
    names = args.settings or list(table)
    if unknown := [name for name in names if name not in table]:
        parser.error(f"{args.table} has no {', '.join(unknown)} (it has {', '.join(table)})")
    args.work.mkdir(parents=True, exist_ok=True)
    datasets = prepare(args.shared, args.work / "data", args.datasets)
    digests = {name: digest(table[name], args) for name in names}
    cases = [
        Case(digests[name], name, dataset, seed, steps)
        for steps in args.steps
        for seed in args.seeds
        for dataset in datasets
        for name in names
    ]
    results = Results(args.work / "results.jsonl")
    with ThreadPoolExecutor(args.jobs) as pool:
        todo = [case for case in cases if case not in results.ap]
        for _ in pool.map(lambda case: run(case, table[case.setting], args, results), todo):
            pass
    tables = {
        steps: rows(results, digests, list(datasets), args.seeds, steps) for steps in args.steps
    }
    if args.json:
        print(json.dumps(tables, indent=2))
    else:
        for steps, table in tables.items():
            print(f"\n{steps} steps of {args.batch} images\n")
            show(table, list(datasets))
    if args.plot is not None:
        plot(tables, list(datasets), args.plot)
    return 0


def digest(setting: Sequence[str], args: argparse.Namespace) -> str:
    """Eight hexadecimal digits that change with what is trained."""
    weights = hashlib.sha256(args.weights.read_bytes()).hexdigest()
    # Resolved, so that results of a recipe that has changed since are not taken for its own.
    config = config_to_dict(load_config(args.recipe, setting, from_weights=True))
    facts = json.dumps([config, weights, args.imgsz, args.batch], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:8]


class Results:
    """AP by case, in memory and in a file with one line of JSON for each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.ap: dict[Case, float] = {}
        self.seconds: dict[Case, float] = {}
        for line in path.read_text("utf-8").splitlines() if path.exists() else ():
            self._keep(json.loads(line))

    def _keep(self, row: Mapping[str, Any]) -> None:
        case = Case(*(row[field.name] for field in dataclasses.fields(Case)))
        self.ap[case], self.seconds[case] = row["ap"], row["seconds"]

    def add(self, case: Case, summary: Mapping[str, Any]) -> None:
        """Keep the AP that a run ended with."""
        row = {
            **dataclasses.asdict(case),
            "ap": summary["metrics"]["ap"],
            "ap50": summary["metrics"]["ap50"],
            "seconds": round(summary["seconds"], 1),
        }
        with self._lock:
            self._keep(row)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        print(json.dumps(row), file=sys.stderr, flush=True)


def run(case: Case, setting: Sequence[str], args: argparse.Namespace, results: Results) -> None:
    """Train one case, or go on with it; its folder is deleted at the end, the AP stays."""
    folder = args.work / "runs" / case.folder
    data = args.work / "data" / case.dataset
    command = [sys.executable, "-m", "oculox", "train", "--json"]
    if (folder / "last.pt").exists() and (folder / "config.yaml").exists():
        command += ["--resume", str(folder)]
    else:
        train = json.loads((data / "annotations" / "instances_train2017.json").read_text("utf-8"))
        recipe, *overrides = (
            setting if setting and "=" not in setting[0] else [args.recipe, *setting]
        )
        command += [
            *(recipe, "--weights", str(args.weights), "--output", str(folder)),
            *(f"data.root={data}", "data.cache=ram", "data.workers=0", "train.device=cpu"),
            *(f"input.size={args.imgsz}", f"train.batch={args.batch}", f"train.seed={case.seed}"),
            f"train.epochs={max(1, round(case.steps * args.batch / len(train['images'])))}",
            *("train.eval_interval=0", "train.tail_eval_interval=0"),
            *overrides,
        ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{case.folder} failed:\n{done.stderr[-2000:]}")
    results.add(case, json.loads(done.stdout))
    shutil.rmtree(folder)


def prepare(shared: Path, work: Path, wanted: Sequence[str] | None) -> dict[str, Path]:
    """Write the datasets that are not there yet; those whose source is missing are left out."""
    found: dict[str, Path] = {}
    for name in wanted or ["bccd", "demo", *SUBSETS, *(name + RENAMED for name in SUBSETS)]:
        folder = work / name
        if not folder.exists():
            try:
                write_dataset(name, shared, folder)
            except (OculoxError, OSError) as error:
                print(f"{name}: left out ({error})", file=sys.stderr)
                continue
        found[name] = folder
    return found


def write_dataset(name: str, shared: Path, folder: Path) -> None:
    """One dataset in COCO layout."""
    if name == "demo":
        write_demo(folder, train=200, val=60)
    elif name == "bccd":
        convert(shared / "bccd" / "BCCD", folder, source_format="voc")
    else:
        subset = name.removesuffix(RENAMED)
        write_subset(shared / "coco_mini", folder, SUBSETS[subset], rename=subset != name)


def write_subset(coco: Path, folder: Path, classes: Sequence[str], *, rename: bool) -> None:
    """The images of COCO that hold some classes, each image's bytes once, split by their hash."""
    entries = [
        (split, json.loads((coco / "annotations" / f"instances_{split}.json").read_text("utf-8")))
        for split in ("train2017", "val2017")
    ]
    categories = [c for c in entries[0][1]["categories"] if c["name"] in classes]
    ids = {c["id"] for c in categories}
    if rename:
        categories = [{**c, "name": f"thing {c['id']}"} for c in categories]
    parts: dict[str, dict[str, list[Any]]] = {
        part: {"images": [], "annotations": [], "categories": categories}
        for part in ("train2017", "val2017")
    }
    seen: set[bytes] = set()
    for split, content in entries:
        objects: dict[int, list[Any]] = {}
        for entry in content["annotations"]:
            if entry["category_id"] in ids:
                objects.setdefault(entry["image_id"], []).append(entry)
        for image in content["images"]:
            if image["id"] not in objects:
                continue
            source = coco / split / image["file_name"]
            digest = hashlib.sha256(source.read_bytes()).digest()
            if digest in seen:
                continue
            seen.add(digest)
            part = "train2017" if digest[0] < 256 * TRAIN_SHARE else "val2017"
            (folder / part).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / part / image["file_name"])
            parts[part]["images"].append(image)
            parts[part]["annotations"] += objects[image["id"]]
    (folder / "annotations").mkdir()
    for part, content in parts.items():
        path = folder / "annotations" / f"instances_{part}.json"
        path.write_text(json.dumps(content), "utf-8")


def rows(
    results: Results,
    digests: Mapping[str, str],
    datasets: Sequence[str],
    seeds: Sequence[int],
    steps: int,
) -> list[dict[str, Any]]:
    """By setting: mean AP and spread by dataset, and the paired difference from the first one."""
    table = []
    first = next(iter(digests))
    for name, digest_ in digests.items():
        row: dict[str, Any] = {"setting": name}
        gains: dict[str, list[float]] = {}
        for dataset in datasets:
            values, base = (
                [results.ap[Case(digests[of], of, dataset, seed, steps)] for seed in seeds]
                for of in (name, first)
            )
            row[dataset] = (statistics.fmean(values), spread(values))
            gains[dataset] = [a - b for a, b in zip(values, base, strict=True)]
        row["mean"] = statistics.fmean(row[dataset][0] for dataset in datasets)
        row["gain"], row["error"] = combined(gains.values())
        row["seconds"] = statistics.fmean(
            results.seconds[Case(digest_, name, dataset, seed, steps)]
            for dataset in datasets
            for seed in seeds
        )
        table.append(row)
    return table


def show(table: Sequence[Mapping[str, Any]], datasets: Sequence[str]) -> None:
    """Print as Markdown."""
    print(f"| setting | {' | '.join(datasets)} | mean | gain | seconds |")
    print("| --- |" + " ---: |" * (len(datasets) + 3))
    for row in table:
        cells = [f"{row[d][0]:.3f} ± {row[d][1]:.3f}" for d in datasets]
        counts = "" if abs(row["gain"]) > 2 * row["error"] else " (no)"
        gain = f"{row['gain']:+.3f} ± {row['error']:.3f}{counts}"
        print(
            f"| {row['setting']} | {' | '.join(cells)} | {row['mean']:.3f} | {gain} "
            f"| {row['seconds']:.0f} |"
        )


def plot(
    tables: Mapping[int, Sequence[Mapping[str, Any]]], datasets: Sequence[str], path: Path
) -> None:
    """Mean AP over the length of the run, one panel for each dataset."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.4 * len(datasets), 2.6), layout="constrained")
    panels = figure.subplots(1, len(datasets), squeeze=False)[0]
    for panel, dataset in zip(panels, datasets, strict=True):
        for i, row in enumerate(next(iter(tables.values()))):
            means, spreads = zip(*(table[i][dataset] for table in tables.values()), strict=True)
            panel.errorbar(list(tables), means, spreads, marker=".", label=row["setting"])
        panel.set(title=dataset, xlabel="steps", ylim=(0, None))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("AP")
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def spread(values: Sequence[float]) -> float:
    """Standard deviation over seeds; 0 for one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def combined(gains: Iterable[Sequence[float]]) -> tuple[float, float]:
    """Mean over datasets of the mean paired difference, and its standard error over seeds."""
    groups = list(gains)
    mean = statistics.fmean(statistics.fmean(group) for group in groups)
    variance = sum(spread(group) ** 2 / len(group) for group in groups) / len(groups) ** 2
    return mean, math.sqrt(variance)


if __name__ == "__main__":
    raise SystemExit(main())
