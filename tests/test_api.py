"""What programs use: `Detector`, `train`, `list_models`."""

import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

import oculox
from oculox import Config, Detections, Detector, load_config, train
from oculox.errors import CheckpointError, DataError, UsageError
from oculox.runtime.torch_backend import TorchBackend
from oculox.weights import load_weights


@pytest.fixture(scope="module")
def detector(eager_pt):
    return Detector(eager_pt, device="cpu")


@pytest.fixture(scope="module")
def paths(tiny_data):
    return sorted((tiny_data / "val2017").iterdir())


def same(first, second):
    # The untrained network amplifies what convolutions of another order of summing leave.
    assert len(first) == len(second)
    np.testing.assert_allclose(first.xyxy, second.xyxy, atol=0.05)
    np.testing.assert_allclose(first.scores, second.scores, atol=1e-3)
    assert first.class_ids.tolist() == second.class_ids.tolist()


def test_the_public_names_are_there():
    assert all(hasattr(oculox, name) for name in oculox.__all__)
    assert set(dir(oculox)) == set(oculox.__all__)
    assert callable(oculox.export)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = oculox.nothing


def test_a_image_in_every_form(detector, paths):
    image = cv2.imread(str(paths[0]))
    expected = detector(paths[0])
    assert isinstance(expected, Detections)
    assert len(expected) > 0
    same(detector(str(paths[0])), expected)
    same(detector(image), expected)
    same(detector(image, color="bgr"), expected)
    same(detector(np.ascontiguousarray(image[..., ::-1]), color="rgb"), expected)
    same(detector(np.dstack((image, image[..., 0]))), expected)


def test_colours_matter(detector, paths):
    image = cv2.imread(str(paths[0]))
    found, swapped = detector(image), detector(image, color="rgb")
    assert len(found) != len(swapped) or not np.allclose(found.scores, swapped.scores, atol=0.01)


def test_pillow(detector, paths):
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pixels = cv2.cvtColor(cv2.imread(str(paths[0])), cv2.COLOR_BGR2RGB)
    image = pillow.fromarray(pixels)
    expected = detector(paths[0])
    same(detector(image), expected)
    # A Pillow image knows its colours: the option is about arrays.
    same(detector(image, color="rgb"), expected)
    same(detector([image, paths[0], pixels[..., ::-1]])[0], expected)
    same(detector(image.convert("RGBA")), expected)


def test_lists(detector, paths):
    assert detector([]) == []
    mixed = detector([paths[0], cv2.imread(str(paths[1])), str(paths[2])])
    for one, path in zip(mixed, paths[:3], strict=True):
        same(one, detector(path))
    assert len(detector([paths[0]])) == 1
    large = np.zeros((200, 300, 3), np.uint8)
    assert [len(d) >= 0 for d in detector([paths[0], large])] == [True, True]


def test_arguments_are_left_alone(detector, paths):
    image = cv2.imread(str(paths[0]))
    before = image.copy()
    detector(image)
    detector(image, color="rgb")
    assert np.array_equal(image, before)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ("absent.jpg", DataError, "no such image"),
        (None, UsageError, "got NoneType"),
        (3, UsageError, "got int"),
        (np.zeros((4, 4, 3)), UsageError, "uint8"),
        (np.zeros((1, 4, 4, 3), np.uint8), UsageError, "pass a list for several"),
        (np.zeros((0, 4, 3), np.uint8), UsageError, "empty"),
        (np.zeros((4, 4, 2), np.uint8), UsageError, "shape"),
    ],
)
def test_what_is_no_image(detector, image, error, message):
    for given in (image, [image]):
        with pytest.raises(error, match=message):
            detector(given)


def test_an_unknown_colour_order(detector, paths):
    with pytest.raises(UsageError, match="'bgr' or 'rgb'"):
        detector(cv2.imread(str(paths[0])), color="gbr")


def test_options(eager_pt, paths):
    everything = Detector(eager_pt, device="cpu", conf=0.01)(paths[0])
    assert len(everything) > len(Detector(eager_pt, device="cpu", conf=0.9)(paths[0]))
    by_name = Detector(eager_pt, device="cpu", classes=["fish"])(paths[0])
    same(by_name, Detector(eager_pt, device="cpu", classes=[3])(paths[0]))
    assert set(by_name.class_ids.tolist()) == {3}
    assert Detector(eager_pt, device="cpu", imgsz=(96, 128)).size_hw == (96, 128)
    assert len(Detector(eager_pt, device="cpu", iou=0.05)(paths[0])) < len(everything)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imgsz": 100}, "multiples of 32"),
        ({"imgsz": (64, 65)}, "multiples of 32"),
        ({"classes": ["fisch"]}, "did you mean 'fish'"),
        ({"classes": []}, "class filter is empty"),
        ({"classes": [6]}, "the model has 0-5"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"conf": 1.5}, "conf"),
        ({"iou": -0.1}, "iou"),
        ({"device": "toaster"}, "toaster"),
        ({"precision": "int8"}, "precision must be one of"),
        ({"precision": "fp16"}, "fp16 needs an accelerator"),
        ({"backend": "caffe"}, "'caffe'"),
    ],
)
def test_options_that_do_not_fit(eager_pt, options, message):
    with pytest.raises(UsageError, match=message):
        Detector(eager_pt, **{"device": "cpu", **options})


