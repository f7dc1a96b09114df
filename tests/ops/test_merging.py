import numpy as np
import pytest

from oculox.ops.merging import find_parts, fuse_boxes


def arrays(*rows):
    """Rows of box, score and class as three arrays."""
    boxes, scores, classes = zip(*rows, strict=True) if rows else ([], [], [])
    return (
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(classes, np.int64),
    )


def test_nothing_stays_nothing():
    boxes, scores, classes = fuse_boxes(*arrays(), views=2, iou_threshold=0.5)
    assert boxes.shape == (0, 4)
    assert len(scores) == len(classes) == 0


def test_average_weighted_by_score():
    given = arrays(((0, 0, 100, 100), 0.9, 3), ((10, 0, 110, 100), 0.3, 3))
    boxes, scores, classes = fuse_boxes(*given, views=2, iou_threshold=0.5)
    np.testing.assert_allclose(boxes, [[2.5, 0, 102.5, 100]], rtol=1e-6)
    np.testing.assert_allclose(scores, [0.6])
    assert classes.tolist() == [3]
    assert boxes.dtype == scores.dtype == np.float32


@pytest.mark.parametrize(("members", "views", "expected"), [(1, 4, 0.2), (3, 4, 0.6), (5, 4, 0.8)])
def test_what_few_views_found_counts_less(members, views, expected):
    """The mean times min(members, views) / views, section 3 of the paper."""
    given = arrays(*[((5, 5, 20, 20), 0.8, 0)] * members)
    boxes, scores, _ = fuse_boxes(*given, views=views, iou_threshold=0.5)
    assert len(boxes) == 1
    np.testing.assert_allclose(scores, [expected], rtol=1e-6)


def test_classes_and_distant_boxes_are_kept_apart():
    given = arrays(((0, 0, 9, 9), 0.5, 0), ((0, 0, 9, 9), 0.5, 1), ((90, 0, 99, 9), 0.5, 0))
    boxes, _, classes = fuse_boxes(*given, views=1, iou_threshold=0.5)
    assert len(boxes) == 3
    assert sorted(classes.tolist()) == [0, 0, 1]


def test_a_box_joins_the_fused_box_and_not_its_first_member():
    """Two boxes pull the average to the right, near enough for the third one."""
    shifts = ((0, 0.9), (30, 0.89), (47, 0.1))
    given = arrays(*[((x, 0, x + 100, 100), score, 0) for x, score in shifts])
    boxes, _, _ = fuse_boxes(*given, views=3, iou_threshold=0.5)
    assert len(boxes) == 1


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_the_algorithm_in_words(seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 60, (120, 2))
    boxes = np.hstack((corners, corners + rng.uniform(5, 40, (120, 2)))).astype(np.float32)
    scores = rng.uniform(0.01, 1, 120).astype(np.float32)
    classes = rng.integers(0, 3, 120)
    found = fuse_boxes(boxes, scores, classes, views=6, iou_threshold=0.45)
    expected = slow_fusion(boxes, scores, classes, views=6, threshold=0.45)
    assert 3 < len(expected) < 120
    rows = sorted(zip(found[2], found[1], *found[0].T, strict=True))
    np.testing.assert_allclose(rows, sorted(expected), rtol=1e-4)


def slow_fusion(boxes, scores, classes, *, views, threshold):
    clusters = []
    for i in np.argsort(-scores, kind="stable"):
        overlaps = [
            iou(boxes[i], average(boxes, scores, c)) if classes[c[0]] == classes[i] else 0
            for c in clusters
        ]
        if overlaps and max(overlaps) > threshold:
            clusters[int(np.argmax(overlaps))].append(i)
        else:
            clusters.append([i])
    return [
        (
            classes[c[0]],
            scores[c].astype(float).mean() * min(len(c), views) / views,
            *average(boxes, scores, c),
        )
        for c in clusters
    ]


def average(boxes, scores, rows):
    return np.average(boxes[rows].astype(float), axis=0, weights=scores[rows].astype(float))


def iou(a, b):
    left, top = np.maximum(a[:2], b[:2])
    right, bottom = np.minimum(a[2:], b[2:])
    inter = max(0, right - left) * max(0, bottom - top)
    return inter / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inter)


WHOLE = (0, 0, 100, 40)
HALF = (0, 0, 50, 40)


@pytest.mark.parametrize(
    ("other", "cut", "expected"),
    [
        ((WHOLE, 0.9, 0), False, True),
        ((WHOLE, 0.3, 0), False, True),  # half its score is enough
        ((WHOLE, 0.2, 0), False, False),  # a doubtful box does not stand for a sure one
        ((WHOLE, 0.9, 1), False, False),  # another class
        ((WHOLE, 0.9, 0), True, True),  # cut too, but it shows more
        (((0, 0, 30, 40), 0.9, 0), True, False),  # cut, and shows less
        (((0, 0, 30, 40), 0.9, 0), False, True),  # whole, and most of the cut one
        (((0, 0, 20, 40), 0.9, 0), False, False),  # less than half of it lies inside
        (((200, 0, 300, 40), 0.9, 0), False, False),
    ],
)
def test_parts_of_cut_objects(other, cut, expected):
    given = arrays((HALF, 0.6, 0), other)
    assert find_parts(*given, np.array([True, cut])).tolist()[0] is expected


def test_whole_boxes_are_no_parts():
    given = arrays((HALF, 0.6, 0), (WHOLE, 0.9, 0))
    assert not find_parts(*given, np.zeros(2, bool)).any()


def test_many_boxes_and_none():
    given = arrays(*[((i, 0, i + 10, 10), 0.5, 0) for i in range(0, 6000, 10)])
    whole = arrays(((0, 0, 3000, 10), 0.5, 0))
    joined = [np.concatenate(pair) for pair in zip(given, whole, strict=True)]
    parts = find_parts(*joined, np.append(np.ones(600, bool), False))
    assert parts.tolist() == [True] * 300 + [False] * 301
    assert find_parts(*arrays(), np.zeros(0, bool)).shape == (0,)
