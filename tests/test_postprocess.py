"""From predictions to detections, against the official post-processing."""

import math

import numpy as np
import pytest
import torch

from oculox.errors import UsageError
from oculox.ops.boxes import cxcywh_to_xyxy
from oculox.postprocess import DetectSettings, decode, select_detections
from oculox.types import DecodedPredictions, RawPredictions


def make_decoded(rows, *, classes=3):
    """One image; a row is x1, y1, x2, y2, objectness, class, class probability."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 7)
    probabilities = torch.full((len(table), classes), 0.01)
    if len(table):
        probabilities.scatter_(1, table[:, 5:6].long(), table[:, 6:7])
    return DecodedPredictions(table[None, :, :4], table[None, :, 4], probabilities[None])


SETTINGS = DetectSettings(conf=0.1, iou=0.5)
ROWS = [
    (0, 0, 10, 10, 0.9, 0, 0.5),
    (1, 0, 11, 10, 0.9, 1, 0.9),
    (0, 1, 10, 11, 0.8, 1, 0.8),
    (50, 50, 60, 60, 0.7, 2, 0.7),
    (90, 50, 99, 60, 0.1, 2, 0.1),
]


@pytest.mark.parametrize(
    ("name", "conf", "iou", "agnostic_nms"),
    [("eval", 0.01, 0.65, False), ("demo", 0.3, 0.45, False), ("agnostic", 0.3, 0.45, True)],
)
def test_official_detections(shared, name, conf, iou, agnostic_nms):
    golden = np.load(shared / "golden/postprocess.npz")
    pred = torch.from_numpy(golden["pred"])
    found = select_detections(
        DecodedPredictions(cxcywh_to_xyxy(pred[..., :4]), pred[..., 4], pred[..., 5:]),
        DetectSettings(conf=conf, iou=iou, max_det=2000, agnostic_nms=agnostic_nms),
    )
    assert len(found) == 2
    for i, detections in enumerate(found):
        rows = golden[f"{name}_{i}"]
        scores = rows[:, 4] * rows[:, 5]
        order = np.lexsort((rows[:, 0], -scores))
        ours = np.lexsort((detections.xyxy[:, 0], -detections.scores))
        assert (np.diff(detections.scores) <= 0).all()
        np.testing.assert_array_equal(detections.class_ids[ours], rows[order, 6])
        np.testing.assert_allclose(detections.xyxy[ours], rows[order, :4], rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(detections.scores[ours], scores[order], rtol=1e-6)


def test_best_class_threshold_and_NMS():
    (found,) = select_detections(make_decoded(ROWS), SETTINGS, names=("a", "b", "c"))
    np.testing.assert_allclose(found.scores, [0.81, 0.49, 0.45], rtol=1e-6)
    assert found.class_ids.tolist() == [1, 2, 0]
    assert found.xyxy.tolist() == [[1, 0, 11, 10], [50, 50, 60, 60], [0, 0, 10, 10]]
    assert found.names == ("a", "b", "c")
    assert (found.xyxy.dtype, found.class_ids.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"agnostic_nms": True}, [1, 2]),
        ({"class_ids": [0, 2]}, [2, 0]),
        ({"class_ids": []}, []),
        ({"max_det": 1}, [1]),
        ({"conf": 0.0}, [1, 2, 0, 2]),
        ({"conf": 1.0}, []),
        ({"iou": 1.0}, [1, 1, 2, 0]),
    ],
)
def test_options(options, expected):
    (found,) = select_detections(
        make_decoded(ROWS), DetectSettings(**{"conf": 0.1, "iou": 0.5, **options})
    )
    assert found.class_ids.tolist() == expected


def test_a_score_on_the_threshold_stays():
    (found,) = select_detections(
        make_decoded([(0, 0, 9, 9, 0.5, 1, 0.5)]), DetectSettings(conf=0.25, iou=0.5)
    )
    assert found.scores.tolist() == [0.25]


def test_nothing_to_find():
    (found,) = select_detections(make_decoded([]), DetectSettings(conf=0.0, iou=0.5))
    assert len(found) == 0
    nothing = DecodedPredictions(torch.zeros(0, 9, 4), torch.zeros(0, 9), torch.zeros(0, 9, 3))
    assert select_detections(nothing, SETTINGS) == []


def test_images_do_not_mix():
    one = make_decoded(ROWS)
    two = make_decoded([(0, 0, 10, 10, 0.1, 0, 0.1)] * 4 + [(0, 0, 5, 5, 1, 2, 1)])
    both = DecodedPredictions(*(torch.cat(t) for t in zip(one, two, strict=True)))
    first, second = select_detections(both, SETTINGS)
    assert first.class_ids.tolist() == [1, 2, 0]
    assert second.class_ids.tolist() == [2]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["boxes", "objectness", "classes"])
def test_predictions_that_are_not_finite_do_not_survive(field, value):
    decoded = make_decoded(ROWS)
    getattr(decoded, field)[0, 1] = value
    (found,) = select_detections(decoded, SETTINGS)
    assert found.class_ids.tolist() == [1, 2, 0]
    np.testing.assert_allclose(found.scores, [0.64, 0.49, 0.45], rtol=1e-6)
    assert np.isfinite(found.xyxy).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conf": 1.5}, r"conf must be between 0 and 1, got 1\.5"),
        ({"iou": -0.1}, r"iou must be between 0 and 1, got -0\.1"),
        ({"iou": math.nan}, r"iou must be between 0 and 1, got nan"),
        ({"max_det": 0}, r"max_det must be a whole number from 1 on, got 0"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=message):
        select_detections(
            make_decoded(ROWS), DetectSettings(**{"conf": 0.1, "iou": 0.5, **options})
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_decode(dtype):
    deltas = torch.zeros(2, 5, 4)
    deltas[1, 4] = torch.tensor([0.5, 0.5, math.log(2), 0])
    raw = RawPredictions(
        deltas.to(dtype),
        torch.zeros(2, 5, dtype=dtype),
        torch.full((2, 5, 3), -20.0, dtype=dtype),
        ((2, 2), (1, 1)),
    )
    decoded = decode(raw, (8, 16))
    assert all(t.dtype == torch.float32 for t in decoded)
    assert decoded.boxes[0, 3].tolist() == [4, 4, 12, 12]
    assert decoded.boxes[1, 4].tolist() == pytest.approx([-8, 0, 24, 16], abs=0.1)
    assert (decoded.objectness == 0.5).all()
    assert decoded.classes.shape == (2, 5, 3)
    assert decoded.classes.max() < 1e-8
