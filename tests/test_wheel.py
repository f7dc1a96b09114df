"""The wheel is whole: built, installed into an environment of its own, and used."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_works_alone(tmp_path):
    """Needs a package index for the build and for the dependencies of the wheel."""

    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*command):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(sys.executable, "-m", "build", "--wheel", "--outdir", "dist", ROOT)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"oculox/py.typed", "oculox/recipes/yolox-nano.yaml"} <= set(names)
    assert {n.rpartition("/")[2] for n in names} >= {"LICENSE", "NOTICE", "catalogue.yaml"}
    assert all(n.startswith(("oculox/", "oculox-")) for n in names)

    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    constraints = ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "-q", "-c", constraints, wheel)
    run(python, "-m", "oculox", "data", "demo", "data", "--train", "4", "--val", "2")
    run(python, "-m", "oculox", "train", "yolox-nano", "data.root=data", "train.max_steps=1",
        "train.batch=2", "input.size=64", "data.workers=0", "--output", "run")  # fmt: skip
    said = run(python, "-m", "oculox", "predict", "run/best.pt", "data/val2017")
    assert "2 images" in said
    code = "import oculox; print(oculox.__file__, oculox.Detector('run/best.pt').names)"
    said = run(python, "-c", code)
    assert "site-packages" in said
    assert "'house'" in said
