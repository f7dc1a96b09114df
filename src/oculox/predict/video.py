"""Videos and cameras: frames in, one line of JSON a frame and an annotated video out."""

from __future__ import annotations

import dataclasses
import json
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import cv2

from oculox.addresses import Location
from oculox.errors import DataError, UsageError
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
    """
    if max_frames is not None and max_frames < 1:
        raise UsageError(f"`max_frames` must be at least 1, got {max_frames}")
    rounds: deque[StageTimes] = deque(maxlen=1000)
    opened = Frames(open_capture(source), fps=None)
    part_video = None if video is None else video.with_name(f".{video.stem}.part.mp4")
    part_lines = predictions.with_name(f".{predictions.name}.part")
    writer = None
    done = found = 0
    try:
        with opened, part_lines.open("w", encoding="utf-8") as lines:
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
                    if part_video is not None and drawn is not None:
                        writer = writer or open_writer(part_video, opened.fps, drawn)
                        writer.write(drawn)
                    row = {
                        "frame": done,
                        "seconds": round(done / opened.fps, 3),
                        "detections": detections.to_dicts(),
                    }
                    lines.write(json.dumps(row) + "\n")
                    done += 1
                    found += len(detections)
                    if progress is not None:
                        progress(done)
            except KeyboardInterrupt:
                if source.kind != "camera":
                    raise
        if not done:
            raise DataError(f"{source.name}: the video has no frames that can be read")
        if writer is not None and part_video is not None and video is not None:
            writer.release()
            part_video.replace(video)
        part_lines.replace(predictions)
    finally:
        for part in (part_video, part_lines):
            if part is not None:
                part.unlink(missing_ok=True)
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


def open_writer(path: Path, fps: float, image: ImageArray) -> cv2.VideoWriter:
    """An MP4 to write, for frames of the size of `image`.

    Raises:
        DataError: when OpenCV cannot write it.
    """
    height, width = image.shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
    if not writer.isOpened():
        raise DataError(f"{path}: this installation of OpenCV cannot write MP4 videos here")
    return writer
