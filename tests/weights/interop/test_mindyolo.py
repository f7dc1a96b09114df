import json
from pathlib import Path

import numpy as np
import pytest
import torch

from formula import decoded_output, mindspore_formula
from oculox.config import load_config, recipe_names
from oculox.errors import CheckpointError
from oculox.models import build_model
from oculox.weights import build_network, load_weights
from oculox.weights.interop.mindspore_file import write_mindspore
from oculox.weights.interop.mindspore_layout import DESCRIPTION
from oculox.weights.interop.mindyolo import (
    customary_input,
    mindyolo_content,
    mindyolo_names,
    network_name,
    read_mindyolo,
)
from specs import assert_equal, random_weights

PLAIN = "model.model."


@pytest.fixture(scope="module")
def parameters(shared: Path) -> dict[str, dict[str, list[int]]]:
    return json.loads((shared / "golden/mindyolo_parameters.json").read_text())


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_parameter_of_the_seven_networks_maps(
    parameters: dict[str, dict[str, list[int]]], recipe: str
) -> None:
    config = load_config(recipe).model
    with torch.device("meta"):
        own = build_model(config, num_classes=80).state_dict()
    to_theirs = mindyolo_names(config.backbone)
    mapped = {
        to_theirs(name): list(value.shape)
        for name, value in own.items()
        if not name.endswith("num_batches_tracked")
    }
    assert mapped == parameters[recipe]


@pytest.mark.parametrize("recipe", recipe_names())
def test_the_network_is_recognised(
    parameters: dict[str, dict[str, list[int]]], recipe: str
) -> None:
    content = {name: torch.zeros(shape) for name, shape in parameters[recipe].items()}
    weights = read_mindyolo(content, where="x.ckpt")
    assert weights is not None
    expected = load_config(recipe)
    assert weights.spec.model == expected.model.model_copy(update={"num_classes": 80})
    assert weights.spec.input == customary_input(expected.input)
    assert (weights.spec.names[0], weights.origin) == ("person", "mindyolo")


def test_forward_of_the_reference(shared: Path) -> None:
    weights = load_weights(shared / "weights/mindyolo_yolox_nano_formula.ckpt")
    assert weights.spec.input.color == "rgb"
    assert (weights.spec.input.pixel_max, weights.spec.input.placement) == (1, "center")
    images = np.random.RandomState(1).uniform(0, 1, (2, 3, 128, 160)).astype(np.float32)
    found = decoded_output(build_network(weights), torch.from_numpy(images))
    expected = np.load(shared / "golden/mindyolo_nano_forward.npz")["out0"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_file_holds_the_formula(shared: Path) -> None:
    weights = load_weights(shared / "weights/mindyolo_yolox_nano_formula.ckpt")
    content = mindyolo_content(weights)
    assert DESCRIPTION not in content
    for name, value in content.items():
        assert isinstance(value, torch.Tensor)
        assert torch.equal(value, mindspore_formula(name, value.shape)), name


@pytest.mark.parametrize("recipe", ["yolox-nano", "yolox-tiny", "yolox-darknet53"])
def test_round_trips_are_exact(tmp_path: Path, recipe: str) -> None:
    weights = random_weights(recipe, classes=3, size=(320, 416))
    path = tmp_path / "weights.ckpt"
    write_mindspore(path, mindyolo_content(weights))
    assert_equal(load_weights(path), weights)


def test_a_description_is_written_only_where_it_is_needed() -> None:
    own = random_weights("yolox-nano", classes=3)
    plain = {k: v for k, v in mindyolo_content(own).items() if k != DESCRIPTION}
    assert DESCRIPTION in mindyolo_content(own)
    theirs = read_mindyolo(plain, where="x.ckpt")
    assert theirs is not None
    assert theirs.spec.names == ("class 0", "class 1", "class 2")
    assert theirs.spec.input.color == "rgb"
    assert mindyolo_content(theirs).keys() == plain.keys()


def test_averages_are_preferred_and_optimizer_state_is_ignored() -> None:
    plain = mindyolo_content(random_weights("yolox-nano", classes=2))
    del plain[DESCRIPTION]
    content = {
        **plain,
        **{f"ema.{k}": v + 1 for k, v in plain.items()},
        **{f"momentum.{k}": v for k, v in plain.items()},
        "updates": torch.tensor(7),
        "learning_rate": torch.tensor(0.1),
    }
    weights = read_mindyolo(content, where="x.ckpt")
    assert weights is not None
    bias = "head.obj_preds.0.bias"
    assert torch.equal(weights.state[bias], plain[f"{PLAIN}24.obj_preds.0.bias"] + 1)


def test_half_precision_becomes_single() -> None:
    plain = mindyolo_content(random_weights("yolox-nano", classes=2))
    halves = {k: v.half() for k, v in plain.items() if isinstance(v, torch.Tensor)}
    weights = read_mindyolo(halves, where="x.ckpt")
    assert weights is not None
    build_network(weights)(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("model.model.3.conv.weight", "model.model.3.conv.weight"),
        ("model.3.conv.weight", "model.model.3.conv.weight"),
        ("momentum.model.model.3.conv.weight", None),
        ("backbone.stem.weight", None),
        ("", None),
    ],
)
def test_names(tag: str, expected: str | None) -> None:
    assert network_name(tag) == expected


def test_incomplete_and_foreign_files() -> None:
    plain = mindyolo_content(random_weights("yolox-nano", classes=2))
    del plain[DESCRIPTION]
    assert read_mindyolo({}, where="x.ckpt") is None
    assert read_mindyolo({"fc.weight": torch.zeros(2, 2)}, where="x.ckpt") is None
    gone = {k: v for k, v in plain.items() if not k.startswith(f"{PLAIN}9.")}
    with pytest.raises(CheckpointError, match=r"x\.ckpt: .*missing: model\.model\.9\."):
        read_mindyolo(gone, where="x.ckpt")
    with pytest.raises(CheckpointError, match="extra"):
        read_mindyolo({**plain, f"{PLAIN}99.conv.weight": torch.zeros(1)}, where="x.ckpt")
    name = f"{PLAIN}0.conv.bn.gamma"
    with pytest.raises(CheckpointError, match="of another shape"):
        read_mindyolo({**plain, name: torch.zeros(3)}, where="x.ckpt")
    with pytest.raises(CheckpointError, match="no YOLOX head"):
        read_mindyolo({f"{PLAIN}0.conv.weight": torch.zeros(8, 3, 3, 3)}, where="x.ckpt")
    for shape in ((), (0, 12, 3, 3), (8,)):
        with pytest.raises(CheckpointError, match="not a convolution's weight"):
            read_mindyolo(
                {**plain, f"{PLAIN}0.conv.conv.weight": torch.zeros(shape)}, where="x.ckpt"
            )


def test_a_bad_description() -> None:
    plain = mindyolo_content(random_weights("yolox-nano", classes=2))
    for text in ("{", "[]", "null"):
        with pytest.raises(CheckpointError, match=r"x\.ckpt"):
            read_mindyolo({**plain, DESCRIPTION: text}, where="x.ckpt")
