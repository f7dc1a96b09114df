"""NMS, against the rule written down box by box."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from oculox.ops.boxes import cxcywh_to_xyxy, pairwise_iou
from oculox.ops.nms import BLOCK, _nms_by_kernel, nms, torchvision_nms


def slow_nms(boxes, scores, *, iou_threshold, class_ids):
    order = scores.argsort(descending=True, stable=True)
    overlaps = (pairwise_iou(boxes, boxes) > iou_threshold).numpy()
    overlaps &= (class_ids[:, None] == class_ids).numpy()
    gone = np.zeros(len(boxes), bool)
    kept = []
    for i in order.tolist():
        if not gone[i]:
            kept.append(i)
            gone |= overlaps[i]
    return kept


def make_boxes(seed, n, *, objects, classes, spread=0.08):
    rng = torch.Generator().manual_seed(seed)
    scene = torch.rand(objects, 4, generator=rng) * torch.tensor([600.0, 400, 150, 150]) + 4
    which = torch.randint(objects, (n,), generator=rng)
    boxes = scene[which] * (1 + spread * torch.randn(n, 4, generator=rng))
    labels = torch.randint(classes, (objects,), generator=rng)[which]
    # Few different scores, so that there are ties.
    return cxcywh_to_xyxy(boxes.abs()), (torch.rand(n, generator=rng) * 500).round() / 500, labels


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.45, 0.65, 1.0])
@pytest.mark.parametrize(
    ("n", "objects", "classes"),
    [
        (40, 4, 3),
        (BLOCK, 20, 1),
        (BLOCK + 1, 20, 1),
        (900, 30, 1),
        (900, 900, 1),
        (900, 60, 2),
        (900, 60, 80),
    ],
)
def test_agrees_with_the_slow_one(n, objects, classes, threshold):
    boxes, scores, labels = make_boxes(n + classes, n, objects=objects, classes=classes)
    kept = nms(boxes, scores, iou_threshold=threshold, class_ids=labels)
    expected = slow_nms(boxes, scores, iou_threshold=threshold, class_ids=labels)
    assert kept.dtype == torch.int64
    assert kept.tolist() == expected
    assert 0 < len(kept) < n or threshold == 1


@pytest.mark.parametrize("threshold", [0.1, 0.6])
def test_small_units_and_tall_boxes(threshold):
    boxes, scores, labels = make_boxes(5, 1200, objects=40, classes=1, spread=0.2)
    boxes = boxes * torch.tensor([1e-4, 1.0, 1e-4, 1.0])
    kept = nms(boxes, scores, iou_threshold=threshold, class_ids=labels)
    assert kept.tolist() == slow_nms(boxes, scores, iou_threshold=threshold, class_ids=labels)


@pytest.mark.parametrize("threshold", [0.05, 0.45, 0.65, 0.95])
def test_partners_as_far_apart_along_x_as_they_can_be(threshold):
    # Every small box has a longer partner, in a later block, that begins far to its left.
    n = 2 * BLOCK
    small = torch.tensor([[0.0, 0, 10, 10]]) + torch.arange(n)[:, None] * torch.tensor(
        [400.0, 0, 400, 0]
    )
    long = small.clone()
    long[:, 0] -= 0.99 * 10 * (1 - threshold) / threshold
    order = torch.randperm(2 * n, generator=torch.Generator().manual_seed(0))
    boxes, scores = torch.cat((small, long))[order], torch.linspace(1, 0, 2 * n)[order]
    kept = nms(boxes, scores, iou_threshold=threshold)
    assert order[kept].tolist() == list(range(n))


def test_without_classes_all_boxes_compete():
    boxes, scores, labels = make_boxes(2, 300, objects=20, classes=5)
    kept = nms(boxes, scores, iou_threshold=0.5)
    assert kept.tolist() == slow_nms(
        boxes, scores, iou_threshold=0.5, class_ids=torch.zeros_like(labels)
    )


@pytest.mark.parametrize("class_ids", [None, torch.zeros(0, dtype=torch.int64)])
def test_no_boxes(class_ids):
    kept = nms(torch.zeros(0, 4), torch.zeros(0), iou_threshold=0.5, class_ids=class_ids)
    assert kept.tolist() == []


def test_the_threshold_itself_is_allowed():
    boxes = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1]])
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, iou_threshold=0.5).tolist() == [0, 1]
    assert nms(boxes, scores, iou_threshold=0.49).tolist() == [0]


def test_equal_boxes_and_scores_keep_the_first():
    boxes = torch.tensor([[0.0, 0, 2, 1]]).expand(5, 4)
    assert nms(boxes, torch.ones(5), iou_threshold=0.5).tolist() == [0]


def test_a_suppressed_box_suppresses_nothing():
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert nms(boxes, scores, iou_threshold=0.4).tolist() == [0, 2]


def test_classes_are_compared_exactly():
    # Moving classes apart by an offset would round these boxes into one another.
    boxes = torch.tensor([[1e6, 0.0, 1e6 + 1, 1.0]]).expand(3, 4)
    kept = nms(
        boxes,
        torch.tensor([0.1, 0.3, 0.2]),
        iou_threshold=0.5,
        class_ids=torch.tensor([7, 2**40, 2**40 + 1]),
    )
    assert kept.tolist() == [1, 2, 0]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 3e38])
def test_boxes_that_are_not_finite_do_no_harm(value):
    boxes, scores, labels = make_boxes(1, 600, objects=600, classes=1)
    expected = nms(boxes[20:], scores[20:], iou_threshold=0.6) + 20
    boxes[:20, ::2] = value
    kept = nms(boxes, scores, iou_threshold=0.6, class_ids=labels)
    assert kept[kept >= 20].tolist() == expected.tolist()


def test_half_precision_and_views():
    boxes, scores, labels = make_boxes(4, 300, objects=20, classes=2)
    wide = torch.zeros(300, 8)
    wide[:, ::2] = boxes
    expected = nms(boxes, scores, iou_threshold=0.5, class_ids=labels)
    assert nms(wide[:, ::2], scores, iou_threshold=0.5, class_ids=labels.int()).equal(expected)
    half = nms(boxes.half(), scores.half(), iou_threshold=0.5, class_ids=labels)
    same = nms(boxes.half().float(), scores.half().float(), iou_threshold=0.5, class_ids=labels)
    assert half.equal(same)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3, 5), (3,), (3,)), r"boxes must have shape \(3, 4\), got \(3, 5\)"),
        (((3, 4), (2,), (3,)), r"scores must have shape \(3,\), got \(2,\)"),
        (((3, 4), (3,), (3, 1)), r"class_ids must have shape \(3,\), got \(3, 1\)"),
    ],
)
def test_wrong_shapes(shapes, message):
    boxes, scores, class_ids = (torch.zeros(s) for s in shapes)
    with pytest.raises(ValueError, match=message):
        nms(boxes, scores, iou_threshold=0.5, class_ids=class_ids.long())


def test_torchvision_is_not_looked_for_on_the_cpu():
    code = "import sys, torch; from oculox.ops.nms import nms; n = torch.rand(9, 4)"
    code += "; nms(n, n[:, 0], iou_threshold=0.5); assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("content", ["raise RuntimeError('no operator')", "import no_such", ""])
def test_a_torchvision_that_does_not_work_is_passed_over(monkeypatch, tmp_path, content):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    assert torchvision_nms.__wrapped__() is None


def plain_nms(boxes, scores, threshold):
    kept = slow_nms(boxes, scores, iou_threshold=threshold, class_ids=torch.zeros(len(boxes)))
    return torch.tensor(kept, dtype=torch.int64)


@pytest.mark.parametrize("classes", [1, 7, 80])
def test_classes_are_kept_apart_for_a_kernel_without_classes(classes):
    boxes, scores, labels = make_boxes(classes, 600, objects=40, classes=classes)
    boxes = boxes - 300  # negative corners too
    kept = _nms_by_kernel(plain_nms, boxes, scores, 0.5, labels)
    assert kept.tolist() == nms(boxes, scores, iou_threshold=0.5, class_ids=labels).tolist()
    assert _nms_by_kernel(plain_nms, boxes[:0], scores[:0], 0.5, labels[:0]).tolist() == []


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_boxes_that_are_not_finite_do_no_harm_in_a_kernel_either(value):
    boxes, scores, labels = make_boxes(7, 600, objects=40, classes=7)
    boxes[::9, 2] = boxes[1::9, 1] = value
    boxes[2::90] = value
    kept = _nms_by_kernel(plain_nms, boxes, scores, 0.5, labels)
    assert kept.tolist() == nms(boxes, scores, iou_threshold=0.5, class_ids=labels).tolist()


@pytest.mark.gpu
@pytest.mark.parametrize("threshold", [0.0, 0.45, 0.65, 1.0])
@pytest.mark.parametrize("classes", [1, 80])
def test_the_gpu_gives_the_same_in_the_same_order(classes, threshold):
    boxes, scores, labels = make_boxes(classes, 5000, objects=300, classes=classes)
    expected = nms(boxes, scores, iou_threshold=threshold, class_ids=labels)
    kept = nms(boxes.cuda(), scores.cuda(), iou_threshold=threshold, class_ids=labels.cuda())
    assert kept.is_cuda
    assert kept.tolist() == expected.tolist()
