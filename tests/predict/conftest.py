"""Fixtures of the prediction tests."""

import pytest
from red_pictures import RedBackend

from oculox.predict.pipeline import Pipeline


@pytest.fixture
def red_backend():
    return RedBackend


@pytest.fixture
def red_pipeline():
    return Pipeline(RedBackend(), batch=3)