def test_files_that_are_no_models(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        Detector(tmp_path / "absent.pt")
    (tmp_path / "model.tar").write_text("?")
    with pytest.raises(UsageError, match="cannot tell the model's format"):
        Detector(tmp_path / "model.tar")


def test_a_backend_of_ones_own(eager_weights, detector, paths):
    own = Detector(TorchBackend.from_weights(eager_weights))
    assert own.path is None
    assert own.names == detector.names == eager_weights.spec.names
    same(own(paths[0]), detector(paths[0]))
    with pytest.raises(UsageError, match="name the data"):
        own.evaluate()
    with pytest.raises(UsageError, match="starts from a weights file"):
        own.train("yolox-nano")


def test_evaluation(detector, tiny_data, three_classes_pt):
    calls = []
    result = detector.evaluate(tiny_data, workers=0, progress=lambda *done: calls.append(done))
    assert result.images == 4
    assert calls == [(1, 1)]
    annotations = tiny_data / "annotations/instances_val2017.json"
    again = detector.evaluate(annotations, images=tiny_data / "val2017", workers=0)
    assert again.metrics.as_dict() == result.metrics.as_dict()
    with pytest.raises(UsageError, match="split must be train, val, test"):
        detector.evaluate(tiny_data, split="tset")
    with pytest.raises(UsageError, match="name the data"):
        detector.evaluate()
    with pytest.raises(UsageError, match="batch must be at least 1"):
        detector.evaluate(tiny_data, batch=0)
    with pytest.raises(DataError, match="wrong class count"):
        Detector(three_classes_pt, device="cpu").evaluate(tiny_data, workers=0)


SCRIPT = r"""
import os
import sys
from oculox import Detector, evaluate

model, data = sys.argv[1:]
for result in (Detector(model).evaluate(data, workers=0), evaluate(model, data, workers=0)):
    assert result.images == 4, result.images
    os.write(1, f"AP {result.metrics.ap};\n".encode())  # whole lines, whoever else writes
"""


def test_evaluation_shares_the_images_of_a_launch(detector, eager_pt, tiny_data, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    words = ("-m", "torch.distributed.run", "--nproc-per-node", 2, tmp_path / "script.py")
    done = subprocess.run(
        [sys.executable, *map(str, (*words, eager_pt, tiny_data))],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = [float(ap) for ap in re.findall(r"AP (\S+);", done.stdout)]
    alone = detector.evaluate(tiny_data, workers=0).metrics.ap
    assert found == pytest.approx([alone] * 4, abs=1e-6)


def test_functions_beside_the_detector(eager_pt, tiny_data, tmp_path):
    calls = []
    report = oculox.check_data(tiny_data, progress=lambda *done: calls.append(done))
    assert report.ok
    assert calls[-1] == (16, None)
    summary = oculox.convert(
        str(tiny_data), tmp_path / "yolo", source_format="coco", target_format="yolo"
    )
    assert summary.images == {"train": 12, "val": 4}
    result = oculox.benchmark(eager_pt, ["torch"], samples=1)
    assert [row.format for row in result.measurements] == ["torch"]
    result = oculox.evaluate(eager_pt, tiny_data, workers=0, max_det=1)
    assert len(result.results) == 4


def test_training_in_its_three_forms(quick, tiny_data, three_classes_pt, tmp_path):
    words = (*quick, "train.max_steps=1")
    config = load_config("yolox-nano", words)
    (tmp_path / "mine.yaml").write_text(f"extends: yolox-nano\ndata: {{root: '{tiny_data}'}}\n")
    ways = {
        "name": ("yolox-nano", *words),
        "file": (tmp_path / "mine.yaml", *words[1:]),
        "config": (config,),
    }
    for name, arguments in ways.items():
        summary = train(*arguments, output=tmp_path / name)
        assert summary.steps == 1
        assert summary.best == tmp_path / name / "best.pt"
        assert load_config(summary.output / "config.yaml") == config
    # The checkpoint knows the data of its run.
    found = Detector(summary.best, device="cpu").evaluate(workers=0)
    assert found.metrics.as_dict() == pytest.approx(summary.metrics)
    tuned = Detector(three_classes_pt, device="cpu").train(*ways["name"], output=tmp_path / "tuned")
    assert len(load_weights(tuned.best).spec.names) == 6


def test_training_calls_that_make_no_sense(quick, tmp_path):
    with pytest.raises(UsageError, match="accumulate=2 does not divide batch=3"):
        train(Config(), "train.batch=3", "train.accumulate=2", output=tmp_path)
    with pytest.raises(UsageError, match="name a recipe"):
        train()
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(UsageError, match="holds another run"):
        train("yolox-nano", *quick, output=tmp_path, devices=2)
