"""The service: its paths, what they take and what they answer."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Lifespan

from oculox.api import Detector
from oculox.errors import DataError, UsageError
from oculox.files import encode_image
from oculox.postprocess import DetectSettings
from oculox.serve.batcher import Batcher
from oculox.serve.description import (
    DETECT_ANSWER,
    DETECT_BODY,
    FoundObjects,
    Models,
    ServedModel,
    problems,
)
from oculox.serve.guard import Guard
from oculox.serve.limits import Limits, RefusedError
from oculox.serve.metrics import Metrics
from oculox.serve.uploads import read_pixels, read_upload
from oculox.types import Detections, ImageArray, ModelSpec

API_VERSION = "1"
"""Of the paths and what they take and answer, not of the package."""
LOWEST_CONF = 0.01
"""Of a request: below it nearly every cell of the network is a box, which takes long."""
MOST_DETECTIONS = 1000

router = APIRouter()
T = TypeVar("T")


class Service:
    """What the requests share: the model, its queue and the limits.

    Args:
        detector: the model.
        limits: bounds.
        api_key: what requests have to send; None lets everybody in.
        allow_urls: fetch images from public addresses.
    """

    def __init__(
        self, detector: Detector, *, limits: Limits, api_key: str | None, allow_urls: bool
    ) -> None:
        self.detector, self.limits = detector, limits
        self.api_key, self.allow_urls = api_key, allow_urls
        self.metrics = Metrics()
        self.batcher = Batcher(
            detector.pipeline, max_wait_ms=limits.max_wait_ms, metrics=self.metrics
        )
        self.ready = False
        self._threads = ThreadPoolExecutor(thread_name_prefix="images")

    @property
    def spec(self) -> ModelSpec:
        """The model as its clients see it: of one size, and with any number of images at once."""
        spec = self.detector.backend.spec
        size = spec.check_size(self.detector.size_hw)
        return dataclasses.replace(spec, input=spec.input.at(size), dynamic_size=False, batch=None)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work on requests until the end of the block, and finish what was begun."""
        height, width = self.spec.input.size
        blank = np.zeros((height, width, 3), np.uint8)
        worker = asyncio.create_task(self.batcher.run())
        # The first batch of a runtime takes longer than others.
        await self.batcher.detect(blank, self.detector.pipeline.settings)
        self.ready = True
        try:
            yield
        finally:
            self.ready = False
            worker.cancel()
            await asyncio.wait([worker])
            self.batcher.close()
            self._threads.shutdown()

    async def decode(self, data: bytes) -> ImageArray:
        """The pixels of an image; see `read_pixels`."""
        start = time.perf_counter()
        with self.batcher.decoding():
            image = await self._in_thread(lambda: read_pixels(data, self.limits))
        self.metrics.count_decoding(time.perf_counter() - start)
        return image

    async def draw(self, image: ImageArray, found: Detections) -> bytes:
        """The image with its boxes as JPEG.

        Raises:
            RefusedError: 422 it is too large for one.
        """
        try:
            return await self._in_thread(lambda: encode_image(found.draw(image), ".jpg"))
        except DataError as error:
            raise RefusedError(422, str(error)) from None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def create_app(
    detector: Detector,
    *,
    limits: Limits | None = None,
    api_key: str | None = None,
    allow_urls: bool = False,
) -> FastAPI:
    """The service as an ASGI application, for any server of such.

    Args:
        detector: the model, with the thresholds that requests get without naming their own. It
            looks at each image once: `tta` and `tile` are for clients.
        limits: bounds of requests.
        api_key: what requests have to send as ``Authorization: Bearer``; None lets everybody in.
        allow_urls: fetch images from public addresses.
    """
    limits = limits or Limits()
    service = Service(detector, limits=limits, api_key=api_key, allow_urls=allow_urls)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        async with service.running():
            yield

    app = _application(lifespan)
    app.state.service = service
    app.state.page, app.state.policy = _page()
    app.add_middleware(Guard, limits=limits, metrics=service.metrics)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _failed)
    app.add_exception_handler(Exception, _broken)
    return app


def describe() -> dict[str, Any]:
    """The OpenAPI description of the service, which needs no model."""
    return _application().openapi()


