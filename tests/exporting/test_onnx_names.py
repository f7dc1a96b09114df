"""Names inside ONNX files."""

import dataclasses

import pytest
import torch

from oculox.exporting.job import ExportOptions
from oculox.exporting.run import export_model

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")


def test_convolutions_that_share_a_weight_have_names_of_their_own(lively_weights, tmp_path):
    # The converter merges equal tensors, as those of predictors that were set to zero.
    state = {
        key: torch.zeros_like(value) if key.startswith("head.cls_preds.") else value
        for key, value in lively_weights.state.items()
    }
    path = tmp_path / "model.onnx"
    export_model(
        dataclasses.replace(lively_weights, state=state), ExportOptions(format="onnx"), path
    )
    names = [node.name for node in onnx.load(path).graph.node]
    assert len(names) == len(set(names))
    assert sum("cls_preds" in name for name in names if "decoding" not in name) == 3
