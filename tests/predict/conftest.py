"""Fixtures of the prediction tests."""

import pytest

from oculox.predict.pipeline import Pipeline
from red_images import RedBackend


@pytest.fixture
def red_backend():
    return RedBackend


@pytest.fixture
def red_pipeline():
    return Pipeline(RedBackend(), batch=3)