def _application(lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    # No pages of FastAPI: they load their scripts from elsewhere.
    app = FastAPI(
        title="Oculox",
        version=API_VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(router)
    return app


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service: Service = request.app.state.service
    return service


async def authorized(request: Request) -> None:
    """Check the key of a request.

    Raises:
        RefusedError: 401 it is missing or another one.
    """
    key = service_of(request).api_key
    if key is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # Compared in constant time: the time of the answer tells nothing of the key. Headers are bytes.
    same = secrets.compare_digest(given.encode("latin-1"), key.encode())
    if scheme.lower() != "bearer" or not same:
        raise RefusedError(
            401,
            "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'",
            headers={"WWW-Authenticate": "Bearer"},
        )


async def only_known_parameters(request: Request) -> None:
    """Refuse what a path does not take: a misspelt threshold would change nothing.

    Raises:
        RefusedError: 422 a parameter of the address is unknown.
    """
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    for name in request.query_params:
        if name not in known:
            raise RefusedError(422, f"unknown parameter {name!r}; known are {', '.join(known)}")


@router.post(
    "/v1/detect",
    response_model=FoundObjects,
    responses={200: DETECT_ANSWER, **problems(401, 408, 413, 415, 422, 429, 503)},
    openapi_extra={"requestBody": DETECT_BODY},
    dependencies=[Depends(authorized), Depends(only_known_parameters)],
)
async def detect(
    request: Request,
    conf: Annotated[
        float | None, Query(ge=LOWEST_CONF, le=1, description="Lowest score kept.")
    ] = None,
    iou: Annotated[
        float | None,
        Query(ge=0, le=1, description="NMS: IoU above which the weaker box is dropped."),
    ] = None,
    max_det: Annotated[
        int | None, Query(ge=1, le=MOST_DETECTIONS, description="Most detections.")
    ] = None,
    classes: Annotated[
        str | None,
        Query(description="Only these classes: names or numbers, comma-separated."),
    ] = None,
    agnostic_nms: Annotated[bool | None, Query(description="NMS across all classes.")] = None,
    format: Annotated[  # noqa: A002
        Literal["json", "coco", "jpeg"],
        Query(description="Boxes, COCO results, or the image with boxes drawn on it."),
    ] = "json",
    image_id: Annotated[int, Query(description="That of COCO results.")] = 0,
) -> Response:
    """Find objects in one image."""
    service = service_of(request)
    if not service.ready:
        raise RefusedError(503, "the service is starting or ending", headers={"Retry-After": "1"})
    settings = _settings(
        service, conf=conf, iou=iou, max_det=max_det, classes=classes, agnostic_nms=agnostic_nms
    )
    data = await read_upload(request, service.limits, allow_urls=service.allow_urls)
    async with service.batcher.room():
        image = await service.decode(data)
        found = await service.batcher.detect(image, settings)
        service.metrics.count_found(found)
        if format == "jpeg":
            return Response(await service.draw(image, found), media_type="image/jpeg")
    if format == "coco":
        ids = service.detector.backend.spec.category_ids
        return JSONResponse(found.to_coco(image_id, ids))
    height, width = image.shape[:2]
    return JSONResponse({"width": width, "height": height, "detections": found.to_dicts()})


def _settings(service: Service, **given: Any) -> DetectSettings:
    """The thresholds of a request: its own, else those of the service."""
    changes = {key: value for key, value in given.items() if value is not None}
    try:
        if "classes" in changes:
            names = changes.pop("classes").split(",")
            changes["class_ids"] = service.detector.backend.spec.class_ids(names)
        return dataclasses.replace(service.detector.pipeline.settings, **changes)
    except UsageError as error:
        raise RefusedError(422, str(error)) from None


@router.get("/v1/models", responses=problems(401), dependencies=[Depends(authorized)])
async def models(request: Request) -> Models:
    """The model of the service, its classes and default thresholds."""
    service = service_of(request)
    settings = service.detector.pipeline.settings
    return Models(
        models=[
            ServedModel(
                name=service.spec.model.name,
                spec=service.spec.as_dict(),
                conf=settings.conf,
                iou=settings.iou,
                max_det=settings.max_det,
                agnostic_nms=settings.agnostic_nms,
                max_mb=service.limits.max_mb,
                max_megapixels=service.limits.max_megapixels,
            )
        ]
    )


@router.get("/healthz", responses={200: {"content": {"text/plain": {}}}})
async def healthz() -> Response:
    """Whether the process answers at all."""
    return Response("ok\n", media_type="text/plain")


@router.get("/readyz", responses={200: {"content": {"text/plain": {}}}, **problems(503)})
async def readyz(request: Request) -> Response:
    """Whether requests are taken: the model has run once, and the service does not end."""
    if not service_of(request).ready:
        raise RefusedError(503, "the service is starting or ending")
    return Response("ready\n", media_type="text/plain")


@router.get(
    "/metrics",
    responses={200: {"content": {"text/plain": {}}}, **problems(401)},
    dependencies=[Depends(authorized)],
)
async def metrics(request: Request) -> Response:
    """Counts for Prometheus."""
    text = service_of(request).metrics.as_text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    """The page for people."""
    return HTMLResponse(
        request.app.state.page,
        headers={
            "Content-Security-Policy": request.app.state.policy,
            "Permissions-Policy": "camera=(self)",
        },
    )


def _page() -> tuple[str, str]:
    """The page, and a policy that allows its own style and script and nothing from elsewhere."""
    text = (files("oculox.serve") / "page.html").read_text("utf-8")

    def own(tag: str) -> str:
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digests = (hashlib.sha256(part.encode()).digest() for part in inside)
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    return text, (
        f"default-src 'none'; script-src {own('script')}; style-src {own('style')}; "
        "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


async def _refused(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RefusedError)
    return JSONResponse({"error": error.reason}, error.status, headers=error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}"}, 422)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow", "another method")
    reason = {
        404: "there is no such path",
        405: f"this path takes {allowed}, not {request.method}",
    }
    text = reason.get(error.status_code, str(error.detail))
    return JSONResponse({"error": text}, error.status_code, headers=error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    del request, error  # the server logs it; clients learn nothing of the inside
    return JSONResponse({"error": "the service failed to answer; its log says why"}, 500)
