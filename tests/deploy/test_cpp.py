"""The C++ program finds what Python finds, and says what is wrong with everything else."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from oculox.cli.main import main
from oculox.config import load_config
from oculox.data.image import read_image
from oculox.exporting.job import ExportOptions
from oculox.exporting.run import export_model
from oculox.models import build_model
from oculox.postprocess import DetectSettings
from oculox.predict.pipeline import Pipeline
from oculox.runtime.exported import InGraphNms
from oculox.runtime.open_model import open_model
from oculox.weights import load_weights
from specs import make_weights, with_spec

SOURCE = Path(__file__).parents[2] / "deploy" / "cpp"
PACKAGES = {
    "OpenCV": "libopencv-dev",
    "nlohmann_json": "nlohmann-json3-dev",
    "CLI11": "libcli11-dev",
}
EXIF_ORIENTATION = 0x112
STAGES = {"decode", "preprocess", "network", "postprocess", "total"}

# Pixels agree exactly, also between OpenCV 4.6 and 5. Python runs `.xml` files with the same
# OpenVINO, and `.onnx` files with ONNX Runtime, whose sums round differently: 0.001 pixels and
# 3e-6 were measured on photographs. predictions.json has 3 and 6 digits.
BOX_TOLERANCE = 0.01
SCORE_TOLERANCE = 1e-4


def configure(build, openvino):
    """Run CMake; skip where a library is not installed."""
    words = ["cmake", "-S", SOURCE, "-B", build, f"-DOpenVINO_DIR={openvino}"]
    # Without optimising, which takes longer than all that the tests run.
    words += ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0", "-DOCULOX_WERROR=ON"]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
    )
    for library, package in PACKAGES.items():
        if f'configuration file provided by "{library}"' in done.stderr:
            pytest.skip(f"needs {library} (Debian, Ubuntu: {package})")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def program(make_once):
    """Runs the program: arguments -> finished process."""
    openvino_utils = pytest.importorskip("openvino.utils", reason="openvino is not installed")
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("needs cmake and a C++ compiler (Debian, Ubuntu: cmake g++)")

    def compile_in(folder):
        configure(folder, openvino_utils.get_cmake_path())
        words = ["cmake", "--build", folder, "--parallel", "2"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    build = make_once("oculox_detect", compile_in)

    def run(*arguments, cwd=None):
        return subprocess.run(
            [build / "oculox_detect", "--threads", "1", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
        )

    return run


@pytest.fixture(scope="session")
def weights():
    """Untrained, sees objects everywhere; one grey level more changes its scores by a percent."""
    names = ("ball", "car", "cup", "fish", "house", "red leaf")
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
    return make_weights(config, state, names=names)


@pytest.fixture(scope="session")
def plain(weights, make_once):
    """An OpenVINO model that takes images as the official weights do."""

    def export(folder):
        export_model(weights, ExportOptions(format="openvino"), folder / "plain.xml")

    return make_once("cpp-plain", export) / "plain.xml"


@pytest.fixture(scope="session")
def other(weights, make_once):
    """An ONNX model that takes images otherwise, with NMS inside and any batch size."""
    pytest.importorskip("onnxruntime", reason="Python runs ONNX files with onnxruntime")
    changes = {"placement": "center", "pad_value": 10, "color": "rgb", "pixel_max": 1}
    changed = with_spec(weights, input=weights.spec.input.model_copy(update=changes))

    def export(folder):
        options = ExportOptions(format="onnx", nms=InGraphNms(), batch=None)
        export_model(changed, options, folder / "other.onnx")

    return make_once("cpp-other", export) / "other.onnx"


@pytest.fixture(scope="session")
def odd_images(tmp_path_factory):
    """Many kinds of files, all orientations, and sizes that resize differently."""
    folder = tmp_path_factory.mktemp("odd")
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8), (97, 61))
    color = Image.fromarray(pixels)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        color.save(folder / f"turned{orientation}.jpg", exif=exif)
    color.save(folder / "turned.png", exif=exif)
    color.save(folder / "progressive.jpeg", progressive=True)
    for suffix in ("bmp", "webp", "tif", "ppm", "jp2"):
        color.save(folder / f"plain.{suffix}")
    for mode in ("L", "CMYK"):
        color.convert(mode).save(folder / f"größe-{mode}.JPG")
    for mode in ("L", "P", "RGBA", "LA", "1"):
        color.convert(mode).save(folder / f"png-{mode}.png")
    cv2.imwrite(str(folder / "sixteen.png"), pixels.astype(np.uint16) * 257 + 99)
    for width, height in ((1, 1), (64, 64), (128, 128), (90, 128), (3, 500), (500, 3), (63, 1)):
        color.resize((width, height)).save(folder / f"{width}x{height}.png")
    return folder


def predictions(output):
    return json.loads((output / "predictions.json").read_text("utf-8"))


def assert_as_python(entries, model, folder, **settings):
    """The same images and detections, and nothing else; returns how many there were."""
    pipeline = Pipeline(open_model(model, device="cpu"), DetectSettings(**settings))
    paths = sorted(folder.iterdir())
    assert [entry["source"] for entry in entries] == [str(path) for path in paths]
    count = 0
    for path, entry in zip(paths, entries, strict=True):
        image = read_image(path)
        assert (entry["height"], entry["width"]) == image.shape[:2]
        left = list(entry["detections"])
        for expected in pipeline([image])[0].to_dicts():
            same = [
                found
                for found in left
                if (found["class_id"], found["name"]) == (expected["class_id"], expected["name"])
                and abs(found["score"] - expected["score"]) <= SCORE_TOLERANCE
                and np.abs(np.subtract(found["box"], expected["box"])).max() <= BOX_TOLERANCE
            ]
            assert same, (path.name, expected, left)
            left.remove(same[0])
            count += 1
        assert not left, path.name
    return count


@pytest.mark.parametrize(
    "options",
    [
        ExportOptions(format="openvino"),
        ExportOptions(format="onnx", nms=InGraphNms(), preprocess=True),
    ],
    ids=["plain", "all inside"],
)
def test_finds_what_python_finds_in_photographs(program, shared, tmp_path, options):
    pytest.importorskip("onnxruntime", reason="exporting and comparing needs onnxruntime")
    model = tmp_path / ("nano.xml" if options.format == "openvino" else "nano.onnx")
    export_model(load_weights(shared / "weights" / "yolox_nano.pth"), options, model)
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted((shared / "coco_mini" / "val2017").iterdir())[:8]:
        shutil.copy(path, folder)
    done = program(model, folder, "--output", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert assert_as_python(predictions(tmp_path / "out"), model, folder) > 20


@pytest.mark.parametrize("model", ["plain", pytest.param("other", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("arguments", "settings", "least"),
    [
        ("--conf 0.5 --iou=0.6", {"conf": 0.5, "iou": 0.6}, 50),
        ("--max-det 2 --agnostic-nms", {"max_det": 2, "agnostic_nms": True}, 20),
        ("--classes 'ball , 5 ' --conf 0.1", {"class_ids": (0, 5), "conf": 0.1}, 50),
        ("--conf 1", {"conf": 1.0}, 0),
    ],
)
def test_reads_every_kind_of_image_and_option_as_python_does(
    program, odd_images, tmp_path, request, model, arguments, settings, least
):
    model = request.getfixturevalue(model)
    output = tmp_path / "out"
    done = program(model, odd_images, "--output", output, "--no-draw", *shlex.split(arguments))
    assert (done.returncode, done.stderr) == (0, "")
    assert assert_as_python(predictions(output), model, odd_images, **settings) >= least
    assert [path.name for path in output.iterdir()] == ["predictions.json"]


def test_draws_and_measures(program, plain, tmp_path):
    sources = [tmp_path / name for name in ("a/grey.png", "b/grey.PNG", "b/grey.ppm", "c/grey.jpg")]
    for source in sources:
        source.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(source), np.full((960, 1280, 3), 128, np.uint8))
    original = sources[0].read_bytes()
    arguments = ("--output", tmp_path / "a", "--overwrite", "--repeat", 3, "--json")
    done = program(plain, *sources, sources[0], *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    entries = predictions(tmp_path / "a")
    assert [e["annotated"] for e in entries] == [
        "grey-2.png",
        "grey-3.png",
        "grey-4.png",
        "grey.jpg",
    ]
    assert sources[0].read_bytes() == original, "a source was overwritten"
    drawn = cv2.imread(str(tmp_path / "a" / entries[0]["annotated"]))
    assert drawn.shape == (960, 1280, 3)
    assert len(entries[0]["detections"]) > 3
    for _, y1, x2, y2 in [d["box"] for d in entries[0]["detections"]]:
        edge = drawn[int(y1 + y2) // 2, int(x2) - 1]
        assert np.abs(edge.astype(int) - 128).max() > 40, "no line at the right edge of a box"
    summary = json.loads(done.stdout)
    assert (summary["images"], summary["unreadable"]) == (4, [])
    assert summary["detections"] == sum(len(e["detections"]) for e in entries)
    assert Path(summary["predictions"]) == tmp_path / "a" / "predictions.json"
    assert set(summary["milliseconds"]) == STAGES
    assert all(
        0 < ms["min"] <= ms["median"] <= ms["max"] for ms in summary["milliseconds"].values()
    )
    assert not list((tmp_path / "a").glob(".*"))


def fields(value):
    """A value with its numbers and texts replaced by their types."""
    if isinstance(value, dict):
        return {key: fields(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [fields(inner) for inner in value]
    return type(value)


@pytest.mark.parametrize("count", [1, 2])
def test_both_programs_print_and_write_the_same_fields(
    program, plain, odd_images, tmp_path, capfd, count
):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    sources = [*sorted(odd_images.glob("128x*.png")), odd_images / "90x128.png"][:count]
    words = [plain, *sources, bad, "--json", "--device", "cpu", "--output"]
    done = program(*words, tmp_path / "cpp")
    assert done.returncode == 1
    assert main(["predict", *map(str, words), str(tmp_path / "python")]) == 1
    printed = json.loads(done.stdout), json.loads(capfd.readouterr().out)
    written = predictions(tmp_path / "cpp"), predictions(tmp_path / "python")
    for ours, theirs in (printed, written):
        assert fields(ours) == fields(theirs)
    assert [list(value) for value in printed] == [list(printed[0])] * 2, "another order"
    assert written[0][0]["detections"], "nothing was found, so nothing was compared"
    assert set(printed[0]["milliseconds"]) == (STAGES if count > 1 else set())


def test_output_folders_number_themselves(program, plain, odd_images, tmp_path):
    image = odd_images / "64x64.png"
    for name in ("predict", "predict-2"):
        done = program(plain, image, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith(f"images and predictions.json in runs/{name}\n")
        assert done.stdout.startswith("1 image, ")
        assert (tmp_path / "runs" / name / "64x64.png").is_file()


def promising_too_much(folder):
    """Headers of all other formats with sides of 20,000 pixels, which OpenCV would decode."""
    bmp, webp, jp2 = ((folder / f"plain.{kind}").read_bytes() for kind in ("bmp", "webp", "jp2"))
    side, box = (20_000).to_bytes(4, "little"), jp2.index(b"ihdr")
    short = b"\x04\0\x01\0\0\0" + side
    return {
        "core.bmp": bmp[:14] + b"\x0c\0\0\0" + side[:2] * 2 + b"\x01\0\x18\0" + bytes(900),
        "from-top.bmp": bmp[:18] + side + (-20_000).to_bytes(4, "little", signed=True) + bmp[26:],
        "huge.bmp": bmp[:18] + side * 2 + bmp[26:],
        "huge.jp2": jp2[: box + 4] + side[::-1] * 2 + jp2[box + 12 :],
        "huge.ppm": b"P6 #1\r20000\n#\n20000\n255\n" + bytes(900),
        "huge.tif": b"II*\0\x08\0\0\0\x02\0" + b"\0\x01" + short + b"\x01\x01" + short,
        "huge.webp": webp[:26] + b"\xff\x3f" * 2 + webp[30:],
        "lossless.webp": webp[:12] + b"VP8L" + webp[16:21] + b"\xff\xff\xff\x0f" + webp[25:],
        "wide.webp": webp[:12] + b"VP8X" + webp[16:24] + b"\x1f\x4e\0" * 2 + webp[30:],
    }


def test_bad_images_are_skipped_and_named(program, plain, odd_images, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    jpeg = (odd_images / "progressive.jpeg").read_bytes()
    png = (odd_images / "turned.png").read_bytes()
    # A thumbnail in front of the pixels, with an end of its own.
    thumbnail = (
        jpeg[:2] + b"\xff\xe1\x00\x10Exif\xff\xd8\xff\xd9\x00\x00\x00\x00\x00\x00" + jpeg[2:]
    )
    damage = {
        "cut.jpg": (thumbnail[: len(thumbnail) // 2], "truncated"),
        "empty.jpg": (b"", "empty"),
        "flipped.png": (png[:60] + bytes(40) + png[100:], "not an image that can be decoded"),
        "half.png": (png[: len(png) // 2], "truncated"),
        "head.jpg": (jpeg[:40], "truncated"),
        "huge.jpg": (jpeg.replace(b"\x00\x3d\x00\x61", b"\xff\x00\xff\x00", 1), "too large"),
        "huge.png": (png[:16] + (60000).to_bytes(4, "big") * 2 + png[24:], "too large"),
        "other.bmp": (b"#?RADIANCE\n\n-Y 8 +X 8\n" + bytes(256), "not an image"),
        "text.png": (b"hello", "not an image that can be decoded"),
        **{name: (data, "too large") for name, data in promising_too_much(odd_images).items()},
    }
    damage = dict(sorted(damage.items()))
    for name, (data, _) in damage.items():
        (folder / name).write_bytes(data)
    (folder / "good.jpg").write_bytes(thumbnail)
    done = program(plain, folder, "--output", tmp_path / "out", "--json")
    assert done.returncode == 1
    # OpenCV's libraries may add remarks of their own.
    skipped = [line for line in done.stderr.splitlines() if line.startswith("skipped: ")]
    assert done.stderr.splitlines()[-1] == "error: 18 of 19 images were skipped"
    unreadable = json.loads(done.stdout)["unreadable"]
    for line, entry, (name, (_, reason)) in zip(skipped, unreadable, damage.items(), strict=True):
        assert line == f"skipped: {entry['error']}"
        assert entry["error"].startswith(f"{folder / name}: ")
        assert entry["source"] == str(folder / name)
        assert reason in line
    assert [Path(e["source"]).name for e in predictions(tmp_path / "out")] == ["good.jpg"]


def test_all_images_bad(program, plain, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    done = program(plain, tmp_path / "bad.png", "--output", tmp_path / "out")
    assert done.returncode == 1
    assert done.stdout.startswith("0 images, 0 detections")
    assert predictions(tmp_path / "out") == []


def test_thresholds_that_nms_inside_cannot_serve_are_named(program, other, odd_images, tmp_path):
    arguments = ("--output", tmp_path / "out", "--conf", 0.001, "--no-draw")
    done = program(other, odd_images / "64x64.png", *arguments)
    assert done.returncode == 0
    assert done.stderr.startswith("warning: the model suppresses at conf 0.01, IoU 0.65 by itself")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("", 2, "MODEL is required"),
        ("{model}", 2, "SOURCE is required"),
        ("{model} {image} --output", 2, "--output"),
        ("{model} {image} --output {new} --confidence 1", 2, "--confidence"),
        ("{model} {image} --output {new} --conf 1.5", 2, "--conf must be between 0 and 1"),
        ("{model} {image} --output {new} --conf nan", 2, "--conf must be between 0 and 1"),
        ("{model} {image} --output {new} --iou much", 2, "--iou = much"),
        ("{model} {image} --output {new} --max-det 0", 2, "--max-det"),
        ("{model} {image} --output {new} --repeat 1.5", 2, "--repeat"),
        ("{model} {image} --output {new} --classes ball,tree", 2, "no class 'tree'"),
        ("{model} {image} --output {new} --device tpu", 2, "'tpu': OpenVINO sees CPU"),
        ("{model} {image} --output {full}", 2, "already holds files"),
        ("{model} {image} --output {image}", 2, "must be a folder"),
        ("{model} {full}/text.txt --output {new}", 2, "not an image by its name"),
        ("{full}/text.txt {image} --output {new}", 2, "expected an .xml or .onnx model"),
        ("{full}/none.xml {image} --output {new}", 1, "none.xml: no such file"),
        ("{full}/alone.xml {image} --output {new}", 1, "alone.bin: no such file"),
        ("{full}/text.onnx {image} --output {new}", 1, "damaged, not a model"),
        ("{foreign} {image} --output {new}", 1, "holds no metadata of Oculox"),
        ("{pair} {image} --output {new}", 1, "export it with --batch 1"),
        ("{old} {image} --output {new}", 1, "metadata version 1, this program reads 2"),
        ("{torn} {image} --output {new}", 1, "its metadata is damaged"),
        ("{narrow} {image} --output {new}", 1, "narrow.onnx: "),
        ("{model} {full}/none.jpg --output {new}", 1, "none.jpg: no such file or folder"),
        ("{model} {empty} --output {new}", 1, "no images in this folder"),
        ("{model} {image} --output {image}/below", 1, "below"),
    ],
)
def test_wrong_usage_ends_in_one_line(program, plain, places, arguments, code, message):
    done = program(*(word.format(model=plain, **places) for word in arguments.split()))
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    # OpenVINO's own remarks about a file that is not ONNX come first.
    assert done.stderr.count("\n") == 1 or "text.onnx" in arguments
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert message in done.stderr
    assert not places["new"].exists()


@pytest.fixture(scope="module")
def places(other, tmp_path_factory):
    """Things that a command line may name wrongly."""
    onnx = pytest.importorskip("onnx", reason="foreign models are made with onnx")
    root = tmp_path_factory.mktemp("places")
    full, empty = root / "full", root / "empty"
    full.mkdir()
    empty.mkdir()
    cv2.imwrite(str(root / "7.png"), np.zeros((8, 8, 3), np.uint8))
    for name in ("text.txt", "text.onnx", "alone.xml"):
        (full / name).write_text("hello")
    model = onnx.load(other)
    [metadata] = [p for p in model.metadata_props if p.key == "oculox"]
    good = json.loads(metadata.value)
    spec = good["spec"]
    models = {
        "pair": {**good, "spec": {**spec, "batch": 2}},
        "old": {**good, "metadata_version": 1},
        "torn": {**good, "spec": {**spec, "names": None}},
        "narrow": {**good, "preprocess": True},
    }
    made = {}
    for name, content in models.items():
        metadata.value = json.dumps(content)
        made[name] = root / f"{name}.onnx"
        onnx.save(model, made[name])
    del model.metadata_props[:]
    made["foreign"] = root / "foreign.onnx"
    onnx.save(model, made["foreign"])
    return {"image": root / "7.png", "full": full, "empty": empty, "new": root / "new", **made}


def test_help(program):
    done = program("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "oculox_detect [OPTIONS] MODEL SOURCE..." in done.stdout
