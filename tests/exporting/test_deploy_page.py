"""The Python of docs/deploy.md runs as it stands there and finds what `oculox predict` finds."""

import importlib.util
import json
import re
import shutil
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

from oculox.cli.main import main
from oculox.datasets.demo.scene import render_scene
from oculox.exporting.targets import TARGETS
from oculox.runtime.exported import InGraphNms

SHARED = Path(__file__).resolve().parents[3] / "shared"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
FILES = {
    "whole.onnx": {"format": "onnx", "batch": None, "preprocess": True, "opset": 20},
    "model.onnx": {"format": "onnx"},
    "model.xml": {"format": "openvino"},
    "model.torchscript": {"format": "torchscript", "batch": None},
    "model.pt2": {"format": "pt2"},
    "model.ncnn": {"format": "ncnn"},
    "model.tflite": {"format": "litert"},
}
NMS = InGraphNms(conf=0.2, iou=0.5, max_det=50)
BUILDERS = {
    "onnx": "onnxscript",
    "openvino": "onnxscript",
    "ncnn": "pnnx",
    "litert": "litert_torch",
}


STEPS = next(block for block in BLOCKS if "def letterbox" in block)
EXAMPLES = [block for block in BLOCKS if block != STEPS]


def street():
    """A photograph where there is one, a rendered scene elsewhere."""
    for photo in sorted((SHARED / "coco_mini" / "val2017").glob("*.jpg"))[:1]:
        return cv2.imread(str(photo))
    return render_scene(np.random.default_rng(5), (120, 160)).image


def run(code, name, values):
    exec(compile(code, name, "exec"), values)  # noqa: S102 - our own page
    return values


@pytest.mark.filterwarnings("ignore:`torch.jit.load`:DeprecationWarning")
@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: f"block{EXAMPLES.index(block)}")
def test_examples_find_what_predict_finds(block, exports, tmp_path, monkeypatch):
    packages = set(re.findall(r"^(?:import|from) (\w+)", block, flags=re.MULTILINE))
    for package in packages - {"detect_steps"}:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    name = next(file for file in FILES if file in block)
    options = dict(FILES[name])
    builder = BUILDERS.get(options["format"])
    if builder and importlib.util.find_spec(builder) is None:
        pytest.skip(f"{builder} is not installed")
    if name == "whole.onnx":
        options["nms"] = NMS
    for file in exports(**options).files:
        target = (tmp_path / name).with_suffix(file.suffix)
        (shutil.copytree if file.is_dir() else shutil.copyfile)(file, target)
    cv2.imwrite(str(tmp_path / "street.jpg"), street())
    monkeypatch.chdir(tmp_path)
    steps = types.ModuleType("detect_steps")
    run(STEPS, "detect_steps", vars(steps))
    monkeypatch.setitem(sys.modules, "detect_steps", steps)
    found = run(block, str(PAGE), {})["found"]

    thresholds = ["--conf", str(NMS.conf), "--iou", str(NMS.iou)] if name == "whole.onnx" else []
    assert main(["predict", name, "street.jpg", "--output", "found", *thresholds]) == 0
    [expected] = json.loads((tmp_path / "found" / "predictions.json").read_text("utf-8"))
    expected = expected["detections"]
    assert len(expected) > 5
    assert [label for label, _, _ in found] == [e["class_id"] for e in expected]
    scores = [score for _, score, _ in found]
    np.testing.assert_allclose(scores, [e["score"] for e in expected], atol=1e-3)
    height, width = cv2.imread("street.jpg").shape[:2]
    boxes = np.clip([box for _, _, box in found], 0, [width, height] * 2)
    np.testing.assert_allclose(boxes, [e["box"] for e in expected], atol=0.1)


def test_the_page_names_every_format():
    page = PAGE.read_text("utf-8")
    assert [name for name in TARGETS if f"| `{name}` |" not in page] == []
    assert len(EXAMPLES) >= 7
