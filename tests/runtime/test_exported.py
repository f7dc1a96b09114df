import dataclasses
import json

import pytest

from oculox.config.schema import InputConfig, ModelConfig
from oculox.errors import CheckpointError
from oculox.runtime.exported import ExportMetadata, InGraphNms
from oculox.types import ModelSpec

SPEC = ModelSpec(
    model=ModelConfig(num_classes=3),
    input=InputConfig(size=(416, 640), color="rgb", pixel_max=1, placement="center"),
    names=("a", 'b "quoted"', "ü"),
    category_ids=(1, 5, 9),
    dynamic_size=False,
    batch=1,
)
PLAIN = ExportMetadata(
    spec=SPEC,
    format="onnx",
    oculox="1.2",
    license="Apache-2.0",
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"spec": dataclasses.replace(SPEC, batch=None, dynamic_size=True, category_ids=None)},
        {"nms": InGraphNms(conf=0.25, iou=0.5, max_det=7), "precision": "int8"},
        {"preprocess": True},
    ],
)
def test_metadata_survives_its_text(changes):
    metadata = dataclasses.replace(PLAIN, **changes)
    assert ExportMetadata.from_json(metadata.to_json(), where="m") == metadata
    assert metadata.spec.num_classes == 3
    assert metadata.spec.input.size == (416, 640)


def test_names_of_inputs_and_outputs():
    assert PLAIN.input_name == "images"
    assert PLAIN.output_names == ("boxes", "scores")
    whole = dataclasses.replace(PLAIN, preprocess=True, nms=InGraphNms())
    assert whole.input_name == "raw_images"
    assert whole.output_names == ("boxes", "scores", "classes", "counts")
    # The graph itself turns BGR images into the network's colours.
    assert whole.fed_spec.input.color == "bgr"
    assert json.loads(whole.to_json())["outputs"] == list(whole.output_names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "holds no metadata of Oculox"),
        ("", "damaged"),
        ("[]", "damaged"),
        ("{}", "damaged"),
        (PLAIN.to_json().replace('"strides"', '"other"'), "description is incomplete"),
        (PLAIN.to_json().replace('"metadata_version": 2', '"metadata_version": 1'), "again"),
    ],
)
def test_metadata_that_cannot_be_used(text, message):
    with pytest.raises(CheckpointError, match=rf"m\.onnx: .*{message}"):
        ExportMetadata.from_json(text, where="m.onnx")
