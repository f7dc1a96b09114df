"""Frames of a video, in order and all of them; of a camera or stream, always the newest.

A network may be slower than a camera. Frames that wait for it would show the past and fill the
memory, so a thread reads on and keeps the newest frame alone. Where a camera or stream breaks off,
it is opened again.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Self

import cv2
import numpy as np

from oculox.errors import DataError, UsageError, plural
from oculox.predict.inputs import load_image
from oculox.predict.sources import Source
from oculox.runtime.timing import Stopwatch
from oculox.types import ImageArray

DEFAULT_FPS = 25.0
RETRY_SECONDS = 30.0
"""How long a camera or stream that broke off is tried again."""
_TIMEOUT_MS = 10_000
_WAITS = (0.1, 0.5, 1.0, 2.0, 4.0)
"""Seconds between tries; the last one repeats."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame.

    Attributes:
        number: its place in the source, from 0; frames that were dropped have numbers too.
        seconds: since the first frame; by the frame rate for files, by the clock for cameras.
        image: uint8 (H, W, 3), BGR.
    """

    number: int
    seconds: float
    image: ImageArray


class Frames:
    """The frames of a file: every one, in order. Use as a context manager.

    Attributes:
        fps: frames in a second.
        total: how many there are; None where that is not known.
        live: whether it is a camera or stream, which runs on while nobody looks.
        dropped: frames of a camera or stream that were not given out.
        reconnects: how often it was opened again.
        lost: why it ended, where it could not be opened again; None where it did not break off.
    """

    live = False
    dropped = 0
    reconnects = 0
    lost: str | None = None

    def __init__(
        self, capture: cv2.VideoCapture, *, fps: float | None, watch: Stopwatch | None = None
    ) -> None:
        self._capture = capture
        self._watch = watch or Stopwatch()
        self.fps = fps or frame_rate(capture)
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.total: int | None = count if count > 0 else None

    def __iter__(self) -> Iterator[Frame]:
        number = 0
        while (image := self._read()) is not None:
            yield Frame(number=number, seconds=number / self.fps, image=image)
            number += 1

    def _read(self) -> ImageArray | None:
        with self._watch.stage("decode"):
            good, image = self._capture.read()
        return np.asarray(image, np.uint8) if good else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()


class ImageFrames(Frames):
    """Images as the frames of a video, in the order given."""

    def __init__(
        self, sources: Sequence[Source], *, fps: float | None, watch: Stopwatch | None = None
    ) -> None:
        self.fps = fps or DEFAULT_FPS
        self.total = len(sources)
        self._rest = iter(sources)
        self._watch = watch or Stopwatch()

    def _read(self) -> ImageArray | None:
        source = next(self._rest, None)
        if source is None:
            return None
        with self._watch.stage("decode"):
            return load_image(source.path or source.address)

    def __exit__(self, *_: object) -> None:
        pass


class LiveFrames(Frames):
    """The newest frame of a camera or stream each time; a thread reads and drops the others."""

    live = True

    def __init__(
        self,
        source: Source,
        capture: cv2.VideoCapture,
        *,
        fps: float | None,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        super().__init__(capture, fps=fps)
        self._source = source
        self._retry_seconds = retry_seconds
        self._changed = threading.Condition()
        self._newest: Frame | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=source.name, daemon=True)

    def __iter__(self) -> Iterator[Frame]:
        self._thread.start()
        given = -1
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._ended.is_set())
                frame, self._newest = self._newest, None
            if frame is None:
                return
            self.dropped += frame.number - given - 1
            given = frame.number
            yield frame

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._capture.release()

    def _follow(self) -> None:
        number = tries = 0
        started = last = time.monotonic()
        while not self._ended.is_set():
            image = self._read()
            now = time.monotonic()
            if image is None:
                # One that opens and gives no frame is as lost as one that does not open.
                if not self._reopen(tries, until=last + self._retry_seconds):
                    break
                tries += 1
                continue
            tries, last, started = 0, now, started if number else now
            with self._changed:
                self._newest = Frame(number=number, seconds=now - started, image=image)
                self._changed.notify()
            number += 1
        with self._changed:
            self._ended.set()
            self._changed.notify()

    def _reopen(self, tries: int, *, until: float) -> bool:
        """Open it again; whether that was possible before `until` and before the end."""
        self._capture.release()
        while (left := until - time.monotonic()) > 0:
            if self._ended.wait(min(_WAITS[min(tries, len(_WAITS) - 1)], left)):
                return False
            tries += 1
            try:
                self._capture = open_capture(self._source)
            except DataError:
                continue
            self.reconnects += 1
            return True
        self.lost = (
            f"{self._source.name}: broke off, and gave no frame again within "
            f"{self._retry_seconds:g} s"
        )
        return False


def open_frames(
    sources: Sequence[Source],
    *,
    fps: float | None = None,
    retry_seconds: float = RETRY_SECONDS,
    watch: Stopwatch | None = None,
) -> Frames:
    """Open a video, camera or stream, or images that are frames.

    Args:
        sources: from `find_sources`: one video, camera or stream, or any number of images.
        fps: frames in a second; what the source says, or 25, for None.
        retry_seconds: how long a camera or stream that breaks off is tried again.
        watch: counts decoding, but for cameras and streams, which a thread reads.

    Raises:
        DataError: it cannot be opened.
        UsageError: there are several, or it is no such source.
    """
    if all(source.kind == "image" for source in sources):
        return ImageFrames(sources, fps=fps, watch=watch)
    if len(sources) > 1 or sources[0].kind == "stdin":
        raise UsageError(
            f"{sources[0].name}: expected one video, camera or stream, or images that are its "
            f"frames; got {plural(len(sources), 'source')}"
        )
    capture = open_capture(sources[0])
    # The address of a video that has an end is a file.
    if sources[0].kind == "camera" and not capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0:
        return LiveFrames(sources[0], capture, fps=fps, retry_seconds=retry_seconds)
    return Frames(capture, fps=fps, watch=watch)


def open_capture(source: Source) -> cv2.VideoCapture:
    """Open a video, camera or stream.

    Raises:
        DataError: when that is not possible; of an address after ten seconds at the latest.
    """
    if isinstance(source.address, int):
        capture = cv2.VideoCapture(source.address)
        what = "the camera cannot be opened; is it connected and free?"
    elif source.address is not None:
        limits = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, cv2.CAP_PROP_READ_TIMEOUT_MSEC)
        options = [value for limit in limits for value in (limit, _TIMEOUT_MS)]
        capture = cv2.VideoCapture(str(source.address), cv2.CAP_FFMPEG, options)
        what = "the stream cannot be opened; does the URL play in another program?"
    else:
        capture = cv2.VideoCapture(str(source.path))
        what = "the video cannot be opened (damaged, or in a format that OpenCV cannot read)"
    if not capture.isOpened():
        raise DataError(f"{source.name}: {what}")
    return capture


def frame_rate(capture: cv2.VideoCapture) -> float:
    """Frames in a second; 25 where the source does not say or says nonsense."""
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if np.isfinite(fps) and 0 < fps <= 1000 else DEFAULT_FPS
