"""Guards the parameter names of every foreign layout, and that weights land where they belong.

A digest covers names and shapes of all tensors. A forward through a small network, whose formula
weights depend on the foreign names, finds two names that were exchanged.
"""

import hashlib
import json
from functools import partial

import pytest
import torch
from scenes import as_input, small_images

from formula import decoded_output, mindspore_formula, official_formula, state_of
from golden import differences, golden, sampled
from oculox.config import load_config, recipe_names
from oculox.models import build_model
from oculox.weights import build_network
from oculox.weights.interop.megvii import official_names, read_official
from oculox.weights.interop.mindyolo import mindyolo_names, read_mindyolo
from oculox.weights.interop.modelzoo import modelzoo_names
from oculox.weights.interop.openmmlab import mmdetection_names, mmyolo_names, read_openmmlab

TOPIC = "names"
CSP = [name for name in recipe_names() if name != "yolox-darknet53"]
# Name map of a backbone, and the networks that the project has.
LAYOUTS = {
    "official": (official_names, recipe_names()),
    "mindyolo": (mindyolo_names, recipe_names()),
    "modelzoo": (modelzoo_names, ("yolox-darknet53", "yolox-x")),
    "mmdetection": (lambda backbone: mmdetection_names, CSP),
    # MMYOLO's nano is another network; the digests are those of its own state dicts.
    "mmyolo": (lambda backbone: mmyolo_names, CSP[1:]),
}
CASES = [(layout, recipe) for layout, (_, recipes) in LAYOUTS.items() for recipe in recipes]
READERS = {
    "official": read_official,
    "mindyolo": read_mindyolo,
    "mmdetection": partial(read_openmmlab, project="mmdetection"),
    "mmyolo": partial(read_openmmlab, project="mmyolo"),
}


def shapes_of(layout, recipe):
    """Foreign name -> shape, as our name map has it."""
    config = load_config(recipe).model
    with torch.device("meta"):
        state = build_model(config, num_classes=80).state_dict()
    rename = LAYOUTS[layout][0](config.backbone)
    return {
        rename(name): list(tensor.shape)
        for name, tensor in state.items()
        # MindSpore's batch norms count nothing.
        if layout in ("official", "mmdetection", "mmyolo")
        or not name.endswith("num_batches_tracked")
    }


def digest(shapes):
    lines = sorted(f"{name} {list(shape)}" for name, shape in shapes.items())
    return {"tensors": len(lines), "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest()}


def forward(layout):
    formula = mindspore_formula if layout == "mindyolo" else official_formula
    smallest = LAYOUTS[layout][1][0]
    state = {k: v.float() for k, v in state_of(shapes_of(layout, smallest), formula).items()}
    network = build_network(READERS[layout](state, where="formula")).double()
    return sampled(decoded_output(network, as_input(small_images()[:2]).double() / 255), count=40)


def compute_all():
    digests = {layout: {} for layout in LAYOUTS}
    for layout, recipe in CASES:
        digests[layout][recipe] = digest(shapes_of(layout, recipe))
    return {"digests": digests, "forward": {layout: forward(layout) for layout in READERS}}


@pytest.mark.parametrize(("layout", "recipe"), CASES)
def test_names(layout, recipe):
    assert digest(shapes_of(layout, recipe)) == golden(TOPIC)["digests"][layout][recipe]


@pytest.mark.parametrize("layout", READERS)
def test_forward_through_foreign_names(layout):
    assert (
        differences(forward(layout), golden(TOPIC)["forward"][layout], rel=1e-6, absolute=1e-6)
        == []
    )


@pytest.mark.parametrize(
    ("layout", "file", "names"),
    [
        ("official", "megvii_state_dicts", {"yolox-darknet53": "yolov3"}),
        ("mindyolo", "mindyolo_parameters", {}),
        ("modelzoo", "modelzoo_parameters", {r: r.replace("-", "_") for r in recipe_names()}),
    ],
)
def test_the_projects_have_these_names(shared, layout, file, names):
    projects = json.loads((shared / f"golden/{file}.json").read_text())
    for recipe, expected in golden(TOPIC)["digests"][layout].items():
        assert digest(projects[names.get(recipe, recipe)]) == expected
