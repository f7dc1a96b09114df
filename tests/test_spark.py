"""The program for Spark in docs/batch-prediction.md, on a local Spark."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from oculox import Detector

PAGE = Path(__file__).parents[1] / "docs/batch-prediction.md"


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("pyspark") is None or shutil.which("java") is None,
    reason="Spark is not installed (pip install pyspark; it needs java)",
)
def test_the_recipe_finds_what_a_detector_finds(eager_pt, tiny_data, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")
    images = sorted((tiny_data / "train2017").iterdir())
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    (tmp_path / "images.txt").write_text("".join(f"{path}\n" for path in [*images, bad]))
    [program] = re.findall(r"```python\n(from collections.*?)```", PAGE.read_text("utf-8"), re.S)
    program = program.replace('"yolox-s"', repr(str(eager_pt))).replace(
        "repartition(32)", "repartition(2)"
    )
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_SUBMIT_ARGS": "--master local[2] pyspark-shell",
            "SPARK_LOCAL_IP": "127.0.0.1",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "found").sort_by("image").to_pylist()
    expected = Detector(eager_pt, device="cpu").table([*images, bad]).sort_by("image").to_pylist()
    assert rows == expected
    assert sum(len(row["scores"]) for row in rows) > 0
    assert sum(row["error"] is not None for row in rows) == 1
