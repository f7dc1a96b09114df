"""Starting and ending the service, in one process or several."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from oculox.api import Detector
from oculox.errors import OculoxError
from oculox.serve.app import create_app
from oculox.serve.limits import Limits
from oculox.serve.metrics import SHARED_FOLDER

HEAD_SECONDS = 10
"""Most time that the head of a request may take, and that a new connection may say nothing."""
_OPTIONS = "OCULOX_SERVE_OPTIONS"
_FAILURE = "failure.txt"
"""In the folder that the workers share: why one could not start."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What each worker needs to know.

    Attributes:
        model: a model as for `Detector`.
        detector: options of the `Detector`.
        limits: bounds of requests.
        api_key: what requests have to send; None lets everybody in.
        allow_urls: fetch images from public addresses.
    """

    model: str
    detector: dict[str, Any]
    limits: Limits
    api_key: str | None = None
    allow_urls: bool = False

    def open(self) -> FastAPI:
        """Open the model.

        Raises:
            OculoxError: see `Detector`.
        """
        detector = Detector(self.model, batch=self.limits.max_batch, **self.detector)
        return create_app(
            detector, limits=self.limits, api_key=self.api_key, allow_urls=self.allow_urls
        )


class PatientProtocol(H11Protocol):
    """HTTP/1.1 whose clients have to send the head of a request in time."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        # asyncio does so for sockets that it opens itself. Without it the body of an answer waits
        # for the client to acknowledge the head: 40 ms.
        line = transport.get_extra_info("socket")
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._expect_head()

    def on_response_complete(self) -> None:
        """An answer was sent; another request may follow."""
        self._expect_head()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """What was sent is no HTTP; it may be found out after the head, when an answer is due."""
        if self.cycle is not None:
            self.cycle.disconnected = True  # no second answer
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def _expect_head(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._close_without_request)

    def _close_without_request(self) -> None:
        """Also where a client goes on sending the body of a request that was answered."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def serve(
    options: ServeOptions,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    started: Callable[[str], None] | None = None,
) -> None:
    """Answer requests until SIGINT or SIGTERM, then finish those that run.

    Args:
        options: the model and the limits.
        host: address to listen on; ``0.0.0.0`` for all of this machine.
        port: 0 for any free one.
        workers: processes, each with a model of its own.
        started: called with the address before the first request is taken.

    Raises:
        OculoxError: the address cannot be listened on; a worker cannot start; or see `Detector`.
    """
    app = options.open()  # in any case: what is wrong with the model is told at once
    listening = _listen(host, port)
    address = _address(host, listening.getsockname()[1])
    settings: dict[str, Any] = {
        "http": PatientProtocol,
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        # Beyond the requests that wait there is room for those that are refused or ask for health.
        "limit_concurrency": 2 * options.limits.max_requests + 64,
        "timeout_graceful_shutdown": int(options.limits.max_seconds) + 1,
    }
    if started is not None:
        started(address)
    if workers == 1:
        uvicorn.Server(uvicorn.Config(app, **settings)).run(sockets=[listening])
        return
    del app
    number = listening.getsockname()[1]
    listening.close()  # each process opens it again
    with tempfile.TemporaryDirectory(prefix="oculox-") as folder:
        os.environ[SHARED_FOLDER] = folder
        failure = Path(folder, _FAILURE)
        os.environ[_OPTIONS] = json.dumps(dataclasses.asdict(options))
        uvicorn.run(
            "oculox.serve.run:open_worker",
            factory=True,
            host=host,
            port=number,
            workers=workers,
            **settings,
        )
        if failure.exists():
            raise OculoxError(failure.read_text("utf-8"))


def open_worker() -> FastAPI:
    """The application of one of several workers, from the environment that `serve` has set.

    Where it cannot start, another would fail as well: `serve` ends, and says why.
    """
    values = json.loads(os.environ[_OPTIONS])
    try:
        app = ServeOptions(**{**values, "limits": Limits(**values["limits"])}).open()
    except OculoxError as error:
        _end_service(str(error))
        raise SystemExit(1) from None
    start = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        started = False
        try:
            async with start(app) as state:
                started = True
                yield state
        finally:
            if not started:
                _end_service("a worker could not start; its message above says why")

    app.router.lifespan_context = lifespan
    return app


def _end_service(why: str) -> None:
    """Have `serve` raise an error, from one of its workers."""
    Path(os.environ[SHARED_FOLDER], _FAILURE).write_text(why, "utf-8")
    os.kill(os.getppid(), signal.SIGTERM)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise OculoxError(
            f"cannot listen on {_address(host, port)} ({error.strerror}); "
            "choose another `host` or `port`"
        ) from None
    return listening


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
