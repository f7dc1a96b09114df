"""The comparisons of an export with PyTorch: what they allow and what they find."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from oculox.exporting.parity import (
    TOLERANCES,
    ParityRow,
    check_parity,
    compare_cells,
    compare_detections,
)
from oculox.runtime.exported import InGraphNms
from oculox.runtime.open_model import open_model
from oculox.types import DecodedPredictions, Detections
from oculox.weights import build_network

NMS = InGraphNms(conf=0.1, iou=0.5, max_det=4)


def cells(seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 50, (2, 200, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(8, 40, (2, 200, 2))), -1)
    return DecodedPredictions(
        torch.from_numpy(boxes.astype(np.float32)),
        torch.from_numpy(rng.uniform(0, 1, (2, 200)).astype(np.float32)),
        torch.from_numpy(rng.uniform(0, 1, (2, 200, 3)).astype(np.float32)),
    )


def outputs(decoded):
    return decoded.boxes.numpy().copy(), (decoded.objectness[..., None] * decoded.classes).numpy()


def ok(rows):
    return all(row.ok for row in rows)


@pytest.mark.parametrize("precision", TOLERANCES)
def test_equal_cells_pass(precision):
    decoded = cells()
    rows = compare_cells(decoded, *outputs(decoded), precision=precision, case="batch 2")
    assert ok(rows)
    assert [row.error for row in rows] == pytest.approx([0, 0], abs=1e-6)
    assert {row.case for row in rows} == {"batch 2"}


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("what", ["boxes", "scores", "nan", "shape"])
def test_wrong_cells_are_caught(precision, what):
    decoded = cells()
    boxes, scores = outputs(decoded)
    if what == "boxes":
        boxes += 10
    elif what == "scores":
        scores = scores * 0.5
    elif what == "nan":
        scores[0, scores[0].max(axis=-1).argmax()] = np.nan
    else:
        boxes = boxes[:, :-1]
    assert not ok(compare_cells(decoded, boxes, scores, precision=precision, case=""))


def test_float32_bounds_every_cell():
    decoded = cells()
    boxes, scores = outputs(decoded)
    worst = scores[1].max(axis=-1).argmin()
    scores[1, worst] += 0.01
    assert not ok(compare_cells(decoded, boxes, scores, precision="fp32", case=""))
    assert ok(compare_cells(decoded, boxes, scores, precision="int8", case=""))


def found(*rows):
    """Detections from (x, score) or (x, score, class): boxes of 10 x 10 at (x, 0)."""
    if not rows:
        return [Detections.empty()]
    xs = np.array([row[0] for row in rows], np.float32)
    boxes = np.stack((xs, np.zeros_like(xs), xs + 10, np.full_like(xs, 10)), -1)
    scores = np.array([row[1] for row in rows], np.float32)
    classes = np.array([row[2] if len(row) > 2 else 0 for row in rows], np.int64)
    return [Detections(boxes, scores, classes)]


def compare(a, b, precision="fp32"):
    return compare_detections(a, b, nms=NMS, precision=precision, case="")


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (found(), found()),
        (found((0, 0.9), (40, 0.8)), found((0, 0.9), (40, 0.8))),
        # A tie: either of two overlapping boxes may have suppressed the other.
        (found((0, 0.9), (40, 0.8), (80, 0.7)), found((0, 0.9), (40, 0.8), (82, 0.7))),
        # One box on the threshold.
        (found((0, 0.9), (40, 0.1)), found((0, 0.9))),
        # A tie for the last place of a full list.
        (
            found((0, 0.9), (20, 0.8), (40, 0.7), (60, 0.6)),
            found((0, 0.9), (20, 0.8), (40, 0.7), (80, 0.6)),
        ),
    ],
)
def test_the_same_detections_up_to_ties_pass(expected, actual):
    assert ok(compare(expected, actual))
    assert ok(compare(actual, expected))


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (found((0, 0.9)), found()),
        (found((0, 0.9), (40, 0.8)), found((0, 0.9))),
        (found((0, 0.9, 0)), found((0, 0.9, 1))),
        (found((0, 0.9)), found((0, 0.8))),
        (found((0, 0.9), (40, 0.8)), found((2, 0.9), (42, 0.8))),
        # Suppressed by a weaker box: no explanation.
        (found((0, 0.9)), found((3, 0.5))),
    ],
)
def test_other_detections_are_caught(expected, actual):
    assert not ok(compare(expected, actual))
    assert not ok(compare(actual, expected))


@pytest.mark.parametrize("preprocess", [False, True])
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_a_file_whose_nms_lets_nothing_pass_is_compared(exports, lively_weights, kind, preprocess):
    """Before NMS and after it: the sample images give no boxes."""
    pytest.importorskip("onnxruntime" if kind == "onnx" else kind)
    options = {"format": kind, "nms": InGraphNms(conf=0.97), "preprocess": preprocess}
    backend = open_model(exports(**options).path)
    network = build_network(lively_weights)
    rows = check_parity(backend, network)
    assert ok(rows)
    assert {row.compared for row in rows if "counterpart" in row.quantity} == {0}
    assert min(row.compared for row in rows if row.case == "NMS alone") > 10
    other = copy.deepcopy(network)
    for layer in other.head.reg_preds:
        layer.bias.data += 0.5
    assert not ok(check_parity(backend, other))
    # NMS of the file is not what its metadata says.
    right = backend.metadata
    for iou in (0.1, 1.0):
        nms = dataclasses.replace(right.nms, iou=iou)
        backend.metadata = dataclasses.replace(right, nms=nms)
        assert {row.case for row in check_parity(backend, network) if not row.ok} == {"NMS alone"}
    backend.metadata, backend.cut = right, None
    assert [row.case for row in check_parity(backend, network) if not row.ok] == ["all"]


def test_an_error_that_is_no_number_fails():
    assert not ParityRow(case="", quantity="", error=float("nan"), tolerance=1).ok
