"""The official layout: all seven networks, name by name."""

import json

import pytest
import torch

from oculox.config import load_config, recipe_names
from oculox.errors import CheckpointError
from oculox.models import build_model
from oculox.weights import Weights, build_network, load_weights
from oculox.weights.classes import COCO_CATEGORY_IDS, COCO_NAMES
from oculox.weights.interop.megvii import is_official, official_names, read_official, write_official
from oculox.weights.interop.names import paired_names

OFFICIAL_NAMES = {"yolox-darknet53": "yolov3"}


@pytest.fixture(scope="module")
def shapes(shared):
    return json.loads((shared / "golden/megvii_state_dicts.json").read_text("utf-8"))


def empty(shapes):
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize("name", recipe_names())
def test_every_tensor_has_its_name(shapes, name):
    official = shapes[OFFICIAL_NAMES.get(name, name)]
    config = load_config(name)
    with torch.device("meta"):
        ours = build_model(config.model, num_classes=80).state_dict()
    pairs = paired_names(ours, official_names(config.model.backbone))
    assert {theirs: list(ours[own].shape) for theirs, own in pairs.items()} == official


@pytest.mark.parametrize("name", recipe_names())
def test_a_network_is_recognised_by_its_tensors(shapes, name):
    state = empty(shapes[OFFICIAL_NAMES.get(name, name)])
    assert is_official(state)
    weights = read_official(state, where="x")
    config = load_config(name)
    assert weights.spec.model == config.model.model_copy(update={"num_classes": 80})
    assert weights.spec.input == config.input
    assert (weights.spec.names, weights.spec.category_ids) == (COCO_NAMES, COCO_CATEGORY_IDS)
    assert weights.origin == "megvii"
    assert write_official(weights) == {"start_epoch": 0, "model": state, "best_ap": 0.0}


def test_other_class_counts_get_numbers_for_names(shapes):
    state = empty(shapes["yolox-s"])
    for level in range(3):
        for kind in ("weight", "bias"):
            key = f"head.cls_preds.{level}.{kind}"
            state[key] = state[key][:3]
    weights = read_official(state, where="x")
    assert weights.spec.names == ("class 0", "class 1", "class 2")
    assert weights.spec.category_ids is None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop("backbone.backbone.stem.conv.bn.bias"), "1 missing: backbone.backbone.s"),
        (lambda s: s.pop("backbone.backbone.stem.conv.conv.weight"), "not a complete YOLOX"),
        (lambda s: s.pop("head.cls_preds.0.weight"), "'head.cls_preds.0.weight' is missing"),
        (lambda s: s.update({"head.more": torch.zeros(1)}), "1 extra: head.more"),
        (
            lambda s: s.update({"head.obj_preds.1.bias": torch.zeros(2)}),
            r"head.obj_preds.1.bias \(expected \(1,\), got \(2,\)\)",
        ),
        (
            lambda s: s.update({"head.cls_preds.0.weight": torch.zeros(3)}),
            "not a convolution's weight",
        ),
    ],
)
def test_what_does_not_fit_is_reported(shapes, edit, message):
    state = empty(shapes["yolox-nano"])
    edit(state)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_official(state, where="file.pth")
    assert str(caught.value).startswith("file.pth: ")


def test_the_real_file(shared, tmp_path):
    path = shared / "weights/yolox_nano.pth"
    weights = load_weights(path)
    assert weights.spec.model.name == "yolox-nano"
    original = torch.load(path, map_location="cpu", weights_only=True)["model"]
    torch.save(write_official(weights), tmp_path / "again.pth")
    written = torch.load(tmp_path / "again.pth", weights_only=True)["model"]
    assert written.keys() == original.keys()
    assert all(torch.equal(written[key], original[key]) for key in original)
    build_network(weights)


@pytest.mark.parametrize("wrap", ["bare", "state_dict", "ema", "module."])
def test_where_projects_put_their_tensors(shared, tmp_path, wrap):
    path = shared / "weights/yolox_nano.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)["model"]
    if wrap == "module.":
        content = {"model": {f"module.{key}": value for key, value in state.items()}}
    else:
        content = state if wrap == "bare" else {wrap: state, "epoch": 3}
    torch.save(content, tmp_path / "w.pth")
    loaded, whole = load_weights(tmp_path / "w.pth"), load_weights(path)
    assert loaded.spec.model == whole.spec.model
    assert all(torch.equal(loaded.state[key], whole.state[key]) for key in whole.state)


def test_what_the_layout_cannot_say_travels_beside_it(eager_weights, tmp_path):
    path = tmp_path / "ours.pth"
    torch.save(write_official(eager_weights), path)
    loaded = load_weights(path)
    assert isinstance(loaded, Weights)
    assert loaded.spec.names == eager_weights.spec.names
    assert loaded.spec.input == eager_weights.spec.input
    assert loaded.spec.category_ids == eager_weights.spec.category_ids
    assert all(torch.equal(loaded.state[k], v) for k, v in eager_weights.state.items())
