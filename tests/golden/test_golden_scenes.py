"""Guards the renderer of the demo dataset: the same scenes for the same seed, on any machine."""

import numpy as np
import pytest
from scenes import described, large_scenes, render, small_images, small_scenes


@pytest.fixture(scope="module")
def rendered():
    return render()


def test_scenes_hold_the_same_objects(rendered):
    for found, expected in zip(rendered, (small_scenes(), large_scenes()), strict=True):
        for ours, theirs in zip(described(found), expected, strict=True):
            assert ours["labels"] == theirs["labels"]
            # Another OpenCV may draw an edge a pixel further.
            np.testing.assert_allclose(ours["boxes"], theirs["boxes"], atol=1)
            np.testing.assert_allclose(ours["areas"], theirs["areas"], rtol=0.03, atol=4)


def test_scenes_have_the_same_pixels(rendered):
    for scene, kept in zip(rendered[0], small_images(), strict=True):
        difference = np.abs(scene.image.astype(int) - kept)
        assert difference.mean() < 0.5
        assert np.median(difference) == 0
