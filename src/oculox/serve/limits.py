"""What the service allows, and how it says no."""

from __future__ import annotations

import dataclasses
import math

from oculox.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of the service; whatever goes beyond one is refused with the reason.

    Attributes:
        max_batch: most images that go through the network at once.
        max_wait_ms: how long a batch that is not full waits for images that are being decoded.
        max_requests: requests at once, in whatever stage; more are answered with 429.
        max_mb: size of a body, and of an image from an address, in MiB.
        max_megapixels: size of an image in millions of pixels.
        max_seconds: from a request's first byte to the last one of its answer.

    Raises:
        UsageError: when a value is out of its range.
    """

    max_batch: int = 8
    max_wait_ms: float = 5
    max_requests: int = 256
    max_mb: float = 20
    max_megapixels: float = 50
    max_seconds: float = 30

    def __post_init__(self) -> None:
        """Check the ranges."""
        for field in ("max_batch", "max_requests"):
            if getattr(self, field) < 1:
                raise UsageError(f"`{field}` must be at least 1, got {getattr(self, field)}")
        for field in ("max_mb", "max_megapixels", "max_seconds"):
            if not 0 < getattr(self, field) < math.inf:
                raise UsageError(
                    f"`{field}` must be more than 0 and finite, got {getattr(self, field)}"
                )
        if not 0 <= self.max_wait_ms < math.inf:
            raise UsageError(f"`max_wait_ms` must be 0 or more and finite, got {self.max_wait_ms}")

    @property
    def max_bytes(self) -> int:
        """`max_mb` in bytes."""
        return int(self.max_mb * (1 << 20))

    @property
    def max_pixels(self) -> int:
        """`max_megapixels` in pixels."""
        return int(self.max_megapixels * 1_000_000)


class RefusedError(Exception):
    """A request that is answered with a status of 400 or more, and the reason."""

    def __init__(self, status: int, reason: str, *, headers: dict[str, str] | None = None) -> None:
        """Keep the HTTP status, the reason, and headers of the answer."""
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers or {}
