"""The Python of README, of the quick start and of other pages runs, with small settings.

That of docs/deploy.md runs in `tests/exporting/test_deploy_page.py`.
"""

import json
import re
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from moving import write_sequence
from oculox.cli.main import main
from oculox.datasets.demo.scene import render_scene
from oculox.weights.checkpoint import save_safetensors

ROOT = Path(__file__).parents[1]
SMALL = """
extends: yolox-nano
input: {size: 64}
augment: {multiscale: null}
data: {workers: 0}
optimizer: {lr: 1.0e-4}  # higher ones make numbers of random weights that no export keeps
train: {device: cpu, log_interval: 1, report: false}
"""
REPLACED = {
    r'weights="yolox-\w+"': 'weights="start.pt"',
    r'"yolox-(?:s|nano)",': '"small.yaml",',
    r'Detector\("yolox-s"\)': 'Detector("start.pt")',
    r'"new\.onnx"': '"start.pt"',
    r"train\.epochs=50": "train.epochs=1",
    r"train\.batch=16": "train.batch=4 train.epochs=1".replace(" ", '", "'),
    r", devices=2": "",  # two processes train like one: tests/training/test_runs.py
    r'"onnx", nms=True': '"torchscript"',  # the quickest; ONNX: tests/exporting
    r'\["torch", "onnx"\]': '["torch"], samples=2',
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
    for name in ("start.pt", "old.pt", "runs/mine/best.pt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(eager_pt, tmp_path / name)
    scene = render_scene(np.random.default_rng(5), (96, 128)).image
    write_sequence(tmp_path / "street.mp4", frames=3, codec="mp4v")
    for name in ("street.jpg", "photo.jpg", "a.jpg", "b.jpg", "c.png"):
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


def test_training_and_export_on_the_page_of_python(workplace, values, capsys):
    """What is trained first is what is exported."""
    page = blocks("docs/python.md")
    first, watched = (block for block in page if " train(" in block)
    [exported] = (block for block in page if "export(" in block)
    shutil.rmtree("runs/mine")
    summary = run(first, values)["summary"]
    assert summary.best.is_file()
    assert summary.output.parent.name == "runs"
    assert Path("runs/mine/best.pt").is_file()
    capsys.readouterr()
    run(watched, values)
    assert re.search(r"^1/\d+: loss \d+\.\d\d$", capsys.readouterr().out, re.M)

    run(exported, values)
    path, _, speed = capsys.readouterr().out.partition("\n")
    assert path.startswith("runs/mine/best")
    assert values["report"].ap
    assert values["detector"].path == values["report"].path
    assert speed.startswith("torch ")


def test_the_page_of_video(workplace, values):
    pytest.importorskip("trackers", reason="trackers is not installed (extra: track)")
    [block] = blocks("docs/video.md")
    assert run(block, values)["image"].shape == (128, 192, 3)


def test_the_page_of_own_data(workplace, values):
    [block] = blocks("docs/own-data.md")
    assert run(block, values)["detector"].names


def test_the_first_commands_print_what_the_pages_say(tmp_path, shared, monkeypatch, capsys):
    """Of README and quick start, on the photo of the repository, with the official weights."""
    weights = str(shared / "weights/yolox_nano.pth")
    photo = "docs/images/coffee.jpg"
    monkeypatch.chdir(tmp_path)
    assert main(["predict", weights, str(ROOT / photo)]) == 0
    printed = capsys.readouterr().out
    for page in ("README.md", "docs/quickstart.md"):
        text = (ROOT / page).read_text("utf-8")
        assert f"oculox predict yolox-nano {photo}\n```\n\n```console\n{printed}```" in text
    quoted = re.findall(r"^```json\n(.*?)^```$", text, re.S | re.M)
    [image] = json.loads(Path("runs/predict/predictions.json").read_text("utf-8"))
    assert [json.loads(block)["name"] for block in quoted] == [image["detections"][0]["name"]]
    assert json.loads(quoted[0])["score"] == pytest.approx(
        image["detections"][0]["score"], abs=0.01
    )
    assert json.loads(quoted[0])["box"] == pytest.approx(image["detections"][0]["box"], abs=1)


def test_the_later_commands_of_the_quick_start(
    tmp_path, tiny_data, eager_weights, monkeypatch, capsys, values
):
    """All after `oculox demo`, which has its own test, on what it leaves."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_data, "demo-run/data")
    save_safetensors(Path("demo-run/demo-nano.safetensors"), eager_weights)
    text = (ROOT / "docs/quickstart.md").read_text("utf-8")
    commands = re.findall(r"^oculox (.*)$", text.partition("## Use")[2], re.M)
    assert [line.split()[0] for line in commands] == ["predict", "export", "predict"]
    for line in commands:
        assert main(shlex.split(line)) == 0, line
    said = capsys.readouterr().out
    assert "images and predictions.json in found\n" in said
    assert "demo-run/demo-nano.onnx" in said
    [block] = blocks("docs/quickstart.md")
    assert run(block, values)["detector"].names


def test_the_notebook(workplace, shared, values, capsys, monkeypatch):
    """Its cells, in order; the weights are those of the reference data."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    shutil.copytree(ROOT / "docs/images", "images")
    shutil.copytree("my-data", "demo-data")
    Path("runs/first").mkdir()
    Path("runs/first/log.jsonl").write_text('{"kind": "train", "step": 1, "loss": 9.5}\n')
    cells = json.loads((ROOT / "docs/notebook.ipynb").read_text("utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            source = "".join(cell["source"])
            run(source.replace('"yolox-nano"', f'"{shared}/weights/yolox_nano.pth"'), values)
    assert "cup 0.89" in capsys.readouterr().out
    assert values["report"].ok
    assert values["plt"].gca().lines
    values["plt"].close("all")


def test_the_json_of_eval_has_the_fields_of_its_page(tiny_data, eager_pt, capsys):
    arguments = ["eval", str(eager_pt), "--data", str(tiny_data), "--workers", "0", "--json"]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    page = (ROOT / "docs/predict.md").read_text("utf-8").partition("### The JSON of eval")[2]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.M))
    assert rows.keys() == printed.keys()
    for field, keys in (("metrics", printed["metrics"]), ("classes", printed["classes"][0])):
        assert set(re.findall(r"`(\w+)`", rows[field])) == set(keys)


def test_the_callback_of_the_page(workplace, values, capsys):
    [block] = [block for block in blocks("docs/python.md") if "callback=" in block]
    run(block, values)
    assert re.search(r"^1/1: loss \d", capsys.readouterr().out, re.M)
