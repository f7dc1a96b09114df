"""Networks from weights, strictly, and weights into networks with other classes."""

import dataclasses
import math

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
        transfer_state(fresh(6), weights, where="w.pt")


def test_nothing_fits_nothing():
    check_state({}, {}, where="x")


def fresh(num_classes, recipe="yolox-nano"):
    torch.manual_seed(1)
    return build_model(load_config(recipe).model, num_classes=num_classes)


def test_transfer_to_the_same_classes_takes_everything(eager_weights):
    network = fresh(6)
    assert transfer_state(network, eager_weights, where="x") == ()
    for key, value in network.state_dict().items():
        assert torch.equal(value, eager_weights.state[key])


@pytest.mark.parametrize("num_classes", [1, 3, 80])
def test_transfer_to_other_classes_leaves_fresh_predictors(eager_weights, num_classes):
    network = fresh(num_classes)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    skipped = transfer_state(network, eager_weights, where="x")
    assert sorted(skipped) == sorted(
        f"head.cls_preds.{level}.{kind}" for level in range(3) for kind in ("weight", "bias")
    )
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key] if key in skipped else eager_weights.state[key])
    # The prior of the focal-loss paper: every class starts at a probability of 1 percent.
    for level in range(3):
        bias = network.state_dict()[f"head.cls_preds.{level}.bias"]
        assert torch.allclose(bias.sigmoid(), torch.full((num_classes,), 0.01), atol=1e-6)
        assert torch.allclose(bias, torch.tensor(-math.log(99.0)))


def test_transfer_to_another_network_is_refused_and_changes_nothing(eager_weights):
    network = fresh(6, "yolox-tiny")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(CheckpointError, match="do not fit the network"):
        transfer_state(network, eager_weights, where="x")
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
