"""The Python of README, docs/python.md and docs/data.md runs, with small settings.

That of docs/deploy.md runs in `tests/exporting/test_deploy_page.py`.
"""

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from oculox.datasets.demo.scene import render_scene

ROOT = Path(__file__).parents[1]
SMALL = """
extends: yolox-nano
input: {size: 64}
augment: {multiscale: null}
data: {workers: 0}
train: {device: cpu, log_interval: 1}
"""
REPLACED = {
    r'"yolox-(?:s|nano)",': '"small.yaml",',
    r'weights="yolox-\w+"': 'weights="start.pt"',
    r'Detector\("yolox-s"\)': 'Detector("start.pt")',
    r"train\.epochs=50": "train.epochs=1",
    r"train\.batch=16": "train.batch=4",
    r"\[1, 3, 7\]": "[1, 2, 3, 4, 5, 6]",  # the demo's classes
}
VOC = """<annotation><size><width>32</width><height>32</height><depth>3</depth></size>
<object><name>RBC</name><difficult>0</difficult>
<bndbox><xmin>4</xmin><ymin>4</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></object></annotation>
"""


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text("utf-8"), re.S | re.M)


def run(block, values):
    for pattern, small in REPLACED.items():
        block = re.sub(pattern, small, block)
    exec(compile(block, "example", "exec"), values)  # noqa: S102 - our own pages
    return values


@pytest.fixture
def workplace(tmp_path, tiny_data, eager_pt, monkeypatch):
    """A folder with all that the examples name."""
    for name in ("my-data", "my-coco"):
        shutil.copytree(tiny_data, tmp_path / name)
    for name in ("start.pt", "runs/mine/best.pt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(eager_pt, tmp_path / name)
    scene = render_scene(np.random.default_rng(5), (96, 128)).image
    for name in ("street.jpg", "a.jpg", "b.jpg", "c.png"):
        cv2.imwrite(str(tmp_path / name), scene)
    for folder, name in (("JPEGImages", "1.jpg"), ("Annotations", "1.xml")):
        (tmp_path / "BCCD" / folder).mkdir(parents=True)
        (tmp_path / "BCCD" / folder / name).write_text(VOC)
    cv2.imwrite(str(tmp_path / "BCCD/JPEGImages/1.jpg"), scene[:32, :32])
    (tmp_path / "small.yaml").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def values():
    return {"__name__": "__main__"}


def test_the_readme(workplace, values):
    first, training = blocks("README.md")
    assert run(first, values)["found"].source == "street.jpg"
    assert (workplace / "found.jpg").is_file()
    assert run(training, values)["summary"].best.is_file()


def test_the_page_of_data(workplace, values):
    [block] = blocks("docs/data.md")
    assert run(block, values)["report"].ok


def test_the_page_of_python(workplace, values):
    """All but training and export, in one go: later blocks use names of earlier ones."""
    for block in blocks("docs/python.md"):
        if "export(" not in block and " train(" not in block:
            run(block, values)
    assert len(values["found"]) > 1
    assert len(values["several"]) == 3
    assert len(values["tracked"]) == len(values["rows"]) == len(values["results"])
    assert (workplace / "street-found.jpg").is_file()
    assert values["result"].metrics.ap >= 0
    assert values["report"].ok


def test_the_callback_of_the_page(workplace, values, capsys):
    [block] = [block for block in blocks("docs/python.md") if "callback=" in block]
    run(block, values)
    assert re.search(r"^1/1: loss \d", capsys.readouterr().out, re.M)
