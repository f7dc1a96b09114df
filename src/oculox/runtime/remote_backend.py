"""A model behind the address of `oculox serve`, as one more backend.

The images are letterboxed here, so everything around the network is the same as with a local
file: decoding, tiles, mirrored views. The service gets them without loss, and gives unrounded
boxes back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import requests
from requests.adapters import HTTPAdapter
from torch import Tensor
from urllib3 import Retry

from oculox.addresses import WEB_PREFIXES, Address, Location
from oculox.errors import CheckpointError, OculoxError, UsageError, first_line, system_error
from oculox.files import encode_image
from oculox.postprocess import DetectSettings
from oculox.runtime.backend import Backend
from oculox.runtime.timing import Stopwatch
from oculox.types import Detections, FloatArray, ImageArray, IntArray, ModelSpec

KEY_VARIABLE = "OCULOX_API_KEY"
"""Environment variable of the key that the service wants; its server reads it too."""
_TIMEOUT_SECONDS = 60
_BUSY = (429, 503)
_AT_ONCE = 8
"""Requests of one batch that are under way together; the service makes a batch of them."""


def is_service(model: str | Location) -> bool:
    """Whether a model is named by the address of a service, and not of a file."""
    return (
        isinstance(model, str)
        and model.startswith(WEB_PREFIXES)
        and not Address(model).suffix[1:2].isalpha()
    )


class RemoteBackend(Backend):
    """Asks a service.

    Args:
        address: of the service, such as ``http://host:8000``.

    Raises:
        OculoxError: nothing answers there, or it refuses.
        CheckpointError: what answers is no such service.
    """

    kind = "remote"

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        self._session = requests.Session()
        # A busy service is asked again, 5 times within half a minute.
        retries = Retry(
            connect=0,
            read=0,
            status=5,
            status_forcelist=_BUSY,
            allowed_methods=None,
            backoff_factor=0.5,
            respect_retry_after_header=False,
            raise_on_status=False,
        )
        adapter = HTTPAdapter(pool_maxsize=_AT_ONCE, max_retries=retries)
        for prefix in WEB_PREFIXES:
            self._session.mount(prefix, adapter)
        if key := os.environ.get(KEY_VARIABLE):
            self._session.headers["Authorization"] = f"Bearer {key}"
        answer = self._ask("GET", "/v1/models")
        try:
            spec, ids = answer["models"][0]["spec"], answer["models"][0]["spec"]["category_ids"]
        except (TypeError, KeyError, IndexError):
            raise CheckpointError(f"{address}: no service of Oculox answers there") from None
        super().__init__(ModelSpec.from_dict(spec, where=address))
        self._class_of = {category: i for i, category in enumerate(ids or ())}

    def predict(self, images: ImageArray | Tensor) -> tuple[list[bytes]]:
        """See `Backend.predict`: the images as PNG; the network runs when `select` asks for it."""
        array = images.cpu().numpy() if isinstance(images, Tensor) else images
        rows = array.transpose(0, 2, 3, 1)
        if self.spec.input.color == "rgb":
            rows = rows[..., ::-1]
        # Level 1 takes a fraction of the time of the others, and little more space.
        level = [cv2.IMWRITE_PNG_COMPRESSION, 1]
        return ([encode_image(np.ascontiguousarray(row), ".png", level) for row in rows],)

    def select(self, outputs: tuple[Any, ...], settings: DetectSettings) -> list[Detections]:
        """See `Backend.select`.

        Raises:
            OculoxError: the service cannot be reached, or refuses.
        """
        asked: dict[str, Any] = {
            "format": "coco",
            "conf": settings.conf,
            "iou": settings.iou,
            "max_det": settings.max_det,
            "agnostic_nms": settings.agnostic_nms,
        }
        if settings.class_ids is not None:
            asked["classes"] = ",".join(map(str, settings.class_ids))
        [images] = outputs
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(lambda image: self._detect(image, asked), images))

    def detect(
        self,
        images: ImageArray | Tensor,
        settings: DetectSettings,
        *,
        watch: Stopwatch | None = None,
    ) -> list[Detections]:
        """See `Backend.detect`; all of it counts as the network."""
        with (watch or Stopwatch()).stage("network"):
            return super().detect(images, settings)

    def _detect(self, image: bytes, asked: Mapping[str, Any]) -> Detections:
        rows = self._ask(
            "POST", "/v1/detect", params=asked, data=image, headers={"Content-Type": "image/png"}
        )
        try:
            corners: FloatArray = np.array(
                [(x, y, x + w, y + h) for x, y, w, h in (row["bbox"] for row in rows)], np.float32
            ).reshape(-1, 4)
            scores: FloatArray = np.array([row["score"] for row in rows], np.float32)
            ids = [row["category_id"] for row in rows]
            classes: IntArray = np.array([self._class_of.get(i, i) for i in ids], np.int64)
            return Detections(corners, scores, classes, self.spec.names)
        except (TypeError, KeyError, ValueError):
            raise OculoxError(f"{self._address}: its answer holds no COCO results") from None

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        try:
            answer = self._session.request(
                method, f"{self._address}{path}", timeout=_TIMEOUT_SECONDS, **options
            )
            content = answer.json()
        except requests.exceptions.JSONDecodeError:
            raise CheckpointError(f"{self._address}: no service of Oculox answers there") from None
        except requests.RequestException as error:
            cause = system_error(error, handled=None)
            reason = getattr(cause, "strerror", None) or first_line(cause)
            raise OculoxError(
                f"{self._address}: the service cannot be reached ({reason}); does `oculox serve` "
                "run there?"
            ) from None
        if answer.ok:
            return content
        reason = content.get("error") if isinstance(content, dict) else None
        if answer.status_code == 401:
            raise UsageError(
                f"{self._address}: the service wants its API key; set {KEY_VARIABLE} to it"
            )
        raise OculoxError(
            f"{self._address}: the service answered with status {answer.status_code} "
            f"({reason or 'no reason given'})"
        )
