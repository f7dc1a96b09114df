"""How long the command line and the package take to start.

    python benchmarks/startup.py
    python benchmarks/startup.py --runs 20 --json

Times are medians over processes of their own, in seconds, after one to warm the disk's cache.
Packages are timed as a whole process that imports them, less one that imports nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

NOTHING = "python, nothing imported"
COMMANDS: dict[str, tuple[list[str], float | None]] = {
    NOTHING: (["-c", "pass"], None),
    "import oculox": (["-c", "import oculox"], 0.3),
    "oculox --version": (["-m", "oculox", "--version"], 0.4),
    "oculox --help": (["-m", "oculox", "--help"], 0.4),
    "oculox train --help": (["-m", "oculox", "train", "--help"], None),
    "oculox config yolox-s": (["-m", "oculox", "config", "yolox-s"], 0.8),
    "oculox weights list": (["-m", "oculox", "weights", "list"], None),
}
"""Words after python, and the most seconds they may take."""
PACKAGES = ("typer", "rich.progress", "pydantic", "yaml", "numpy", "cv2", "matplotlib", "torch")


def median_seconds(words: list[str], runs: int) -> float:
    """Median wall time of ``python WORDS``."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=7, help="processes timed of each kind")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    arguments = parser.parse_args()
    commands = {
        name: median_seconds(words, arguments.runs) for name, (words, _) in COMMANDS.items()
    }
    packages = {
        name: median_seconds(["-c", f"import {name}"], arguments.runs) - commands[NOTHING]
        for name in PACKAGES
    }
    if arguments.json:
        print(json.dumps({"seconds": commands, "imports": packages}, indent=1))
        return
    for name, seconds in commands.items():
        most = COMMANDS[name][1]
        print(f"{name:<28} {seconds:6.2f} s" + ("" if most is None else f"  (at most {most})"))
    for name, seconds in packages.items():
        print(f"import {name:<21} {seconds:6.2f} s")


if __name__ == "__main__":
    main()
