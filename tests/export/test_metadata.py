import dataclasses
import json

import pytest

from oculox.errors import CheckpointError
from oculox.runtime.exported import ExportMetadata, InGraphNms
from oculox.types import Preprocessing

PLAIN = ExportMetadata(
    format="onnx",
    model="yolox-s",
    names=("a", 'b "quoted"', "ü"),
    category_ids=(1, 5, 9),
    preprocessing=Preprocessing(color="rgb", pixel_max=1, placement="center"),
    size_hw=(416, 640),
    strides=(8, 16, 32),
    oculox="1.2",
    license="Apache-2.0",
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch": None, "dynamic_size": True, "category_ids": None},
        {"nms": InGraphNms(conf=0.25, iou=0.5, max_det=7), "precision": "int8"},
        {"letterbox": True},
    ],
)
def test_metadata_survives_its_text(changes):
    metadata = dataclasses.replace(PLAIN, **changes)
    assert ExportMetadata.from_json(metadata.to_json(), where="m") == metadata
    assert metadata.spec.num_classes == 3
    assert metadata.spec.size_hw == (416, 640)


def test_names_of_inputs_and_outputs():
    assert PLAIN.input_name == "images"
    assert PLAIN.output_names == ("boxes", "scores")
    whole = dataclasses.replace(PLAIN, letterbox=True, nms=InGraphNms())
    assert whole.input_name == "images"
    assert whole.output_names == ("boxes", "scores", "classes", "counts")
    # The graph itself turns BGR images into the network's colours.
    assert whole.spec.preprocessing.color == "bgr"
    assert json.loads(whole.to_json())["outputs"] == list(whole.output_names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "holds no metadata of Oculox"),
        ("", "damaged"),
        ("[]", "damaged"),
        ("{}", "damaged"),
        (PLAIN.to_json().replace('"strides"', '"other"'), "damaged .*strides"),
        (PLAIN.to_json().replace('"metadata_version": 1', '"metadata_version": 2'), "newer one"),
    ],
)
def test_metadata_that_cannot_be_used(text, message):
    with pytest.raises(CheckpointError, match=rf"m\.onnx: .*{message}"):
        ExportMetadata.from_json(text, where="m.onnx")
