"""Every mistake of a user is one line and an exit code, and no file of the user is touched."""

import io
import json
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

TRAIN = "annotations/instances_train2017.json"
VAL = "annotations/instances_val2017.json"
LONG = "a" * 300


def contents(*folders):
    return {
        path: path.read_bytes()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def data(tiny_data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(tiny_data, folder)
    return folder


@pytest.fixture
def start(oculox, quick, tmp_path):
    """`oculox train` with quick settings; it must leave a folder that holds no run."""

    def run(*arguments, code, recipe="yolox-nano"):
        output = tmp_path / "run"
        before = contents(tmp_path)
        outcome = oculox("train", recipe, *quick, "--output", output, *arguments)
        assert outcome.code == code, outcome.err
        assert outcome.out == ""
        now = contents(tmp_path)
        assert {path: now.get(path) for path in before} == before
        assert not [path for path in now if path.name in ("last.pt", "best.pt", "summary.json")]
        assert not list(tmp_path.rglob("*.part"))
        return outcome.error

    return run


def change(path, edit):
    tree = json.loads(path.read_text("utf-8"))
    edit(tree)
    path.write_text(json.dumps(tree), "utf-8")


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def first_image(folder, split="train2017"):
    return sorted((folder / split).iterdir())[0]


DATA_FAULTS = {
    "no root": (lambda d: shutil.rmtree(d), "is not a folder"),
    "root is a file": (lambda d: (shutil.rmtree(d), d.write_text("")), "is not a folder"),
    "no annotations": (lambda d: (d / TRAIN).unlink(), "no train split found"),
    "empty annotations": (lambda d: (d / TRAIN).write_bytes(b""), "not valid JSON"),
    "binary annotations": (lambda d: (d / TRAIN).write_bytes(b"\xff\x00\x01"), "not valid JSON"),
    "a list": (lambda d: (d / TRAIN).write_text("[]"), "not a COCO file"),
    "a folder": (lambda d: ((d / TRAIN).unlink(), (d / TRAIN).mkdir()), "no train split found"),
    "no images listed": (
        lambda d: change(d / TRAIN, lambda t: t.update(images=[])),
        "'images' is empty",
    ),
    "no image section": (
        lambda d: change(d / VAL, lambda t: t.pop("images")),
        "expected a list 'images'",
    ),
    "no categories": (
        lambda d: change(d / TRAIN, lambda t: t.update(categories=[])),
        "'categories' is empty",
    ),
    "unknown category": (
        lambda d: change(d / TRAIN, lambda t: t["annotations"][0].update(category_id=7)),
        "category",
    ),
    "unknown image": (
        lambda d: change(d / TRAIN, lambda t: t["annotations"][0].update(image_id=999)),
        "999",
    ),
    "box not a number": (
        lambda d: change(d / TRAIN, lambda t: t["annotations"][0].update(bbox=[1, 2, "x", 4])),
        "bbox",
    ),
    "other classes in validation": (
        lambda d: change(d / VAL, lambda t: t["categories"][0].update(name="cube")),
        "same categories",
    ),
    "image missing": (lambda d: first_image(d).unlink(), "000001.jpg"),
    "image folder missing": (lambda d: shutil.rmtree(d / "val2017"), "no val split found"),
    "path that escapes": (
        lambda d: change(d / TRAIN, lambda t: t["images"][0].update(file_name="../../secret.jpg")),
        "../../secret.jpg",
    ),
    "absolute path": (
        lambda d: change(d / TRAIN, lambda t: t["images"][0].update(file_name="/etc/passwd")),
        "/etc/passwd",
    ),
}


@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_training_on_faulty_data(start, data, fault):
    spoil, message = DATA_FAULTS[fault]
    spoil(data)
    assert message in start(f"data.root={data}", code=1)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "another size"])
def test_training_meets_a_damaged_image(start, data, damage, workers):
    image = first_image(data)
    if damage == "truncated":
        truncate(image)
    elif damage == "another size":
        cv2.imwrite(str(image), np.zeros((20, 30, 3), np.uint8))
    else:
        image.write_bytes(b"" if damage == "empty" else b"this is no image")
    words = (f"data.root={data}", f"data.workers={workers}", "data.max_bad_images=0")
    error = start(*words, code=1)
    assert f"{image}: " in error
    assert "data.max_bad_images" in error


