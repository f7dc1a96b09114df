import json
from pathlib import Path

import pytest
import torch

from oculox.config import load_config
from oculox.errors import CheckpointError, OculoxError, UsageError
from oculox.models import build_model
from oculox.weights import Weights, build_network, load_weights
from oculox.weights.checkpoint import save_checkpoint
from oculox.weights.convert import (
    LAYOUTS,
    adapt_to_input,
    convert_weights,
    customary_input_of,
    describe_weights,
)
from oculox.weights.interop.mindspore_file import read_mindspore
from oculox.weights.interop.names import check_state
from specs import assert_equal, random_weights

SUFFIXES = tuple(LAYOUTS)
CASES = [
    ("yolox-nano", 80, {}),
    ("yolox-tiny", 1, {"size": (256, 320), "color": "rgb", "pixel_max": 1}),
    pytest.param(
        *("yolox-darknet53", 3, {"placement": "center", "pad_value": 0}), marks=pytest.mark.slow
    ),
]


def saved(weights: Weights, folder: Path, name: str = "own.pt") -> Path:
    save_checkpoint(folder / name, weights)
    return folder / name


@pytest.mark.parametrize(("recipe", "classes", "changes"), CASES)
def test_a_journey_through_every_format_changes_nothing(
    tmp_path: Path, recipe: str, classes: int, changes: dict[str, object]
) -> None:
    weights = random_weights(recipe, classes=classes, **changes)
    at = saved(weights, tmp_path)
    steps = [*((suffix, None) for suffix in SUFFIXES), (".ckpt", "mindyolo"), (".pt", None)]
    if recipe == "yolox-darknet53":
        steps.insert(3, (".ckpt", "modelzoo"))
    for i, (suffix, layout) in enumerate(steps):
        target = tmp_path / f"step{i}{suffix}"
        convert_weights(at, target, layout=layout)
        assert_equal(load_weights(target), weights)
        at.unlink()
        at = target


def test_official_and_mindyolo_files_without_extras(shared: Path, tmp_path: Path) -> None:
    official = shared / "weights/yolox_nano.pth"
    convert_weights(official, tmp_path / "again.pth")
    a, b = (torch.load(p, weights_only=True) for p in (official, tmp_path / "again.pth"))
    assert b.keys() == {"start_epoch", "model", "best_ap"}
    assert {k: v.shape for k, v in a["model"].items()} == {
        k: v.shape for k, v in b["model"].items()
    }
    assert all(torch.equal(v, b["model"][k]) for k, v in a["model"].items())
    mindyolo = shared / "weights/mindyolo_yolox_nano_formula.ckpt"
    convert_weights(mindyolo, tmp_path / "a.pt")
    convert_weights(tmp_path / "a.pt", tmp_path / "again.ckpt")
    a, b = read_mindspore(mindyolo), read_mindspore(tmp_path / "again.ckpt")
    assert a.keys() == b.keys()
    assert all(torch.equal(v, b[k]) for k, v in a.items())


def test_every_official_state_dict_maps(shared: Path) -> None:
    from oculox.weights.interop.megvii import read_official

    shapes = json.loads((shared / "golden/megvii_state_dicts.json").read_text())
    for name, tensors in shapes.items():
        recipe = "yolox-darknet53" if name == "yolov3" else name
        state = {k: torch.empty(shape, device="meta") for k, shape in tensors.items()}
        weights = read_official(state, where=name)
        with torch.device("meta"):
            own = build_model(load_config(recipe).model, num_classes=80).state_dict()
        assert weights.spec.model.name == recipe
        check_state(own, weights.state, where=name)


