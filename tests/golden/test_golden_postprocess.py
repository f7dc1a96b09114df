"""Guards the way from predictions to detections: scores, thresholds, NMS, order."""

import numpy as np
import pytest
import torch

from golden import differences, golden, plain
from oculox.postprocess import DetectSettings, select_detections
from oculox.types import DecodedPredictions

TOPIC = "postprocess"
SETTINGS = {
    "eval": {"conf": 0.01, "iou": 0.65},
    "demo": {"conf": 0.3, "iou": 0.45},
    "agnostic": {"conf": 0.3, "iou": 0.45, "agnostic_nms": True},
}


def predictions():
    """Two images of 300 boxes in clusters, five classes, scores of every height."""
    rng = np.random.RandomState(3)
    centers = rng.uniform(40, 280, (2, 12, 2))[:, rng.randint(0, 12, 300)]
    centers = centers + rng.standard_normal((2, 300, 2)) * 6
    sides = rng.uniform(30, 60, (2, 300, 2))
    boxes = np.concatenate((centers - sides / 2, centers + sides / 2), -1)
    objectness = rng.uniform(0, 1, (2, 300)) ** 2
    classes = rng.uniform(0, 1, (2, 300, 5))
    return DecodedPredictions(
        *(torch.from_numpy(a.astype(np.float32)) for a in (boxes, objectness, classes))
    )


def compute(name, *, shift=0.0):
    """The places of the kept predictions, best first, and their scores and classes."""
    options = SETTINGS[name]
    decoded = predictions()
    settings = DetectSettings(**{**options, "iou": options["iou"] + shift})
    rows = []
    for i, found in enumerate(select_detections(decoded, settings)):
        same = (torch.from_numpy(found.xyxy)[:, None] == decoded.boxes[i]).all(-1)
        assert (same.sum(1) == 1).all(), "a detection's box is no prediction's"
        rows.append(
            {
                "places": same.int().argmax(1).tolist(),
                "classes": found.class_ids.tolist(),
                "scores": plain(found.scores, digits=6),
            }
        )
    return rows


def compute_all():
    for name in SETTINGS:
        for shift in (-1e-5, 1e-5):
            assert compute(name, shift=shift) == compute(name), "rounding decides: other seed"
    return {name: compute(name) for name in SETTINGS}


@pytest.mark.parametrize("name", SETTINGS)
def test_detections(name):
    expected = golden(TOPIC)[name]
    assert 20 < sum(len(image["places"]) for image in expected) < 500
    assert differences(compute(name), expected, rel=1e-5) == []
