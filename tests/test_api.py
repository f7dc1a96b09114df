"""What programs use: `Detector`, `train`, `list_models`."""

import functools
import http.server
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch

import oculox
from oculox import Config, Detections, Detector, TrainCallback, load_config, train
from oculox.errors import CheckpointError, DataError, OculoxWarning, UsageError
from oculox.models import build_model
from oculox.runtime.torch_backend import TorchBackend
from oculox.weights import load_weights
from oculox.weights.checkpoint import save_checkpoint
from specs import make_weights


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
        (np.zeros((1, 2, 4, 4, 3), np.uint8), UsageError, r"got \(1, 2, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), UsageError, "empty"),
        (np.zeros((4, 4, 2), np.uint8), UsageError, "shape"),
    ],
)
def test_what_is_no_image(detector, image, error, message):
    for given in (image, [image]):
        with pytest.raises(error, match=message):
            detector(given)


def test_an_unknown_colour_order(detector, paths):
    for image in (cv2.imread(str(paths[0])), paths[0]):
        with pytest.raises(UsageError, match="'bgr' or 'rgb'"):
            detector(image, color="gbr")


def test_options(eager_pt, paths):
    everything = Detector(eager_pt, device="cpu", conf=0.01)(paths[0])
    assert len(everything) > len(Detector(eager_pt, device="cpu", conf=0.9)(paths[0]))
    by_name = Detector(eager_pt, device="cpu", classes=["fish"])(paths[0])
    for classes in ([3], 3, "fish"):
        same(by_name, Detector(eager_pt, device="cpu", classes=classes)(paths[0]))
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
        ({"classes": "ball, fish"}, r"several classes are a list: \['ball', 'fish'\]"),
        ({"conf": 1.5}, "conf"),
        ({"conf": "x"}, "conf must be between 0 and 1, got 'x'"),
        ({"max_det": 1.5}, "max_det must be a whole number from 1 on, got 1.5"),
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
    with pytest.raises(UsageError, match=r"expected a path, .* got NoneType"):
        Detector(None)


def test_what_a_detector_says_of_itself(eager_pt):
    made = Detector(eager_pt, device="cpu", imgsz=(96, 128))
    assert repr(made) == f"Detector({made.backend.spec.model.name}, 96x128, 6 classes, torch)"


def test_a_backend_of_ones_own(eager_weights, detector, paths):
    own = Detector(TorchBackend.from_weights(eager_weights))
    assert own.path is None
    assert own.names == detector.names == eager_weights.spec.names
    same(own(paths[0]), detector(paths[0]))
    with pytest.raises(UsageError, match=r"name the data .* the weights do not say"):
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


@pytest.fixture(scope="module")
def image(paths):
    return cv2.imread(str(paths[0]))