def test_training_meets_a_damaged_validation_image(start, data):
    """Long before the first evaluation, which comes after hundreds of epochs here."""
    image = first_image(data, "val2017")
    truncate(image)
    words = ("train.aug_epochs=500", "train.eval_interval=0", "train.checkpoint_interval=500")
    error = start(f"data.root={data}", *words, code=1)
    assert f"{image}: the image is truncated" in error
    assert "eval.max_bad_images" in error


@pytest.mark.parametrize("cache", ["none", "disk"])
def test_training_goes_on_without_a_few_damaged_images(oculox, quick, data, tmp_path, cache):
    for split in ("train2017", "val2017"):
        truncate(first_image(data, split))
    settings = (f"data.root={data}", f"data.cache={cache}", "eval.max_bad_images=1")
    outcome = oculox("train", "yolox-nano", *quick, *settings, "--output", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    log = (tmp_path / "run/log.txt").read_text("utf-8")
    assert log.count(f"{first_image(data)}: the image is truncated") == 1
    assert "training image left out: " in log


ABSENT = next(
    device
    for device, present in (
        ("cuda", torch.cuda.is_available()),
        ("mps", torch.backends.mps.is_available()),
        ("npu", False),
    )
    if not present
)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train.lr=1",), "unknown key 'train.lr'; did you mean 'optimizer.lr'?"),
        (("optimiser.lr=1",), "did you mean 'optimizer"),
        (("train.batchs=4",), "did you mean 'train.batch'?"),
        (("train.batch=0",), "train.batch: "),
        (("train.batch=many",), "got 'many'"),
        (("train.batch",), "a setting looks like section.key=value"),
        (("=3",), "a setting looks like section.key=value"),
        (("train=3",), "train"),
        (("train.batch.size=3",), "train.batch"),
        (("augment.multiscale=[64",), "not valid YAML"),
        (("input.size=100",), "multiples of 32"),
        (("model.num_classes=0",), "model.num_classes"),
        (("train.epochs=2", "train.aug_epochs=0", "train.tail_epochs=0"), "nothing to train"),
        ((f"train.device={ABSENT}",), "no such device here"),
        (("train.device=tpu",), "train.device"),
        (("train.precision=fp16",), "fp16 needs an accelerator"),
        (("data.root=null",), "set data.root"),
    ],
)
def test_training_with_wrong_settings(start, words, message):
    assert message in start(*words, code=2)


def test_a_wrong_class_count_in_the_configuration(start):
    assert "has 6 categories" in start("model.num_classes=4", code=1)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("--epochs", "5"), "--epochs: settings are words without dashes, here train.epochs=5"),
        (("--json", "--epochs=5"), "train.epochs=5"),
        (("--batch", "8"), "train.batch=8"),
        (("--batch-size", "8"), "train.batch=8"),
        (("--imgsz", "640"), "input.size=640"),
        (("--imgsz",), "input.size=VALUE"),
        (("--lr", "0.01"), "optimizer.lr=0.01"),
        (("--data", "voc"), "data.root=voc"),
        (
            ("data=voc",),
            "data: expected a section of settings, got 'voc'; did you mean 'data.root'?",
        ),
        (("imgsz=640",), "did you mean 'input.size'?"),
    ],
)
@pytest.mark.parametrize("command", ["train", "config"])
def test_settings_in_the_words_of_other_projects(oculox, command, words, meant):
    outcome = oculox(command, "yolox-nano", *words)
    assert (outcome.code, outcome.out) == (2, "")
    assert meant in outcome.error


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("yolox-nona", "did you mean 'yolox-nano'?"),
        ("yolo_s", "did you mean 'yolox-s'?"),
        ("nothing-like-it", "neither a recipe nor a YAML file"),
        (
            "{tmp}/broken.yaml",
            "broken.yaml: not valid YAML: while parsing a flow sequence at line 1",
        ),
        ("{tmp}/binary.yaml", "binary.yaml: not a readable text file"),
        ("{tmp}/control.yaml", "control.yaml: not valid YAML"),
        ("{tmp}/list.yaml", "expected a mapping of sections, got list"),
        ("{tmp}/section.yaml", "section.yaml: train: "),
        ("{tmp}/tag.yaml", "tag.yaml: not valid YAML"),
        ("{tmp}", "is a folder, not a recipe; to train on a dataset: oculox train yolox-s data"),
        ("{tmp}/none.yaml", "none.yaml: no such file"),
    ],
)
@pytest.mark.parametrize("command", ["train", "config"])
def test_unknown_recipes_and_unreadable_files(oculox, tmp_path, recipe, message, command):
    (tmp_path / "broken.yaml").write_text("train: [1, 2\nmodel: }")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "control.yaml").write_bytes(b"train: \x00\x07")
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    (tmp_path / "section.yaml").write_text("train: 3\n")
    (tmp_path / "tag.yaml").write_text("train: !!python/object/apply:os.system [true]\n")
    outcome = oculox(command, recipe.replace("{tmp}", str(tmp_path)))
    assert outcome.code == 2
    assert message in outcome.error


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return (os.mkdir, (str(self.witness),))


