"""From a request to an image and its pixels: bounded, and refused with a reason."""

from __future__ import annotations

import base64
import contextlib
import json
from asyncio import timeout
from collections.abc import AsyncGenerator, AsyncIterator

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from oculox.data.image import decode_image, read_header
from oculox.errors import DataError
from oculox.serve.fetch import fetch_image
from oculox.serve.limits import Limits, RefusedError
from oculox.types import ImageArray

FORMATS = "JPEG, PNG, WebP, BMP or GIF"
"""Images whose size is known before they are decoded; others could be of any size."""
_EXAMPLE = 'expected a JSON object such as {"image": "<base64>"}'
_DRAIN_SECONDS = 2


async def read_upload(request: Request, limits: Limits, *, allow_urls: bool) -> bytes:
    """The bytes of the image that a request brings, or names by an address.

    Raises:
        RefusedError: 413 the body is too large; 415 it is of no known kind; 422 it holds no image,
            or an address that is not allowed.
    """
    kind, _ = parse_options_header(request.headers.get("content-type", ""))
    if kind == b"multipart/form-data":
        return await _from_form(request, limits)
    if kind == b"application/json":
        return await _from_json(request, limits, allow_urls=allow_urls)
    if kind.startswith(b"image/") or kind == b"application/octet-stream":
        return await _whole(request, limits, limits.max_bytes)
    given = f"Content-Type {kind.decode('latin-1')!r}" if kind else "the Content-Type is missing"
    raise RefusedError(
        415,
        f"{given}: send an image as "
        "multipart/form-data, as image/* or application/octet-stream, or as JSON with base64",
    )


def read_pixels(data: bytes, limits: Limits) -> ImageArray:
    """Decode an image, after its header has said that it is not too large.

    Returns:
        uint8 (H, W, 3), BGR, upright.

    Raises:
        RefusedError: 413 it has too many pixels; 415 it is of another format than `FORMATS`;
            422 it is empty or damaged.
    """
    if not data:
        raise RefusedError(422, "the image is empty (0 bytes)")
    size = read_header(data).size_hw
    if size is None:
        raise RefusedError(415, f"expected an image as {FORMATS}; these bytes are none of them")
    height, width = size
    if height * width > limits.max_pixels:
        raise RefusedError(
            413,
            f"the image has {width} x {height} pixels, at most {limits.max_pixels:,} are allowed; "
            "make it smaller",
        )
    try:
        return decode_image(data, where="the upload")
    except DataError as error:
        raise RefusedError(422, str(error)) from None


async def _body(request: Request, limits: Limits, most: int) -> AsyncIterator[bytes]:
    """The parts of a body of at most that many bytes, which hold the largest image allowed."""
    too_large = _too_large(limits)
    stream, received = request.stream(), 0
    stated = request.headers.get("content-length", "0")
    if not stated.isdecimal() or int(stated) > most:
        await _drain(stream)
        raise too_large
    async for part in stream:
        received += len(part)
        if received > most:
            await _drain(stream)
            raise too_large
        yield part


def _too_large(limits: Limits) -> RefusedError:
    return RefusedError(413, f"the image is larger than {limits.max_mb:g} MiB")


async def _drain(stream: AsyncIterator[bytes]) -> None:
    """Drop the rest of a body for a moment: a client that still sends would miss the answer."""
    with contextlib.suppress(TimeoutError):
        async with timeout(_DRAIN_SECONDS):
            async for _ in stream:
                pass


async def _whole(request: Request, limits: Limits, most: int) -> bytes:
    return b"".join([part async for part in _body(request, limits, most)])


async def _from_form(request: Request, limits: Limits) -> bytes:
    # The boundaries and heads of the parts come on top of the image.
    most = limits.max_bytes + (1 << 16)
    body = await _whole(request, limits, most)

    async def parts() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(request.headers, parts(), max_files=1, max_fields=0)
    parser.spool_max_size = most + 1  # nothing goes to the disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many"):
            reason = "the form holds more than the image; parameters go into the URL: ?conf=0.5"
        else:
            reason = f"the form cannot be read ({error.message})"
        raise RefusedError(422, f"{reason}; send one file called 'image'") from None
    try:
        image = form.get("image")
        if not isinstance(image, UploadFile):
            raise RefusedError(422, "the form has no file called 'image'")
        data = await image.read()
    finally:
        await form.close()
    if len(data) > limits.max_bytes:
        raise _too_large(limits)
    return data


async def _from_json(request: Request, limits: Limits, *, allow_urls: bool) -> bytes:
    # Base64 has four bytes for three.
    most = limits.max_bytes * 4 // 3 + (1 << 16)
    try:
        value = json.loads(await _whole(request, limits, most))
    except (ValueError, RecursionError):
        raise RefusedError(422, f"the body is not valid JSON; {_EXAMPLE}") from None
    if not isinstance(value, dict) or len(value) != 1 or not {"image", "url"} & value.keys():
        raise RefusedError(422, _EXAMPLE)
    [(key, content)] = value.items()
    if not isinstance(content, str):
        raise RefusedError(422, f"{key!r} must be a string; {_EXAMPLE}")
    if key == "url":
        if not allow_urls:
            raise RefusedError(422, "this service fetches no URLs; send the image itself")
        return await fetch_image(content, max_bytes=limits.max_bytes)
    try:
        return base64.b64decode(content, validate=True)
    except ValueError as error:
        raise RefusedError(422, f"'image' is not valid base64 ({error})") from None
