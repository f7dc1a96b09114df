"""Networks from weights, strictly, and weights into networks with other classes."""

import dataclasses

import pytest
import torch

from oculox.config import load_config, recipe_names
from oculox.errors import CheckpointError
from oculox.models import build_model
from oculox.weights.bundle import (
    build_network,
    check_state,
    output_channels,
    recognise_model,
    transfer_state,
)
from oculox.weights.classes import COCO_NAMES, same_classes
from specs import with_spec


def test_the_network_has_these_weights_and_its_own_memory(eager_weights):
    network = build_network(eager_weights)
    assert not network.training
    for key, value in network.state_dict().items():
        assert torch.equal(value, eager_weights.state[key])
        assert value.data_ptr() != eager_weights.state[key].data_ptr()
    before = {key: value.clone() for key, value in eager_weights.state.items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert all(torch.equal(eager_weights.state[key], before[key]) for key in before)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop("backbone.stem.conv.bn.bias"), "1 missing: backbone.stem.conv.bn.bias"),
        (lambda s: s.update(more=torch.zeros(1)), "1 extra: more"),
        (
            lambda s: s.update({"head.obj_preds.1.bias": torch.zeros(2)}),
            r"1 of another shape: head.obj_preds.1.bias \(expected \(1,\), got \(2,\)\)",
        ),
        (lambda s: s.clear(), r"\d{3} missing: .*, \.\.\.$"),
    ],
)
def test_what_does_not_fit_is_reported(eager_weights, edit, message):
    state = dict(eager_weights.state)
    edit(state)
    weights = dataclasses.replace(eager_weights, state=state)
    with pytest.raises(CheckpointError, match=f"^w.pt: tensors do not fit the network: {message}"):
        build_network(weights, where="w.pt")
    with pytest.raises(CheckpointError, match=message):
        transfer_state(fresh(6), weights, names=weights.spec.names, where="w.pt")


def test_nothing_fits_nothing():
    check_state({}, {}, where="x")


def fresh(num_classes, recipe="yolox-nano"):
    torch.manual_seed(1)
    return build_model(load_config(recipe).model, num_classes=num_classes)


NUMBERS = tuple(f"class {i}" for i in range(6))


@pytest.mark.parametrize("theirs", [None, NUMBERS], ids=["named", "numbered"])
def test_transfer_to_the_same_classes_takes_everything(eager_weights, theirs):
    names = eager_weights.spec.names
    weights = eager_weights if theirs is None else with_spec(eager_weights, names=theirs)
    network = fresh(6)
    assert transfer_state(network, weights, names=names, where="x") == 6
    for key, value in network.state_dict().items():
        assert torch.equal(value, eager_weights.state[key])


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (("dog",), {}),
        (("Leaf", "dog", "b-all"), {0: 5, 2: 0}),
        (tuple(f"other {i}" for i in range(6)), {}),
        (tuple(f"other {i}" for i in range(80)), {}),
    ],
)
def test_transfer_to_other_classes_keeps_those_of_the_same_name(eager_weights, names, kept):
    network = fresh(len(names))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert transfer_state(network, eager_weights, names=names, where="x") == len(kept)
    for key, value in network.state_dict().items():
        if not key.startswith("head.cls_preds."):
            assert torch.equal(value, eager_weights.state[key])
            continue
        for i, row in enumerate(value):
            same = eager_weights.state[key][kept[i]] if i in kept else before[key][i]
            assert torch.equal(row, same)


@pytest.mark.parametrize(("count", "kept"), [(6, 6), (3, 0), (80, 0)])
def test_transfer_by_the_number_of_classes(eager_weights, count, kept):
    network = fresh(count)
    before = network.state_dict()["head.cls_preds.0.bias"].clone()
    assert transfer_state(network, eager_weights, where="x") == kept
    expected = eager_weights.state["head.cls_preds.0.bias"] if kept else before
    assert torch.equal(network.state_dict()["head.cls_preds.0.bias"], expected)


@pytest.mark.parametrize(
    ("wanted", "known", "rows"),
    [
        ((), ("a",), ()),
        (("b", "a"), (), (None, None)),
        (("b", "a"), ("a", "b", "b"), (1, 0)),
        (("Traffic_Light", "pottedplant", "TV-monitor"), COCO_NAMES, (9, 58, 62)),
    ],
)
def test_classes_of_the_same_name(wanted, known, rows):
    assert same_classes(wanted, known) == rows


def test_transfer_to_another_network_is_refused_and_changes_nothing(eager_weights):
    network = fresh(6, "yolox-tiny")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(CheckpointError, match="do not fit the network"):
        transfer_state(network, eager_weights, names=eager_weights.spec.names, where="x")
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_are_recognised(name):
    config = load_config(name)
    spec = recognise_model(
        backbone=config.model.backbone,
        stem_channels=int((32 if "darknet" in name else 64) * config.model.width),
        blocks=max(round(3 * config.model.depth), 1),
        depthwise=config.model.depthwise,
        num_classes=7,
    )
    assert spec.model == config.model.model_copy(update={"num_classes": 7})
    assert spec.input == config.input
    assert (spec.names[0], spec.category_ids) == ("class 0", None)


@pytest.mark.parametrize("backbone", ["csp_darknet", "darknet53"])
def test_other_shapes_are_custom(backbone):
    spec = recognise_model(
        backbone=backbone, stem_channels=24, blocks=2, depthwise=False, num_classes=2
    )
    assert spec.model.name == "yolox-custom"
    assert spec.input.size == (640, 640)
    stem = build_model(spec.model, num_classes=2).state_dict()
    first = next(value for key, value in stem.items() if key.startswith("backbone.stem"))
    assert first.shape[0] == 24


def test_a_network_without_blocks_is_none():
    with pytest.raises(CheckpointError, match="no bottleneck"):
        recognise_model(
            backbone="csp_darknet", stem_channels=32, blocks=0, depthwise=False, num_classes=2
        )


@pytest.mark.parametrize(
    ("shape", "message"),
    [(None, "is missing"), ((4,), "not a convolution"), ((0, 1, 1, 1), "not a conv")],
)
def test_output_channels(shape, message):
    tensors = {} if shape is None else {"w": torch.zeros(shape)}
    with pytest.raises(CheckpointError, match=message):
        output_channels(tensors, "w", where="x")
    assert output_channels({"w": torch.zeros(5, 1, 3, 3)}, "w", where="x") == 5