def legacy(content):
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def spoilt_weights(folder, good):
    """Name -> a file that is not the weights of a YOLOX, and what is said about it."""
    content = torch.load(good, weights_only=True)
    whole = good.read_bytes()
    resnet = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)).state_dict()
    files = {}

    def put(name, data, message):
        path = folder / name
        if isinstance(data, bytes):
            path.write_bytes(data)
        else:
            torch.save(data, path)
        files[path] = message

    put("empty.pt", b"", "damaged, or not a PyTorch file")
    put("text.pt", b"these are no weights\n", "not a PyTorch file")
    put("noise.pth", bytes(range(256)) * 40, "not a PyTorch file")
    put("half.pt", whole[: len(whole) // 2], "damaged")
    put("tail.pt", whole[: -len(whole) // 50], "damaged")
    put("pickled.pt", pickle.dumps(Trap(folder / "ran")), "refused")
    put("zipped.pt", {"model": Trap(folder / "ran")}, "refused")
    put("legacy.pth", legacy({"model": Trap(folder / "ran")}), "refused")
    put("trap.ckpt", pickle.dumps(Trap(folder / "ran")), "trap.ckpt")
    put("another.pt", {"state_dict": resnet}, "not weights of a YOLOX that Oculox knows")
    put("bare.pt", torch.zeros(3), "expected a mapping of tensors, got Tensor")
    put("values.pt", {"a": 1}, "its first tensors: none")
    put("newer.pt", {**content, "version": 99}, "format version 99")
    put("stateless.pt", {**content, "state": None}, "'state' is missing")
    put("meta.pt", {**content, "meta": {"model": {}}}, "description is incomplete")
    fewer = {k: v for k, v in content["state"].items() if "stem" not in k}
    put("fewer.pt", {**content, "state": fewer}, "missing: backbone.stem")
    more = {**content["state"], "extra.weight": torch.zeros(1)}
    put("more.pt", {**content, "state": more}, "1 extra: extra.weight")
    shape = {**content["state"], "head.obj_preds.0.bias": torch.zeros(2)}
    put("shape.pt", {**content, "state": shape}, "expected (1,), got (2,)")
    kind = {**content["state"], "head.obj_preds.0.bias": 3}
    put("kind.pt", {**content, "state": kind}, "kind.pt")
    put("text.safetensors", b"these are no weights", "not a safetensors file")
    save_file({"a": torch.zeros(1)}, folder / "foreign.safetensors")
    files[folder / "foreign.safetensors"] = "not one of Oculox's"
    put("text.onnx", b"these are no weights", "text.onnx")
    put("text.ckpt", b"these are no weights", "text.ckpt")
    with zipfile.ZipFile(folder / "archive.pt", "w") as archive:
        archive.writestr("readme.txt", "an archive of something else")
    files[folder / "archive.pt"] = "not a PyTorch file"
    (folder / "folder.pt").mkdir()
    files[folder / "folder.pt"] = "folder.pt"
    files[folder / "absent.pt"] = "no such file"
    return files


@pytest.fixture(scope="module")
def spoilt(eager_pt, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoilt")
    return folder, spoilt_weights(folder, eager_pt)


def test_files_that_are_no_weights(oculox, quick, tiny_data, spoilt, tmp_path):
    folder, files = spoilt
    output = tmp_path / "out"
    image = first_image(tiny_data)
    for path, message in files.items():
        for command in (
            ("eval", path, "--data", tiny_data, "--workers", 0, "--device", "cpu"),
            ("predict", path, image, "--output", output, "--device", "cpu"),
            ("train", "yolox-nano", *quick, "--weights", path, "--output", output),
        ):
            outcome = oculox(*command)
            assert outcome.code == 1, (command, outcome.err)
            if not (path.suffix == ".onnx" and command[0] != "train"):
                assert message in outcome.error, command
            assert path.name in outcome.error
    assert not (folder / "ran").exists(), "code in a file was run"
    assert contents(output) == {}


def test_the_trap_does_spring_where_pickles_are_trusted(tmp_path):
    torch.save(Trap(tmp_path / "ran"), tmp_path / "trap.pt")
    torch.load(tmp_path / "trap.pt", weights_only=False)
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize(
    ("model", "code", "message"),
    [
        ("{tmp}/none.pt", 1, "none.pt: no such file"),
        ("{tmp}/none", 1, "none: no such file"),
        ("none", 1, "none: no such file"),
        ("{tmp}/run", 2, "the folder of a run, where a model is expected; name {tmp}/run/best.pt"),
        ("{tmp}", 2, "cannot tell the model's format from 'a name without suffix'"),
    ],
)
def test_models_that_are_not_there(oculox, data, tmp_path, model, code, message):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/best.pt").touch()
    outcome = oculox("predict", model.replace("{tmp}", str(tmp_path)), first_image(data))
    assert outcome.code == code, outcome.err
    assert message.replace("{tmp}", str(tmp_path)) in outcome.error


def test_weights_of_another_network(start, eager_pt):
    error = start("--weights", eager_pt, code=1, recipe="yolox-tiny")
    assert "do not fit the network" in error


def test_weights_for_another_class_count_in_evaluation(oculox, three_classes_pt, tiny_data):
    outcome = oculox("eval", three_classes_pt, "--data", tiny_data, "--workers", 0)
    assert outcome.code == 1
    assert "wrong class count: the model predicts 3 classes" in outcome.error


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "name the data to evaluate on"),
        (("--data", "{tmp}/none"), 1, "{tmp}/none: no such dataset; expected a dataset folder"),
        (("--data", "{data}", "--imgsz", 100), 2, "multiples of 32"),
        (("--data", "{data}", "--imgsz", 0), 2, "multiples of 32"),
        (("--data", "{data}", "--device", ABSENT), 2, ABSENT),
        (("--data", "{data}", "--device", "toaster"), 2, "toaster"),
        (("--data", "{data}", "--backend", "caffe"), 2, "'caffe'"),
        (("--data", "{data}/" + VAL), 1, "and 3 more; name their folder with --images"),
        (("--data", "{data}/" + VAL, "--images", "{tmp}/none"), 1, "none"),
        (("--data", "{data}", "--detections", "{data}/x.json/y"), 1, "could not be written"),
        (("--data", "{data}", "--detections", "{data}"), 2, "is a folder"),
        (
            ("--data", "{data}", "--detections", "{data}/x.json"),
            2,
            "pass --overwrite to replace it",
        ),
        (("--data", "{data}", "--report", "{data}/x.json"), 2, "pass --overwrite to replace it"),
    ],
)
def test_evaluation_refuses(oculox, eager_pt, data, tmp_path, words, code, message):
    (data / "x.json").write_text("mine")
    before = contents(data)
    words = [str(w).replace("{data}", str(data)).replace("{tmp}", str(tmp_path)) for w in words]
    outcome = oculox("eval", eager_pt, "--workers", 0, *words)
    assert outcome.code == code, outcome.err
    assert message.replace("{tmp}", str(tmp_path)) in outcome.error
    assert "data.root" not in outcome.error
    assert contents(data) == before


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_meets_a_truncated_image(oculox, eager_pt, data, workers):
    image = first_image(data, "val2017")
    truncate(image)
    outcome = oculox("eval", eager_pt, "--data", data, "--workers", workers)
    assert outcome.code == 1
    assert f"{image}: the image is truncated" in outcome.error


def test_evaluation_leaves_out_as_many_images_as_allowed(oculox, eager_pt, data):
    images = sorted((data / "val2017").iterdir())
    truncate(images[0])
    words = ("eval", eager_pt, "--data", data, "--workers", 0, "--max-bad-images", 1, "--json")
    outcome = oculox(*words)
    assert outcome.code == 0, outcome.err
    assert outcome.json["images"] == 3
    assert [fault.split(": ")[0] for fault in outcome.json["left_out"]] == [str(images[0])]
    assert f"warning: left out: {images[0]}: the image is truncated" in outcome.err
    change(data / VAL, lambda t: t.update(images=t["images"][1:], annotations=objects(t)))
    assert oculox(*words).json["metrics"] == outcome.json["metrics"]
    truncate(images[1])
    truncate(images[2])
    outcome = oculox(*words)
    assert outcome.code == 1
    assert f"{images[1]}: the image is truncated" in outcome.error
    assert "--max-bad-images" in outcome.error


def objects(tree):
    """Those of all images but the first."""
    return [a for a in tree["annotations"] if a["image_id"] != tree["images"][0]["id"]]


@pytest.mark.parametrize(
    ("sources", "words", "code", "message"),
    [
        (("{tmp}/none.jpg",), (), 1, "no such file or folder"),
        (("{tmp}/*.jpg",), (), 1, "matches this pattern"),
        (("{tmp}/empty",), (), 1, "no images in this folder"),
        (("{tmp}/notes.txt",), (), 2, ".txt is not an image or video"),
        (("{tmp}/bare",), (), 2, "a file without suffix is not an image or video"),
        (("{image}",), ("--imgsz", 65), 2, "multiples of 32"),
        (("{image}",), ("--imgsz", -32), 2, "multiples of 32"),
        (("{image}",), ("--classes", "fisch"), 2, "did you mean 'fish'?"),
        (("{image}",), ("--classes", "6"), 2, "the model has 0-5"),
        (("{image}",), ("--classes", ""), 2, "class"),
        (("{image}",), ("--device", ABSENT), 2, ABSENT),
        (("{image}",), ("--backend", "caffe"), 2, "'caffe'"),
        (("{image}",), ("--output", "{tmp}/notes.txt"), 2, "must be a folder"),
        (("{image}",), ("--output", "{tmp}"), 2, "or pass --overwrite"),
        (("{image}",), ("--output", "{tmp}/notes.txt/x"), 1, "the folder cannot be made"),
        (("{image}",), ("--output", LONG), 1, "the folder cannot be looked into (File name too"),
        ((f"{LONG}.jpg",), (), 1, f"{LONG}.jpg: cannot be read (File name too long)"),
        ((f"{LONG}.jpg",), ("--engine", "local"), 1, ".jpg: cannot be read (File name too long)"),
        (("http://[::1/x.jpg?key=1",), (), 2, "http://[::1/x.jpg: not a URL (Invalid IPv6"),
        (("s3://[a/x.jpg",), ("--engine", "local"), 2, "s3://[a/x.jpg: not a URL"),
        (("{image}",), ("--batch", 10**23), 2, "--batch"),
    ],
)
def test_prediction_refuses(oculox, eager_pt, data, tmp_path, sources, words, code, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "bare").write_text("mine")
    before = contents(tmp_path)
    fill = {"{tmp}": str(tmp_path), "{image}": str(first_image(data))}
    texts = [str(w) for w in ("--output", tmp_path / "out", *sources, *words)]
    for mark, value in fill.items():
        texts = [text.replace(mark, value) for text in texts]
    outcome = oculox("predict", eager_pt, *texts)
    assert outcome.code == code, outcome.err
    assert message in outcome.error
    assert contents(tmp_path) == before


def test_prediction_goes_on_past_an_image_that_cannot_be_decoded(oculox, eager_pt, data, tmp_path):
    image = first_image(data)
    image.write_bytes(image.read_bytes()[:100])
    outcome = oculox("predict", eager_pt, data / "train2017", "--output", tmp_path / "out")
    assert outcome.code == 1
    assert f"{image}: the image is truncated" in outcome.error
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())) == 11


