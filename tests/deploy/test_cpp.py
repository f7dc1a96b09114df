"""The C++ program finds what Python finds, and says what is wrong with everything else."""

import dataclasses
import json
import math
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from oculox.api import Detector
from oculox.config import load_config
from oculox.export.job import ExportOptions
from oculox.export.run import export_model
from oculox.models import build_model
from oculox.runtime.exported import InGraphNms
from oculox.weights import Weights, load_weights

SOURCE = Path(__file__).parents[2] / "deploy" / "cpp"
COMPILER = shutil.which("c++")
EXIF_ORIENTATION = 0x112
STAGES = {"decode", "preprocess", "network", "postprocess", "total"}


def has_header(name):
    done = subprocess.run(
        [COMPILER, "-fsyntax-only", "-x", "c++", "-"],
        input=f"#include <cstdio>\n#include <{name}>\n",
        text=True,
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """Runs the program: arguments -> finished process."""
    openvino_utils = pytest.importorskip("openvino.utils", reason="openvino is not installed")
    if COMPILER is None or shutil.which("cmake") is None:
        pytest.skip("needs cmake and a C++ compiler")
    for header, package in (("jpeglib.h", "libjpeg-dev"), ("png.h", "libpng-dev")):
        if not has_header(header):
            pytest.skip(f"needs {header} (Debian, Ubuntu: {package})")
    build = tmp_path_factory.mktemp("build")
    location = f"-DOpenVINO_DIR={openvino_utils.get_cmake_path()}"
    for command in (
        ["cmake", "-S", SOURCE, "-B", build, "-DOCULOX_WERROR=ON", location],
        ["cmake", "--build", build],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def run(*arguments):
        return subprocess.run(
            [build / "oculox_detect", *map(str, arguments), "--threads", "1"],
            capture_output=True,
            text=True,
            check=False,
        )

    return run


class Models:
    """Exports of a small network, made at their first use."""

    def __init__(self, folder, weights):
        self.folder = folder
        self.weights = weights

    def __call__(self, name, options, **preprocessing):
        suffix = ".xml" if options.format == "openvino" else ".onnx"
        path = self.folder / f"{name}{suffix}"
        if not path.exists():
            pytest.importorskip("onnxscript", reason="exporting needs onnxscript")
            changed = self.weights.input.model_copy(update=preprocessing)
            export_model(dataclasses.replace(self.weights, input=changed), options, path)
        return path


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Untrained, sees objects everywhere; one grey level more changes its scores by a percent."""
    names = ("ball", "car", "cup", "fish", "house", "leaf")
    config = load_config("yolox-nano", ["input.size=64"])
    torch.manual_seed(0)
    state = build_model(config.model, num_classes=len(names)).state_dict()
    for key, value in state.items():
        if key.endswith("bn.weight"):
            value *= 2  # fresh statistics damp every layer
        elif ".obj_preds." in key and key.endswith("weight"):
            value += 0.5 * torch.randn(value.shape)
    for level in range(3):
        state[f"head.obj_preds.{level}.bias"].fill_(1.0)
        state[f"head.cls_preds.{level}.bias"].copy_(torch.tensor([2.0, -9, -9, 1.9, -9, 1.0]))
    weights = Weights(
        model=config.model.model_copy(update={"num_classes": len(names)}),
        input=config.input,
        names=names,
        category_ids=(11, 12, 13, 24, 25, 26),
        state=state,
    )
    return Models(tmp_path_factory.mktemp("models"), weights)


@pytest.fixture(scope="session")
def small(models):
    """A network that sees objects everywhere, as an OpenVINO model."""
    return models("small", ExportOptions(format="openvino"))


@pytest.fixture(scope="session")
def odd_images(tmp_path_factory):
    """Every kind of JPEG and PNG, in all orientations, and sizes that resize differently."""
    folder = tmp_path_factory.mktemp("odd")
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8), (97, 61))
    colour = Image.fromarray(pixels)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        colour.save(folder / f"{orientation:012}.jpg", exif=exif)
    colour.save(folder / "turned.png", exif=exif)
    colour.save(folder / "progressive.jpeg", progressive=True)
    for mode in ("L", "CMYK"):
        colour.convert(mode).save(folder / f"größe-{mode}.JPG")
    for mode in ("L", "P", "RGBA", "LA", "1"):
        colour.convert(mode).save(folder / f"png-{mode}.png")
    cv2.imwrite(str(folder / "sixteen.png"), pixels.astype(np.uint16) * 257 + 99)
    for width, height in ((1, 1), (64, 64), (128, 128), (90, 128), (3, 500), (500, 3), (63, 1)):
        colour.resize((width, height)).save(folder / f"{width}x{height}.png")
    return folder


def image_id(path):
    return int(path.stem) if path.stem.isdecimal() else path.stem


def assert_as_python(rows, detector, folder, *, conf, nms):
    """The same boxes within half a pixel, scores within a thousandth; nothing else."""
    python = Detector(detector, conf=conf, iou=nms, device="cpu")
    ids = python.backend.spec.category_ids
    left = list(rows)
    images = sorted(folder.iterdir())
    for path in images:
        for expected in python(path).to_coco(image_id(path), ids):
            same = [
                row
                for row in left
                if row["image_id"] == expected["image_id"]
                and row["category_id"] == expected["category_id"]
                and abs(row["score"] - expected["score"]) <= 1e-3
                and np.abs(np.subtract(row["bbox"], expected["bbox"])).max() <= 0.5
            ]
            assert same, (path.name, expected)
            left.remove(same[0])
    assert not left


def found(output):
    return json.loads((output / "detections.json").read_text("utf-8"))


@pytest.mark.parametrize(
    "options",
    [
        ExportOptions(format="openvino"),
        ExportOptions(format="onnx", nms=InGraphNms(), preprocess=True),
    ],
    ids=["plain", "all inside"],
)
def test_finds_what_python_finds_in_photographs(program, shared, tmp_path, options):
    for module in ("onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason=f"needs {module} to export and compare")
    weights = load_weights(shared / "weights" / "yolox_nano.pth")
    model = tmp_path / ("nano.xml" if options.format == "openvino" else "nano.onnx")
    export_model(weights, options, model)
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted((shared / "coco_mini" / "val2017").iterdir())[:12]:
        shutil.copy(path, folder)
    done = program(model, folder, "--output", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    rows = found(tmp_path / "out")
    assert len(rows) > 30
    assert_as_python(rows, model, folder, conf=0.3, iou=0.45)


@pytest.mark.parametrize(
    ("name", "options", "preprocessing"),
    [
        ("small", {"format": "openvino"}, {}),
        ("centred", {"format": "openvino"}, {"placement": "center", "pad_value": 10}),
        ("rgb", {"format": "onnx", "nms": InGraphNms()}, {"color": "rgb"}),
        ("unit", {"format": "onnx", "batch": None}, {"pixel_max": 1}),
    ],
)
def test_reads_every_kind_of_image_and_model_as_python_does(
    program, models, odd_images, tmp_path, name, options, preprocessing
):
    if options["format"] == "onnx":
        pytest.importorskip("onnxruntime", reason="Python runs ONNX files with onnxruntime")
    model = models(name, ExportOptions(**options), **preprocessing)
    arguments = ("--conf", 0.5, "--nms=0.6", "--no-draw")
    done = program(model, odd_images, "--output", tmp_path / "out", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    rows = found(tmp_path / "out")
    assert len({row["image_id"] for row in rows}) > 15
    assert_as_python(rows, model, odd_images, conf=0.5, iou=0.6)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"detections.json", "timing.json"}


def test_draws_and_measures(program, small, tmp_path):
    image = tmp_path / "grey.png"
    cv2.imwrite(str(image), np.full((960, 1280, 3), 128, np.uint8))
    done = program(small, image, image, "--output", tmp_path / "out", "--repeat", 3)
    assert (done.returncode, done.stderr) == (0, "")
    rows = found(tmp_path / "out")
    assert done.stdout.startswith(f"1 images, {len(rows)} detections -> ")
    drawn = cv2.imread(str(tmp_path / "out" / "grey.jpg"))
    assert drawn.shape == (960, 1280, 3)
    for x, y, width, height in [row["bbox"] for row in rows]:
        edge = drawn[int(y + height / 2), math.ceil(x + width) - 2]
        assert np.abs(edge.astype(int) - 128).max() > 40, "no line at the right edge of a box"
    timing = json.loads((tmp_path / "out" / "timing.json").read_text())
    assert (timing["images"], timing["repeat"], timing["threads"]) == (1, 3, 1)
    assert set(timing["milliseconds"]) == STAGES
    for stage in timing["milliseconds"].values():
        assert 0 < stage["median"] <= stage["p95"]


def test_nothing_is_found_where_nothing_is_certain_enough(program, small, tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((24, 32, 3), 128, np.uint8))
    done = program(small, tmp_path / "grey.png", "--output", tmp_path / "out", "--conf", 1)
    assert (done.returncode, done.stderr) == (0, "")
    assert found(tmp_path / "out") == []
    assert (tmp_path / "out" / "grey.jpg").is_file()


def test_bad_images_are_skipped_and_named(program, small, odd_images, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    jpeg = (odd_images / "progressive.jpeg").read_bytes()
    png = (odd_images / "turned.png").read_bytes()
    damage = {
        "empty.jpg": (b"", "empty"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "head.jpg": (jpeg[:40], "cannot be decoded"),
        "half.png": (png[: len(png) // 2], "its end is missing"),
        "flipped.png": (png[:60] + bytes(40) + png[100:], "cannot be decoded"),
        "text.png": (b"hello", "not a JPEG or PNG"),
        "huge.png": (
            png[:16] + (60000).to_bytes(4, "big") * 2 + png[24:],
            "cannot be decoded|too large",
        ),
    }
    for name, (data, _) in damage.items():
        (folder / name).write_bytes(data)
    shutil.copy(odd_images / "64x64.png", folder / "good.png")
    done = program(small, folder, "--output", tmp_path / "out")
    assert done.returncode == 1
    *skipped, last = done.stderr.splitlines()
    assert last == "error: 7 of 8 images were skipped"
    for line, (name, (_, reason)) in zip(skipped, sorted(damage.items()), strict=True):
        assert line.startswith(f"skipped: {folder / name}: ")
        assert any(part in line for part in reason.split("|"))
    assert {row["image_id"] for row in found(tmp_path / "out")} == {"good"}


def test_all_images_bad(program, small, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    done = program(small, tmp_path / "bad.png", "--output", tmp_path / "out")
    assert done.returncode == 1
    assert found(tmp_path / "out") == []
    assert json.loads((tmp_path / "out" / "timing.json").read_text())["milliseconds"] == {}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("", 2, "expected a model"),
        ("{model} {image}", 2, "--output"),
        ("{model} {image} --output", 2, "--output needs a value"),
        ("{model} {image} --output {new} --confidence 1", 2, "unknown option --confidence"),
        ("{model} {image} --output {new} --conf 1.5", 2, "--conf must be between 0 and 1"),
        ("{model} {image} --output {new} --nms much", 2, "--nms takes a number, got 'much'"),
        ("{model} {image} --output {new} --repeat 0", 2, "--repeat must be a whole number"),
        ("{model} {image} --output {new} --device tpu", 2, "'tpu': OpenVINO sees CPU"),
        ("{model} {image} --output {full}", 2, "not empty"),
        ("{model} {image} --output {image}", 2, "must be a folder"),
        ("{model} {jpeg} --output {full} --overwrite", 2, "would replace a source"),
        ("{model} {full}/text.txt --output {new}", 2, "expected a .jpg or .png"),
        ("{model} {image} {jpeg} --output {new}", 2, "same image id, 7;"),
        ("{full}/text.txt {image} --output {new}", 2, "expected an .xml or .onnx model"),
        ("{full}/none.xml {image} --output {new}", 1, "none.xml: no such file"),
        ("{full}/alone.xml {image} --output {new}", 1, "alone.bin: no such file"),
        ("{full}/text.onnx {image} --output {new}", 1, "damaged or no model"),
        ("{foreign} {image} --output {new}", 1, "holds no metadata of Oculox"),
        ("{pair} {image} --output {new}", 1, "export it with --batch 1"),
        ("{model} {full}/none.jpg --output {new}", 1, "none.jpg: no such file or folder"),
        ("{model} {empty} --output {new}", 1, "no .jpg or .png images"),
        ("{model} {image} --output {image}/below", 1, "cannot make the folder"),
    ],
)
def test_wrong_usage_ends_in_one_line(program, models, small, tmp_path, arguments, code, message):
    onnx = pytest.importorskip("onnx", reason="a foreign model is made with onnx")
    full, empty = tmp_path / "full", tmp_path / "empty"
    full.mkdir()
    empty.mkdir()
    pixels = np.zeros((8, 8, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "7.png"), pixels)
    cv2.imwrite(str(full / "0007.jpg"), pixels)
    for name in ("text.txt", "text.onnx", "alone.xml"):
        (full / name).write_text("hello")
    pair = models("pair", ExportOptions(format="onnx", batch=2))
    foreign = onnx.load(pair)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    places = {
        "model": small,
        "pair": pair,
        "foreign": tmp_path / "foreign.onnx",
        "image": tmp_path / "7.png",
        "jpeg": full / "0007.jpg",
        "full": full,
        "empty": empty,
        "new": tmp_path / "new",
    }
    done = program(*(word.format(**places) for word in arguments.split()))
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    # OpenVINO's own remarks about a file that is no ONNX come first.
    assert done.stderr.count("\n") == 1 or "text.onnx" in arguments
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert message in done.stderr
    assert not (tmp_path / "new").exists()


def test_help(program):
    done = program("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: oculox_detect MODEL")
