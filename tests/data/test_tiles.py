import itertools

import numpy as np
import pytest

from oculox.data.tiles import Tiling
from oculox.errors import UsageError


@pytest.mark.parametrize("image_hw", [(640, 640), (1000, 1921), (641, 300), (33, 5000), (1, 1)])
@pytest.mark.parametrize("overlap", [0, 0.2, 0.55, 0.9])
def test_tiles_cover_the_image_and_overlap(image_hw, overlap):
    windows = Tiling(640, overlap).windows(image_hw)
    seen = np.zeros(image_hw, bool)
    for left, top, right, bottom in windows:
        assert (bottom - top, right - left) == tuple(min(640, side) for side in image_hw)
        assert min(left, top) >= 0
        seen[top:bottom, left:right] = True
    assert seen.all()
    assert len(set(windows)) == len(windows)
    for axis in (0, 1):
        starts = sorted({window[axis] for window in windows})
        for first, second in itertools.pairwise(starts):
            assert first + 640 - second >= int(overlap * 640)


def test_an_object_as_long_as_the_overlap_is_whole_in_a_tile():
    spans = [(left, right) for left, _, right, _ in Tiling(100, 0.3).windows((100, 777))]
    for start in range(777 - 30 + 1):
        assert any(left <= start and start + 30 <= right for left, right in spans), start


def test_a_small_image_is_one_tile():
    assert Tiling(640).windows((480, 640)) == [(0, 0, 640, 480)]


@pytest.mark.parametrize(
    ("size", "overlap", "message"),
    [(31, 0.2, "at least 32"), (640, -0.1, "0 to 0.9"), (640, 0.95, "0 to 0.9")],
)
def test_wrong_values(size, overlap, message):
    with pytest.raises(UsageError, match=message):
        Tiling(size, overlap)
