"""Videos and cameras: frames in, one line of JSON a frame and an annotated video out."""

from __future__ import annotations

import dataclasses
import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from oculox.addresses import Location
from oculox.errors import DataError, OculoxError, UsageError
from oculox.files import scratch_beside
from oculox.predict.frames import Frames, open_capture, open_frames
from oculox.predict.pipeline import Pipeline
from oculox.predict.sources import LoadedImage, Source
from oculox.runtime.timing import StageTimes
from oculox.types import Detections, ImageArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoSummary:
    """The result of a video.

    Attributes:
        source: its name.
        video: the annotated MP4; None where none was wanted.
        predictions: JSON lines, one per frame: frame, seconds, detections.
        frames: number of frames.
        detections: number of detections in all frames.
        rounds: seconds by stage of each of the last 1000 frames.
    """

    source: str
    video: Location | None
    predictions: Location
    frames: int
    detections: int
    rounds: tuple[StageTimes, ...]


def annotate_video(
    pipeline: Pipeline,
    source: Source,
    *,
    video: Path | None,
    predictions: Path,
    max_frames: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> VideoSummary:
    """Write what is found in every frame; files appear only once they are complete.

    A camera ends with `max_frames` or an interrupt (Ctrl-C), which keeps what was recorded.

    Args:
        pipeline: what finds objects.
        source: of kind ``video`` or ``camera``.
        video: the MP4 to draw it to; None for no video.
        predictions: the JSON lines to write.
        max_frames: stop after so many frames.
        progress: called with the number of frames done.

    Raises:
        DataError: when the source cannot be opened or has no frames.
        UsageError: when `max_frames` is not positive.
        OculoxError: when the files cannot be written.
    """
    if max_frames is not None and max_frames < 1:
        raise UsageError(f"`max_frames` must be at least 1, got {max_frames}")
    rounds: deque[StageTimes] = deque(maxlen=1000)
    opened = Frames(open_capture(source), fps=None)
    done = found = 0
    with scratch_beside(predictions) as scratch:
        part_lines = scratch / predictions.name
        part_video = part_lines.with_suffix(".mp4")
        with opened, VideoFiles(part_lines, part_video, fps=opened.fps) as files:
            try:
                frames = islice(opened, max_frames)
                results = pipeline.each(
                    (LoadedImage(source=source, image=frame.image) for frame in frames),
                    read=lambda frame: frame,
                    finish=partial(_drawn, draw=video is not None),
                    batch=1,
                    # A frame of a camera has to be looked at before the next one is there.
                    ahead=source.kind != "camera",
                    rounds=rounds,
                )
                for _, result in results:
                    assert not isinstance(result, DataError), "a frame was read already"
                    detections, drawn = result
                    files.add(detections, drawn, number=done, seconds=done / opened.fps)
                    done += 1
                    found += len(detections)
                    if progress is not None:
                        progress(done)
            except KeyboardInterrupt:
                if source.kind != "camera":
                    raise
        if not done:
            raise DataError(f"{source.name}: the video has no frames that can be read")
        files.require_whole()
        if video is not None:
            part_video.replace(video)
        part_lines.replace(predictions)
    return VideoSummary(
        source=source.name,
        video=video,
        predictions=predictions,
        frames=done,
        detections=found,
        rounds=tuple(rounds),
    )


def _drawn(
    frame: LoadedImage, found: Detections, *, draw: bool
) -> tuple[Detections, ImageArray | None]:
    return found, found.draw(frame.image) if draw else None


def read_frames(source: Source) -> Iterator[ImageArray]:
    """The frames of a video, or the newest ones of a camera; uint8 (H, W, 3), BGR, one at a time.

    Raises:
        DataError: when it cannot be opened, or broke off for good.
    """
    with open_frames([source]) as frames:
        yield from (frame.image for frame in frames)
        if frames.lost:
            raise DataError(frames.lost)


class VideoFiles(ExitStack):
    """What is written while frames come: JSON lines and, of frames that were drawn, an MP4.

    Args:
        lines: the JSON lines to write.
        video: the MP4 to write; it is made with the first drawn frame, of that one's size.
        fps: its frames in a second.
    """

    def __init__(self, lines: Path, video: Path, *, fps: float) -> None:
        super().__init__()
        self._lines = self.enter_context(lines.open("w", encoding="utf-8"))
        self._video, self._fps, self._shown = video, fps, 0

    def add(
        self,
        found: Detections,
        drawn: ImageArray | None,
        *,
        number: int,
        seconds: float,
        times: int = 1,
    ) -> None:
        """Write a frame.

        Args:
            found: in it.
            drawn: the frame with its boxes; None for no video.
            number: of the frame.
            seconds: since the first one.
            times: how often the video shows it.

        Raises:
            DataError: OpenCV cannot write MP4 videos.
            OSError: the disk refuses.
        """
        row = {"frame": number, "seconds": round(seconds, 3), "detections": found.to_dicts()}
        self._lines.write(json.dumps(row) + "\n")
        if drawn is None:
            return
        if not self._shown:
            self._size = drawn.shape[1], drawn.shape[0]
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._video), fourcc, self._fps, self._size)
            if not self._writer.isOpened():
                raise DataError("this installation of OpenCV cannot write MP4 videos")
            self.callback(self._writer.release)
        if drawn.shape[1::-1] != self._size:  # after a stream was opened again
            drawn = np.asarray(cv2.resize(drawn, self._size), np.uint8)
        for _ in range(times):
            self._writer.write(drawn)
        self._shown += times

    def require_whole(self) -> None:
        """See, once the files are closed, that the video is there: OpenCV tells of no failed write.

        Raises:
            OculoxError: it is not.
        """
        if self._shown:
            capture = cv2.VideoCapture(str(self._video))
            there = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
            capture.release()
            if there < self._shown:
                raise OculoxError(
                    f"{self._video.name}: the video could not be written ({there} of "
                    f"{self._shown} frames can be read); see that the disk has room"
                )
