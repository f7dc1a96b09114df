"""What can go wrong at an address, in words that say what to do."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from oculox.addresses.address import S3_SCHEMES, WEB_SCHEMES, Address
from oculox.errors import OculoxError, first_line

_LIBRARIES = ("aiohttp", "aiobotocore", "azure", "botocore", "gcsfs", "google", "huggingface_hub")
"""Whose own exceptions are faults of network or storage."""
_SECRET = re.compile(r"(https?://[^\s'\"?]+)\?[^\s'\")]*")
"""Signed links: what follows the question mark gives access."""
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")
_UNKNOWN_KEYS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken")
_NO_KEYS = (
    "CredentialRetrievalError",
    "DefaultCredentialsError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
)


class AddressError(OculoxError):
    """A file at an address cannot be read or written, now or at all."""


class AbsentError(AddressError):
    """There is nothing at an address."""


def explain(
    address: Address, error: Exception, system: Any, path: str
) -> tuple[AddressError, bool]:
    """The error for people, and whether the fault may pass."""
    if address.scheme in WEB_SCHEMES and isinstance(error.__cause__, Exception):
        error = error.__cause__  # fsspec calls every failure to ask a server a missing file
    code, status = _code(error)
    if address.scheme in S3_SCHEMES and not code.isalpha() and isinstance(error, OSError):
        # Answers to HEAD have no words; this one has.
        try:
            system.cat_file(path, start=0, end=1)
        except Exception as detailed:  # noqa: BLE001 - of any kind, and only asked for its words
            code = _code(detailed)[0] if _code(detailed)[0].isalpha() else code
    bucket, kind = urlsplit(address.text).netloc, type(error).__name__
    if code in _EXPIRED:
        return AddressError(
            f"{address}: the credentials have expired; get new ones and start again"
        ), False
    if code in _UNKNOWN_KEYS:
        return AddressError(
            f"{address}: the storage does not accept the credentials ({code}); correct them"
        ), False
    if kind in _NO_KEYS:
        return AddressError(
            f"{address}: no credentials were found ({first_line(error)}); set those of the "
            "storage, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (docs/cloud.md lists all)"
        ), False
    if code == "NoSuchBucket":
        return AbsentError(f"{address}: there is no bucket '{bucket}'"), False
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return AbsentError(f"{address}: there is no such file or folder"), False
    if isinstance(error, PermissionError) or status in (401, 403):
        return AddressError(
            f"{address}: access is denied; the credentials give no permission for it, or a signed "
            "link has expired"
        ), False
    detail = _SECRET.sub(r"\1?...", first_line(error))
    lasting = 400 <= status < 500 and status not in (408, 425, 429)
    return AddressError(
        f"{address}: the storage cannot be reached or fails ({detail})"
    ), not lasting


def _code(error: BaseException) -> tuple[str, int]:
    """The storage's own word for an error, and the status of its answer; empty and 0 for none."""
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(response.get("Error", {}).get("Code", "")), int(status)
        if isinstance(status := getattr(cause, "status", None), int):
            return "", status
        cause = cause.__cause__
    return "", 0


def is_of_library(error: Exception) -> bool:
    """Whether a library of a storage raised it: then it is about network or storage."""
    return type(error).__module__.partition(".")[0] in _LIBRARIES
