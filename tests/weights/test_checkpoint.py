"""Oculox's own files: what is written is read back, bit by bit."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from oculox.errors import CheckpointError
from oculox.weights import load_weights
from oculox.weights.checkpoint import (
    describe,
    load_training_state,
    save_checkpoint,
    save_safetensors,
    training_config,
)
from specs import with_spec

SAVERS = {".pt": save_checkpoint, ".safetensors": save_safetensors}


@pytest.fixture(params=sorted(SAVERS))
def saved(request, tmp_path):
    """Saves and loads again."""

    def there_and_back(weights):
        path = tmp_path / f"weights{request.param}"
        SAVERS[request.param](path, weights)
        return load_weights(path)

    return there_and_back


def test_a_round_trip_is_exact(saved, eager_weights):
    awkward = dict(eager_weights.state)
    key = "head.obj_preds.0.bias"
    awkward[key] = torch.tensor([float("nan")])
    weights = dataclasses.replace(eager_weights, state=awkward)
    loaded = saved(weights)
    assert dataclasses.replace(loaded, state={}) == dataclasses.replace(weights, state={})
    # A .safetensors keeps its tensors by name; what counts is that none differs.
    assert loaded.state.keys() == awkward.keys()
    for name, value in awkward.items():
        assert loaded.state[name].dtype == value.dtype
        assert torch.equal(loaded.state[name].nan_to_num(7), value.nan_to_num(7))


@pytest.mark.parametrize(
    "change",
    [
        {"names": ("日本", "", "a,b", " c", "c", "c"), "category_ids": None},
        {"category_ids": (0, 5, 90, 91, 2**40, 3)},
    ],
)
def test_descriptions_survive(saved, eager_weights, change):
    weights = dataclasses.replace(with_spec(eager_weights, **change), origin="mindyolo")
    assert describe(saved(weights)) == describe(weights)


def test_preprocessing_survives(saved, eager_weights):
    update = {"color": "rgb", "pixel_max": 1, "placement": "center", "size": (96, 160)}
    inputs = eager_weights.spec.input.model_copy(update=update)
    assert saved(with_spec(eager_weights, input=inputs)).spec.input == inputs


def test_tensors_that_share_or_skip_memory_are_written_whole(saved, eager_weights):
    state = dict(eager_weights.state)
    shape = state["backbone.stem.conv.conv.weight"].shape
    state["backbone.stem.conv.conv.weight"] = torch.randn(shape).to(
        memory_format=torch.channels_last
    )
    loaded = saved(dataclasses.replace(eager_weights, state=state))
    assert all(torch.equal(loaded.state[key], value) for key, value in state.items())


def test_training_state(tmp_path, eager_weights):
    path = tmp_path / "last.pt"
    training = {"config": {"train": {"batch": 4}}, "raw": {"w": torch.ones(2)}}
    save_checkpoint(path, eager_weights, training=training)
    weights, loaded = load_training_state(path)
    assert describe(weights) == describe(eager_weights)
    assert torch.equal(loaded["raw"]["w"], torch.ones(2))
    assert training_config(path) == {"train": {"batch": 4}}


def test_without_training_state(eager_pt, tmp_path):
    with pytest.raises(CheckpointError, match=r"eager\.pt: holds no training state"):
        load_training_state(eager_pt)
    assert training_config(eager_pt) is None
    torch.save({"model": {}}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="holds no training state"):
        load_training_state(tmp_path / "foreign.pt")
    assert training_config(tmp_path / "foreign.pt") is None


def test_a_checkpoint_holds_nothing_but_plain_values_and_tensors(eager_pt):
    content = torch.load(eager_pt, weights_only=True)
    assert sorted(content) == ["format", "meta", "state", "version"]
    json.dumps(content["meta"])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(version=2), "format version 2; this Oculox reads up to 1"),
        (lambda c: c.update(version="1"), "format version '1'"),
        (lambda c: c.pop("version"), "format version None"),
        (lambda c: c.pop("state"), "'state' is missing"),
        (lambda c: c["state"].update(x=3), "'x' in its weights is not a named tensor"),
        (lambda c: c["state"].update({3: torch.zeros(1)}), "'3' in its weights is not a named"),
        (lambda c: c.pop("meta"), "holds no description"),
        (lambda c: c["meta"].pop("names"), "description is incomplete: 'names'"),
        (lambda c: c["meta"].update(names=None), "description is incomplete"),
        (lambda c: c["meta"].update(names=["a"]), "bad.pt: .*expected 6 class names, got 1"),
        (lambda c: c["meta"].update(category_ids=["x"]), "description is incomplete"),
        (lambda c: c["meta"]["model"].update(backbone="resnet"), "description is incomplete"),
        (lambda c: c["meta"]["input"].update(size=[1, 2]), "description is incomplete"),
        (lambda c: c["meta"]["model"].update(surprise=1), "description is incomplete"),
    ],
)
def test_incomplete_checkpoints(eager_pt, tmp_path, edit, message):
    content = torch.load(eager_pt, weights_only=True)
    edit(content)
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(tmp_path / "bad.pt")
    assert str(caught.value).startswith(f"{tmp_path / 'bad.pt'}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.pop("format"), "not one of Oculox's"),
        (lambda m: m.update(version="9"), "format version 9"),
        (lambda m: m.update(version="one"), "damaged"),
        (lambda m: m.pop("meta"), "damaged"),
        (lambda m: m.update(meta="{"), "damaged"),
        (lambda m: m.update(meta="{}"), "description is incomplete"),
    ],
)
def test_incomplete_safetensors(eager_weights, tmp_path, edit, message):
    path = tmp_path / "good.safetensors"
    save_safetensors(path, eager_weights)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    del metadata["sha256"]
    edit(metadata)
    bad = tmp_path / "bad.safetensors"
    save_file(dict(eager_weights.state), bad, metadata)
    with pytest.raises(CheckpointError, match=message):
        load_weights(bad)


@pytest.mark.parametrize("kept", [0, 7, 1000, 0.5, 0.999])
def test_truncated_safetensors(eager_weights, tmp_path, kept):
    path = tmp_path / "w.safetensors"
    save_safetensors(path, eager_weights)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match="damaged, or not a safetensors file"):
        load_weights(path)


def test_a_flipped_bit_of_a_safetensors_is_refused(eager_weights, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_safetensors(path, eager_weights)
    good = path.read_bytes()
    for position in (20, 300, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(CheckpointError, match="damaged"):
            load_weights(path)
