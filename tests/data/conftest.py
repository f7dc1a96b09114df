"""Datasets that the tests of this folder read."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small_coco import write_coco

from oculox.data.coco import CocoIndex, load_coco

MakeCoco = Callable[..., CocoIndex]


@pytest.fixture
def make_coco(tmp_path: Path) -> MakeCoco:
    """Write a small set and load it; see `write_coco`."""

    def make(**arguments: object) -> CocoIndex:
        return load_coco(*write_coco(tmp_path / "set", **arguments))

    (tmp_path / "set").mkdir()
    return make


@pytest.fixture(scope="session")
def coco_train(shared: Path) -> CocoIndex:
    """369 real training images of COCO."""
    root = shared / "coco_mini"
    return load_coco(root / "annotations/instances_train2017.json", root / "train2017")