def test_prediction_takes_what_there_is_of_a_truncated_image(oculox, eager_pt, data, tmp_path):
    image = first_image(data)
    truncate(image)
    words = ("predict", eager_pt, data / "train2017", "--output", tmp_path / "out", "--json")
    outcome = oculox(*words)
    assert outcome.code == 0
    assert f"warning: {image}: the image is truncated" in outcome.err
    assert outcome.json["truncated"] == [str(image)]
    assert outcome.json["unreadable"] == []
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())) == 12


@pytest.mark.parametrize(
    "words",
    [
        ("trian", "yolox-nano"),
        ("train", "yolox-nano", "--devices", "0"),
        ("train", "yolox-nano", "--devices", "two"),
        ("train", "yolox-nano", "--devices"),
        ("data", "chekc"),
        ("eval",),
        ("eval", "x.pt", "--conf", "2"),
        ("eval", "x.pt", "--precision", "int8"),
        ("eval", "x.pt", "--split", "all"),
        ("eval", "x.pt", "--batch", "0"),
        ("eval", "x.pt", "--workers", "-1"),
        ("predict", "x.pt"),
        ("predict", "x.pt", "y.jpg", "--iou", "-1"),
        ("predict", "x.pt", "y.jpg", "--imgsz", "big"),
        ("config",),
        ("config", "yolox-s", "--yaml"),
        ("models", "yolox-s"),
        ("--verison",),
    ],
)
def test_wrong_usage(oculox, words):
    outcome = oculox(*words)
    assert outcome.code == 2
    assert outcome.out == ""
    assert re.search(r" \(see oculox.* --help\)$", outcome.error)
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("eval", "yolox-nona"), 1),  # like best.pt, it might be a file
        (("weights", "get", "yolox-nona"), 2),
        (("config", "yolox-nona"), 2),
        (("export", "{weights}", "--format", "onxx"), 2),
    ],
)
def test_exit_codes_of_misspelt_names(oculox, eager_pt, words, code):
    outcome = oculox(*(eager_pt if word == "{weights}" else word for word in words))
    assert outcome.code == code
    assert "did you mean" in outcome.error


