"""The hand-written ONNX parts against the Python that they stand for."""

import numpy as np
import pytest
import torch

from oculox.config.schema import InputConfig
from oculox.data.preprocess import apply_letterbox, letterbox_geometry
from oculox.exporting.onnx_parts import letterbox_part, nms_part
from oculox.postprocess import DetectSettings, select_detections
from oculox.runtime.exported import InGraphNms
from oculox.types import DecodedPredictions

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


def session(text):
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def predictions(batch, cells, classes, *, seed=0, top=1.0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (batch, cells, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(4, 40, (batch, cells, 2))), -1)
    scores = rng.uniform(0, top, (batch, cells, classes))
    return boxes.astype(np.float32), scores.astype(np.float32)


@pytest.mark.parametrize(
    ("batch", "cells", "classes", "nms"),
    [
        (1, 50, 3, InGraphNms(conf=0.5, iou=0.45, max_det=20)),
        (3, 200, 5, InGraphNms(conf=0.3, iou=0.65, max_det=300)),
        (2, 400, 1, InGraphNms(conf=0.01, iou=0.3, max_det=10)),
        (2, 1, 2, InGraphNms(conf=0.0, iou=0.5, max_det=4)),
    ],
)
def test_NMS_agrees_with_the_post_processing(batch, cells, classes, nms):
    boxes, scores = predictions(batch, cells, classes)
    run = session(nms_part(nms, opset=18, num_classes=classes))
    found = run.run(None, {"all_boxes": boxes, "all_scores": scores})
    decoded = DecodedPredictions(
        torch.from_numpy(boxes), torch.ones(batch, cells), torch.from_numpy(scores)
    )
    expected = select_detections(
        decoded, DetectSettings(conf=nms.conf, iou=nms.iou, max_det=nms.max_det)
    )
    assert [o.shape for o in found] == [
        (batch, nms.max_det, 4),
        (batch, nms.max_det),
        (batch, nms.max_det),
        (batch,),
    ]
    for e, b, s, c, n in zip(expected, *found, strict=True):
        assert n == len(e) > 0
        np.testing.assert_array_equal(b[:n], e.xyxy)
        np.testing.assert_array_equal(s[:n], e.scores)
        np.testing.assert_array_equal(c[:n], e.class_ids)
        assert not b[n:].any()
        assert not s[n:].any()
        assert not c[n:].any()


def test_NMS_of_nothing_is_all_zeros():
    boxes, scores = predictions(2, 30, 4, top=0.2)
    nms = InGraphNms(conf=0.25, max_det=5)
    run = session(nms_part(nms, opset=18, num_classes=4))
    outputs = run.run(None, {"all_boxes": boxes, "all_scores": scores})
    assert not any(output.any() for output in outputs)


def test_a_score_at_the_threshold_is_kept():
    boxes = np.array([[[0, 0, 8, 8], [20, 20, 30, 30]]], np.float32)
    scores = np.array([[[0.5], [0.49]]], np.float32)
    nms = InGraphNms(conf=0.5, max_det=2)
    run = session(nms_part(nms, opset=18, num_classes=1))
    assert run.run(["counts"], {"all_boxes": boxes, "all_scores": scores})[0].tolist() == [1]


@pytest.mark.parametrize("placement", ["top_left", "center"])
@pytest.mark.parametrize(
    ("source", "size"),
    [
        ((48, 64), (64, 64)),
        ((64, 48), (64, 96)),
        ((64, 64), (64, 64)),
        ((31, 77), (64, 64)),
        ((200, 90), (96, 64)),
        ((1, 40), (64, 64)),
    ],
)
def test_the_letterbox_agrees_with_the_pipelines(placement, source, size):
    rng = np.random.default_rng(1)
    images = np.stack(
        [
            np.kron(
                rng.integers(0, 255, (-(-source[0] // 8), -(-source[1] // 8), 3)),
                np.ones((8, 8, 1)),
            )[: source[0], : source[1]]
            for _ in range(2)
        ]
    ).astype(np.uint8)
    input_config = InputConfig(size=size, color="rgb", pixel_max=1, placement=placement)
    run = session(letterbox_part(input_config, opset=18))
    boxed, shift, scale = run.run(None, {"raw_images": images})
    geometry = letterbox_geometry(source, size, placement)
    assert shift.tolist() == [geometry.left, geometry.top] * 2
    np.testing.assert_allclose(scale, geometry.scale, rtol=1e-6)
    for found, image in zip(boxed, images, strict=True):
        expected = apply_letterbox(image, geometry, pad_value=114)[..., ::-1].transpose(2, 0, 1)
        # OpenCV interpolates in fixed point: one grey level either way.
        assert np.abs(found * 255 - expected).max() <= 1.01


def test_a_letterboxed_image_passes_unchanged():
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (3, 64, 96, 3), np.uint8)
    run = session(letterbox_part(InputConfig(size=(64, 96)), opset=18))
    boxed, shift, scale = run.run(None, {"raw_images": images})
    np.testing.assert_array_equal(boxed, images.transpose(0, 3, 1, 2))
    assert scale.tolist() == [1.0]
    assert not shift.any()
