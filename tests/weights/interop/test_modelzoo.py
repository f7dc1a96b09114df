import json
from pathlib import Path

import numpy as np
import pytest
import torch

from formula import decoded_output, mindspore_formula, state_of
from oculox.config import load_config
from oculox.errors import CheckpointError, UsageError
from oculox.models import build_model
from oculox.weights import build_network, load_weights
from oculox.weights.interop.mindspore_file import read_mindspore, write_mindspore
from oculox.weights.interop.modelzoo import (
    modelzoo_content,
    modelzoo_names,
    network_name,
    read_modelzoo,
)
from specs import assert_equal, random_weights

RECIPES = {"yolox_darknet53": "yolox-darknet53", "yolox_x": "yolox-x"}


@pytest.fixture(scope="module")
def parameters(shared: Path) -> dict[str, dict[str, list[int]]]:
    return json.loads((shared / "golden/modelzoo_parameters.json").read_text())


@pytest.mark.parametrize("network", RECIPES)
def test_every_parameter_maps(parameters: dict[str, dict[str, list[int]]], network: str) -> None:
    config = load_config(RECIPES[network]).model
    with torch.device("meta"):
        own = build_model(config, num_classes=80).state_dict()
    to_theirs = modelzoo_names(config.backbone)
    mapped = {
        to_theirs(name): list(value.shape)
        for name, value in own.items()
        if not name.endswith("num_batches_tracked")
    }
    assert mapped == parameters[network]


@pytest.mark.parametrize(
    "network", ["yolox_darknet53", pytest.param("yolox_x", marks=pytest.mark.slow)]
)
def test_forward_of_the_reference(
    shared: Path, parameters: dict[str, dict[str, list[int]]], network: str
) -> None:
    state = state_of(parameters[network], mindspore_formula, norm_scale=0.7, predictor_scale=0.1)
    weights = read_modelzoo(state, where="x.ckpt")
    assert weights is not None
    recipe = load_config(RECIPES[network])
    assert weights.spec.model == recipe.model.model_copy(update={"num_classes": 80})
    assert weights.spec.input == recipe.input
    small = np.random.RandomState(0).uniform(0, 1, (1, 3, 160, 160)).astype(np.float32)
    images = torch.from_numpy(small.repeat(4, axis=2).repeat(4, axis=3))
    found = decoded_output(build_network(weights), images)[:, ::7]
    expected = np.load(shared / f"golden/modelzoo_{network}_forward.npz")["out_every_7th"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    weights = random_weights("yolox-darknet53", classes=2, size=(320, 320))
    path = tmp_path / "weights.ckpt"
    write_mindspore(path, modelzoo_content(weights))
    assert_equal(load_weights(path), weights)
    tensors = [k for k, v in read_mindspore(path).items() if isinstance(v, torch.Tensor)]
    # The Model Zoo's own loader reads nothing else.
    assert all(name.startswith("network.") for name in tensors)


def test_names_as_training_writes_them() -> None:
    content = modelzoo_content(random_weights("yolox-darknet53", classes=2))
    plain = {network_name(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
    for prefix in ("", "network.", "network.network."):
        assert read_modelzoo({prefix + str(k): v for k, v in plain.items()}, where="x") is not None
    averaged = {
        **{f"network.{k}": v for k, v in plain.items()},
        **{f"ema.network.{k}": v + 1 for k, v in plain.items()},
        "best_result": torch.tensor(0.4),
    }
    weights = read_modelzoo(averaged, where="x.ckpt")
    assert weights is not None
    assert torch.equal(weights.state["head.obj_preds.2.bias"], plain["head_s.obj_preds.bias"] + 1)


def test_networks_that_the_model_zoo_lacks() -> None:
    with pytest.raises(UsageError, match="no yolox-nano, only yolox-darknet53 and yolox-x"):
        modelzoo_content(random_weights("yolox-nano", classes=2))


def test_incomplete_and_foreign_files() -> None:
    assert read_modelzoo({}, where="x.ckpt") is None
    assert read_modelzoo({"backbone.conv.weight": torch.zeros(1)}, where="x.ckpt") is None
    content = modelzoo_content(random_weights("yolox-darknet53", classes=2))
    gone = {k: v for k, v in content.items() if "dark4" not in k}
    with pytest.raises(CheckpointError, match=r"x\.ckpt: .*missing: backbone\.backbone\.dark4"):
        read_modelzoo(gone, where="x.ckpt")
    stem = "network.backbone.backbone.stem.0.conv.weight"
    with pytest.raises(CheckpointError, match="stem"):
        read_modelzoo({k: v for k, v in content.items() if k != stem}, where="x.ckpt")