@pytest.fixture
def web(tmp_path, monkeypatch):
    """The address of a server of the files in `tmp_path`."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_bytes_files_and_tensors(detector, paths, image):
    expected = detector(paths[0])
    for data in (paths[0].read_bytes(), bytearray(paths[0].read_bytes())):
        same(detector(data), expected)
    with paths[0].open("rb") as file:
        same(detector(file), expected)
    rgb = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)
    same(detector(rgb), expected)
    same(detector(rgb.flip(0), color="bgr"), expected)
    for dtype in (torch.float32, torch.float16, torch.float64):
        same(detector(rgb.to(dtype) / 255), expected)
    same(detector((rgb.float() / 255).requires_grad_()), expected)


def test_batches_and_anything_to_iterate_over(detector, paths, image):
    expected = detector(paths[0])
    rgb = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)
    two = np.stack([image, image])
    for several in (two, torch.stack([rgb, rgb]), (image, image), (p for p in (paths[0],) * 2)):
        found = detector(several)
        assert len(found) == 2
        for one in found:
            same(one, expected)
    assert detector(two[:0]) == detector(torch.stack([rgb])[:0]) == detector(iter(())) == []


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (torch.zeros(8, 6, 3), UsageError, r"shape \(3, height, width\), got \(8, 6, 3\)"),
        (torch.zeros(4, 6), UsageError, r"got \(4, 6\)"),
        (torch.full((3, 4, 6), 200.0), UsageError, "from 0 to 1, .* got floats from 200 to 200"),
        (torch.full((3, 4, 6), float("nan")), UsageError, "from 0 to 1"),
        (torch.zeros(3, 4, 6, dtype=torch.int64), UsageError, "expected uint8 pixels"),
        (torch.zeros(3, 0, 6), UsageError, "empty"),
        (b"", DataError, "image 0: the image is empty"),
        (b"no image", DataError, "image 0: not an image"),
        ("film.mp4", UsageError, "go to Detector.stream"),
        (".", UsageError, "go to Detector.stream"),
        ("shots/*.jpg", UsageError, "go to Detector.stream"),
        ("http://127.0.0.1:9/a.jpg", DataError, r"cannot be downloaded \(\[\w+ \d+\] "),
    ],
)
def test_more_that_is_no_image(detector, given, error, message, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(error, match=message):
        detector(given)


def test_an_address(detector, paths, tmp_path, web):
    shutil.copy(paths[0], tmp_path / "a.jpg")
    found = detector(f"{web}/a.jpg")
    same(found, detector(paths[0]))
    assert found.source == f"{web}/a.jpg"
    (tmp_path / "a.jpg").unlink()
    assert np.array_equal(found.image, cv2.imread(str(paths[0]))), "nothing is downloaded again"


def test_thresholds_of_a_call(eager_pt, detector, paths):
    options = {"conf": 0.01, "iou": 0.05, "max_det": 3, "classes": ["fish", 0]}
    same(detector(paths[0], **options), Detector(eager_pt, device="cpu", **options)(paths[0]))
    same(detector(paths[0], conf=None, classes=None), detector(paths[0]))
    [streamed] = detector.stream(paths[0], **options)
    same(streamed, detector(paths[0], **options))
    narrow = Detector(eager_pt, device="cpu", classes=["fish"])
    assert set(narrow(paths[0], classes=["ball"]).class_ids.tolist()) == {0}
    assert set(narrow(paths[0]).class_ids.tolist()) == {3}, "a call changes nothing"
    for wrong, message in (
        ({"conf": 2}, "conf must be between"),
        ({"classes": ["fisch"]}, "did you mean 'fish'"),
        ({"confidence": 0.5}, "a call takes conf, iou, max_det, classes, not confidence"),
    ):
        with pytest.raises(UsageError, match=message):
            detector(paths[0], **wrong)
        with pytest.raises(UsageError, match=message):
            detector.stream(paths[0], **wrong)


def test_streams(detector, paths, image, tmp_path):
    for source in (paths[0].parent, f"{paths[0].parent}/*.jpg", paths, iter(paths)):
        found = list(detector.stream(source, batch=3))
        assert [one.source for one in found] == [str(path) for path in paths]
        for one, path in zip(found, paths, strict=True):
            same(one, detector(path))
    writer = cv2.VideoWriter(
        str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, image.shape[1::-1]
    )
    for _ in range(5):
        writer.write(image)
    writer.release()
    frames = list(detector.stream(tmp_path / "a.avi", batch=2))
    assert [frame.source for frame in frames] == [str(tmp_path / "a.avi")] * 5
    assert frames[4].image.shape == image.shape
    assert len(frames[0]) > 0


def test_a_stream_takes_no_more_than_it_needs(detector, image):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield image

    stream = detector.stream(endless())
    next(stream)
    next(stream)
    assert len(taken) == 2


def test_streams_that_cannot_be(detector, paths, tmp_path):
    for source, error, message in (
        ("absent", DataError, "no such file or folder"),
        (tmp_path, DataError, "no images in this folder"),
        (97, DataError, "camera-97: the camera cannot be opened"),
    ):
        with pytest.raises(error, match=message):
            next(detector.stream(source))
    with pytest.raises(DataError, match="no such file"):
        detector.stream("absent")  # at once, not with the first image
    with pytest.raises(UsageError, match="batch must be at least 1"):
        detector.stream(paths, batch=0)
    given = [paths[0], tmp_path / "gone.jpg", paths[1]]
    with pytest.raises(DataError, match=r"gone\.jpg: no such image"):
        list(detector.stream(given))
    with pytest.warns(OculoxWarning, match=r"gone\.jpg: no such image; left out") as told:
        found = list(detector.stream(given, batch=3, skip_unreadable=True))
    assert told[0].filename == __file__
    assert [one.source for one in found] == [str(paths[0]), str(paths[1])]


def test_results_know_their_image(detector, paths, image, tmp_path):
    copy = tmp_path / "copy.png"
    cv2.imwrite(str(copy), image)
    found = detector(copy)
    assert found.source == str(copy)
    assert repr(found).startswith(f"<Detections in {copy}: ")
    assert np.array_equal(found[:1].image, image)
    assert np.array_equal(found.plot(), found.draw(image))
    copy.unlink()
    with pytest.raises(DataError, match=r"copy\.png: no such image"):
        found.plot()
    rgb = np.ascontiguousarray(image[..., ::-1])
    [own] = detector([rgb], color="rgb")
    assert own.source is None
    assert np.array_equal(own.image, image)
    assert np.array_equal(pickle.loads(pickle.dumps(own)).image, image)  # noqa: S301


@pytest.mark.parametrize(
    "kind", ["torch", *(pytest.param(k, marks=pytest.mark.slow) for k in ("onnx", "openvino"))]
)
def test_threads_share_a_detector(eager_pt, paths, kind):
    if kind != "torch":
        pytest.importorskip("onnxruntime" if kind == "onnx" else kind)
    detector = Detector(eager_pt, device="cpu", backend=kind)
    expected = [detector(path) for path in paths]
    work = [*range(len(paths))] * 15
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: detector(paths[i], conf=0.3), work))
    for i, one in zip(work, found, strict=True):
        np.testing.assert_array_equal(one.xyxy, expected[i].xyxy)
        np.testing.assert_array_equal(one.scores, expected[i].scores)


def test_export_and_benchmark_of_a_detector(tmp_path):
    config = load_config("yolox-nano", ["input.size=64"])
    fresh = build_model(config.model, num_classes=2).state_dict()
    save_checkpoint(tmp_path / "fresh.pt", make_weights(config, fresh, names=("a", "b")))
    detector = Detector(tmp_path / "fresh.pt", device="cpu", imgsz=96)
    path = detector.export("torchscript", output=tmp_path / "m.torchscript").path
    assert Detector(path, device="cpu").backend.spec.input.size == (96, 96)
    assert detector.benchmark(["torch"], samples=1).measurements[0].format == "torch"
    with pytest.raises(UsageError, match="a benchmark starts from a weights file"):
        Detector(detector.backend).benchmark()


class Steps(TrainCallback):
    def __init__(self, stop=()):
        self.calls = []
        self.stop = stop

    def _note(self, *call):
        self.calls.append(call)
        return call in self.stop

    def on_step(self, step, total, loss):
        assert loss.total > 0
        return self._note("step", step, total)

    def on_evaluation(self, epoch, metrics):
        assert metrics.ap >= 0
        return self._note("evaluation", epoch)

    def on_epoch(self, epoch, total):
        return self._note("epoch", epoch, total)


def test_a_callback_follows_a_run_and_stops_it(quick, tmp_path):
    """3 epochs of 3 steps, evaluated after the second and the third."""
    whole, first, second, rest = Steps(), Steps([("step", 4, 9)]), Steps([("epoch", 2, 3)]), Steps()
    done = train("yolox-nano", *quick, output=tmp_path / "whole", callback=whole)
    expected = [("step", n, 9) for n in range(1, 10)]
    expected[3:3] = [("epoch", 1, 3)]
    expected[7:7] = [("evaluation", 2), ("epoch", 2, 3)]
    assert whole.calls == [*expected, ("evaluation", 3), ("epoch", 3, 3)]
    run = tmp_path / "run"
    summary = train("yolox-nano", *quick, output=run, callback=first)
    assert (summary.steps, summary.epochs, summary.stopped_early) == (4, 2, True)
    assert summary.metrics == {}
    assert "stopped by the program after step 4" in (run / "log.txt").read_text()
    summary = train(resume=run, callback=second)
    assert (summary.steps, summary.epochs, summary.stopped_early) == (6, 2, True)
    assert summary.best.is_file()
    summary = train(resume=run, callback=rest)
    assert first.calls + second.calls + rest.calls == whole.calls
    assert summary.metrics == done.metrics
    ours, theirs = load_weights(summary.best).state, load_weights(done.best).state
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_callback_is_told_where_a_limited_run_ends(quick, tmp_path):
    steps = Steps()
    train("yolox-nano", *quick, "train.max_steps=2", output=tmp_path / "run", callback=steps)
    assert steps.calls[:2] == [("step", 1, 2), ("step", 2, 2)]


def test_callbacks_that_fail_or_have_no_run(quick, tmp_path):
    class Broken(TrainCallback):
        def on_epoch(self, epoch, total):
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        train("yolox-nano", *quick, output=tmp_path / "run", callback=Broken())
    with pytest.raises(UsageError, match="a callback lives in this process"):
        train("yolox-nano", *quick, output=tmp_path / "two", devices=2, callback=Broken())
    assert not (tmp_path / "two").exists()
