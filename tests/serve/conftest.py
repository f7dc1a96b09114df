"""What the tests of the service share."""

import cv2
import pytest

from red_images import RedBackend, red_image


@pytest.fixture(scope="session")
def red_png():
    return cv2.imencode(".png", red_image())[1].tobytes()


@pytest.fixture(scope="module")
def client():
    """Of a service that finds red blocks."""
    from service_client import serving

    with serving(RedBackend()) as client:
        yield client
