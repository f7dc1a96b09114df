"""Around every request: its time, the number of them at once, and headers of its answer."""

from __future__ import annotations

import asyncio
import time

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oculox.serve.limits import Limits
from oculox.serve.metrics import Metrics

PATHS = ("/", "/v1/detect", "/v1/models", "/healthz", "/readyz", "/metrics", "/openapi.json")
CLIENT_LEFT = 499
"""Counted, in place of a status, where nobody was left to answer."""
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


class Guard:
    """ASGI middleware that bounds requests in number and time, and counts them.

    Args:
        app: the application.
        limits: how many, and for how long.
        metrics: is told of every answer.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, metrics: Metrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Other paths are counted as one: strangers could invent any number of them.
        path = scope["path"] if scope["path"] in PATHS else "other"
        request = _Request(receive, send)
        start = time.perf_counter()
        self._metrics.running.inc()
        try:
            async with asyncio.timeout(self._limits.max_seconds):
                await self._answer(scope, request)
        except TimeoutError:
            if not request.status:  # else the rest of the answer is left out: the server hangs up
                await self._too_late(scope, request)
        except ClientDisconnect:
            request.status = CLIENT_LEFT
        finally:
            self._metrics.running.dec()
            self._metrics.count_answer(path, request.status or 500, time.perf_counter() - start)

    async def _answer(self, scope: Scope, request: _Request) -> None:
        if scope["path"] != "/v1/detect":
            await self._app(scope, request.receive, request.send)
            return
        if self._running >= self._limits.max_requests:
            reason = f"{self._running} requests are being answered already; try again in a moment"
            await _refuse(scope, request, 429, reason)
            return
        self._running += 1
        try:
            await self._app(scope, request.receive, request.send)
        finally:
            self._running -= 1

    async def _too_late(self, scope: Scope, request: _Request) -> None:
        limit = f"{self._limits.max_seconds:g} s"
        if request.received:
            reason = f"there was no result within {limit}: the service is busy; try again later"
            await _refuse(scope, request, 503, reason)
        else:
            await _refuse(scope, request, 408, f"the body did not arrive within {limit}")


class _Request:
    """What went through: whether the whole body came, and the status of the answer."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.received = False
        self.status = 0

    async def receive(self) -> Message:
        message = await self._receive()
        self.received = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message["headers"], *_HEADERS]}
        await self._send(message)


async def _refuse(scope: Scope, request: _Request, status: int, reason: str) -> None:
    # The body may not have been read: the connection cannot be used again.
    headers = {"Connection": "close", **({} if status == 408 else {"Retry-After": "1"})}
    answer = JSONResponse({"error": reason}, status, headers=headers)
    await answer(scope, request.receive, request.send)
