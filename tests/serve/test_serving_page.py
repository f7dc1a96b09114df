"""The examples of docs/serving.md, against a real service."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from oculox.datasets.demo.scene import render_scene
from oculox.files import write_image
from service_client import serving

PAGE = (Path(__file__).parents[2] / "docs/serving.md").read_text("utf-8")


@pytest.fixture(scope="module")
def asked(eager_pt):
    with serving(str(eager_pt)) as client:
        yield client


@pytest.fixture
def blocks(asked, tmp_path, monkeypatch):
    """The examples in a language, with the address of the service, where the image is."""
    monkeypatch.chdir(tmp_path)
    write_image(Path("street.jpg"), render_scene(np.random.default_rng(5), (96, 128)).image)

    def find(language):
        found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
        classes = ("classes=person,dog", "classes=leaf,fish")
        return [b.replace("http://127.0.0.1:8000", asked.address).replace(*classes) for b in found]

    return find


def needs(program):
    path = shutil.which(program)
    return pytest.mark.skipif(path is None, reason=f"{program} is not installed")


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python(blocks, capsys):
    [block] = blocks("python")
    exec(compile(block, "example", "exec"), {})  # noqa: S102 - our own page
    assert re.search(r"^(leaf|ball|fish) 0\.\d+ \[", capsys.readouterr().out, re.MULTILINE)


@needs("node")
def test_javascript(blocks):
    [block] = blocks("js")
    Path("example.mjs").write_text(block, "utf-8")
    assert re.search(r"^(leaf|ball|fish) 0\.\d+ \[", run("node", "example.mjs"), re.MULTILINE)


@needs("curl")
def test_curl(blocks):
    lines = [line for b in blocks("sh") for line in b.splitlines() if line.startswith("curl ")]
    assert len(lines) == 3
    for line in lines:
        said = run("sh", "-c", line)
        assert said.startswith('{"width":128,"height":96,') or "found.jpg" in line
    assert Path("found.jpg").read_bytes().startswith(b"\xff\xd8")