def test_outputs_that_cannot_be_used(oculox, quick, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "old").mkdir()
    (tmp_path / "old/config.yaml").write_text("mine")
    before = contents(tmp_path)
    for output, code, message in (
        (tmp_path / "file", 2, "the output must be a folder, this is a file"),
        (tmp_path / "file/below", 1, "cannot be made"),
        (tmp_path / "old", 2, "holds another run"),
    ):
        outcome = oculox("train", "yolox-nano", *quick, "--output", output)
        assert outcome.code == code
        assert message in outcome.error
    assert contents(tmp_path) == before


@pytest.mark.parametrize("method", ["iterdir", "stat"])
def test_folders_that_one_may_not_look_into(oculox, eager_pt, data, monkeypatch, method):
    closed, real = data / "closed", getattr(Path, method)
    closed.mkdir()

    def guarded(path, *arguments, **options):
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, method, guarded)
    for words in ((closed,), (first_image(data), "--output", closed)):
        outcome = oculox("predict", eager_pt, *words)
        assert outcome.code == 1
        assert re.match(rf"{closed}: .*\(Permission denied\)", outcome.error)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is write-protected for the superuser")
def test_a_write_protected_output(oculox, quick, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    for output in (tmp_path / "closed", tmp_path / "closed/below"):
        outcome = oculox("train", "yolox-nano", *quick, "--output", output)
        assert outcome.code == 1
        assert "closed" in outcome.error


def test_resuming_nothing(oculox, tmp_path):
    outcome = oculox("train", "--resume", tmp_path / "none")
    assert outcome.code == 1
    assert "no config.yaml" in outcome.error
    assert not list(tmp_path.iterdir())