@pytest.mark.parametrize(
    "recipe", ["yolox-nano", pytest.param("yolox-darknet53", marks=pytest.mark.slow)]
)
def test_adapted_weights_answer_alike(tmp_path: Path, recipe: str) -> None:
    weights = random_weights(recipe, classes=2)
    target = tmp_path / "w.ckpt"
    done = convert_weights(saved(weights, tmp_path), target, adapt_input=True)
    assert done.notes == ()
    adapted = load_weights(target)
    assert (adapted.spec.input.color, adapted.spec.input.pixel_max) == ("rgb", 1)
    assert adapted.spec.input.placement == "center"
    images = torch.rand(1, 3, 64, 96) * 255
    with torch.no_grad():
        expected = build_network(weights)(images)
        found = build_network(adapted)(images.flip(1) / 255)
    for a, b in zip(found[:3], expected[:3], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_adapting_twice_comes_back_and_nothing_changes_in_place() -> None:
    weights = random_weights("yolox-nano", classes=2)
    before = {k: v.clone() for k, v in weights.state.items()}
    rgb = adapt_to_input(weights, weights.spec.input.model_copy(update={"color": "rgb"}))
    assert_equal(adapt_to_input(rgb, weights.spec.input), weights)
    assert all(torch.equal(v, before[k]) for k, v in weights.state.items())
    assert adapt_to_input(weights, weights.spec.input).state == weights.state


def test_a_note_tells_of_other_pixels(tmp_path: Path) -> None:
    own = saved(random_weights("yolox-nano", classes=2), tmp_path)
    assert convert_weights(own, tmp_path / "a.pth").notes == ()
    (note,) = convert_weights(own, tmp_path / "a.ckpt").notes
    assert "MindYOLO feeds RGB 0-1, centred" in note
    assert "BGR 0-255, top left" in note
    assert "`adapt_input`" in note


def test_a_note_tells_of_fused_norms(shared: Path, tmp_path: Path) -> None:
    done = convert_weights(shared / "weights/yolox_nano.onnx", tmp_path / "a.pt")
    assert "fine-tuning" in done.notes[0]
    assert load_weights(tmp_path / "a.pt").origin == "onnx"


def test_the_layout_of_a_ckpt_follows_the_weights(tmp_path: Path) -> None:
    at = saved(random_weights("yolox-darknet53", classes=2), tmp_path)
    assert convert_weights(at, tmp_path / "a.ckpt").layout == "mindyolo"
    zoo = convert_weights(at, tmp_path / "b.ckpt", layout="modelzoo")
    assert zoo.layout == "modelzoo"
    assert (customary_input_of("modelzoo", zoo.weights.spec.input).color) == "bgr"


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("w.onnx", {}, "oculox export"),
        ("w", {}, r"written as \.pt, \.safetensors, \.pth, \.ckpt"),
        ("w.pt", {"layout": "mindyolo"}, r"the layout of \.pt is oculox"),
        ("w.ckpt", {"layout": "tensorflow"}, "mindyolo or modelzoo"),
        ("own.pt", {}, "`overwrite`"),
        ("w.ckpt", {"layout": "modelzoo"}, "the Model Zoo has no yolox-nano"),
    ],
)
def test_wrong_usage(tmp_path: Path, target: str, options: dict[str, str], message: str) -> None:
    own = saved(random_weights("yolox-nano", classes=2), tmp_path)
    content = own.read_bytes()
    with pytest.raises(UsageError, match=message):
        convert_weights(own, tmp_path / target, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["own.pt"]
    assert own.read_bytes() == content


def test_existing_files_are_replaced_when_asked(tmp_path: Path) -> None:
    own = saved(random_weights("yolox-nano", classes=2), tmp_path)
    convert_weights(own, own, overwrite=True)
    assert len(load_weights(own).spec.names) == 2


@pytest.mark.parametrize("name", ["none.pt", "none.pth", "none.ckpt", "none.onnx", "none"])
def test_missing_sources(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        convert_weights(tmp_path / name, tmp_path / "out.pt")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".ckpt", ".onnx"])
@pytest.mark.parametrize("content", [b"", b"\x0a", b"PK\x03\x04", b"\x80\x02}q", b"text" * 100])
def test_files_of_other_programs(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(OculoxError, match=f"w{suffix}"):
        describe_weights(path)


def test_a_pytorch_file_may_be_called_ckpt(tmp_path: Path) -> None:
    own = random_weights("yolox-nano", classes=2)
    assert_equal(load_weights(saved(own, tmp_path, "own.ckpt")), own)


def test_description(shared: Path) -> None:
    found = describe_weights(shared / "weights/mindyolo_yolox_nano_formula.ckpt")
    assert found["network"] == "yolox-nano"
    assert found["origin"] == "mindyolo"
    assert found["input"]["color"] == "rgb"
    assert len(found["names"]) == 80
    assert round(found["parameters"] / 1e6, 2) == 0.91  # as published
    json.dumps(found)
