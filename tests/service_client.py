"""A service on a real socket, in a thread of this process."""

import asyncio
import contextlib
import socket
import threading

import cv2
import pytest
import requests

from oculox.api import Detector

pytest.importorskip("fastapi", reason="FastAPI is not installed (extra `serve`)")
pytest.importorskip("uvicorn", reason="uvicorn is not installed (extra `serve`)")
pytest.importorskip(
    "prometheus_client", reason="prometheus-client is not installed (extra `serve`)"
)

import uvicorn

from oculox.serve.app import create_app
from oculox.serve.limits import Limits
from oculox.serve.run import PatientProtocol


class Client(requests.Session):
    """A client of one service; its paths need no host."""

    def __init__(self, address, app):
        super().__init__()
        self.address, self.app = address, app
        self.port = int(address.rpartition(":")[2])

    def request(self, method, url, **options):
        return super().request(method, f"{self.address}{url}", timeout=30, **options)

    def detect(self, data, **parameters):
        headers = {"Content-Type": "application/octet-stream"}
        return self.post("/v1/detect", data=data, params=parameters, headers=headers)

    def socket(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@contextlib.contextmanager
def serving(backend, *, detector=None, **options):
    """A client of a service that runs while the block does."""
    limits = options.pop("limits", None) or Limits()
    app = create_app(
        Detector(backend, batch=limits.max_batch, **(detector or {})), limits=limits, **options
    )
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=PatientProtocol, ws="none", log_config=None, timeout_graceful_shutdown=10
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    try:
        with Client(f"http://127.0.0.1:{listening.getsockname()[1]}", app) as client:
            client.server = server
            assert client.get("/readyz").status_code == 200
            yield client
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def encoded(image, suffix=".png"):
    return cv2.imencode(suffix, image)[1].tobytes()
