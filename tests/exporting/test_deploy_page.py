"""The Python of docs/deploy.md runs as it stands there."""

import importlib.util
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from oculox.datasets.demo.scene import render_scene
from oculox.exporting.targets import TARGETS
from oculox.runtime.exported import InGraphNms

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


@pytest.mark.filterwarnings("ignore:`torch.jit.load`:DeprecationWarning")
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"block{BLOCKS.index(block)}")
def test_the_page_runs(block, exports, tmp_path, monkeypatch):
    packages = re.findall(r"^(?:import|from) (\w+)", block, flags=re.MULTILINE)
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    name = next(file for file in FILES if file in block)
    options = dict(FILES[name])
    builder = BUILDERS.get(options["format"])
    if builder and importlib.util.find_spec(builder) is None:
        pytest.skip(f"{builder} is not installed")
    if name == "whole.onnx":
        options["nms"] = NMS
    report = exports(**options)
    for file in report.files:
        target = (tmp_path / name).with_suffix(file.suffix)
        (shutil.copytree if file.is_dir() else shutil.copyfile)(file, target)
    scene = render_scene(np.random.default_rng(5), (120, 160)).image
    cv2.imwrite(str(tmp_path / "street.jpg"), scene)
    monkeypatch.chdir(tmp_path)
    values: dict[str, object] = {}
    exec(compile(block, str(PAGE), "exec"), values)  # noqa: S102 - our own page
    assert values["boxes"].shape[-1] == 4
    assert len(values["scores"]) == len(values["boxes"])


def test_the_page_names_every_format():
    page = PAGE.read_text("utf-8")
    assert [name for name in TARGETS if f"| `{name}` |" not in page] == []
    assert len(BLOCKS) >= 7
