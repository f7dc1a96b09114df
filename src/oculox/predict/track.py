"""Follow objects through a video, camera or stream, and write what was found."""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oculox.errors import DataError, UsageError
from oculox.files import move_entries, require_free, scratch_beside, write_json
from oculox.predict.counting import Counter
from oculox.predict.frames import RETRY_SECONDS, Frame, Frames, open_frames
from oculox.predict.pipeline import Pipeline
from oculox.predict.sources import Source
from oculox.predict.tracker import Tracker, TrackSettings
from oculox.predict.video import VideoFiles
from oculox.runtime.timing import Spread, StageTimes, Stopwatch, spread_of
from oculox.types import Detections, Progress

VIDEO, LINES, MOT, SUMMARY = "tracks.mp4", "tracks.jsonl", "tracks.txt", "summary.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackSummary:
    """The result of a tracked video.

    Attributes:
        source: its name.
        output: the folder.
        video: the annotated MP4; None where none was wanted.
        predictions: JSON lines, one per frame: frame, seconds, detections with `track_id`.
        mot: the same as MOT challenge text.
        frames: number of frames looked at.
        dropped: frames of a camera or stream that came while the network was busy.
        reconnects: how often a camera or stream was opened again.
        lost: why a camera or stream ended early; None where it did not.
        objects: how many objects of each class were followed, an object by its first class.
        lines: what crossed each line; see `Counter.lines`.
        zones: what was in each zone; see `Counter.zones`.
        milliseconds: of a frame by stage; the first one, which warms up, is left out.
    """

    source: str
    output: Path
    video: Path | None
    predictions: Path
    mot: Path
    frames: int
    dropped: int
    reconnects: int
    lost: str | None
    objects: dict[str, int]
    lines: list[dict[str, Any]]
    zones: list[dict[str, Any]]
    milliseconds: dict[str, Spread]


def track_frames(
    pipeline: Pipeline,
    frames: Frames,
    settings: TrackSettings,
    *,
    watch: Stopwatch | None = None,
) -> Iterator[tuple[Frame, Detections]]:
    """Find and number the objects of one frame after the other.

    Args:
        pipeline: what finds objects; its lowest score should be well below `start_conf`.
        frames: opened.
        settings: how objects are followed.
        watch: counts the stages.

    Yields:
        The frame and its objects, which know their number.

    Raises:
        MissingExtraError: the package `trackers` is not installed.
    """
    tracker = Tracker(settings, fps=frames.fps)
    for frame in frames:
        [found] = pipeline([frame.image], watch=watch)
        seconds = frame.seconds if frames.live else None
        yield frame, tracker.update(found, frame.image, seconds=seconds)


def track_source(
    pipeline: Pipeline,
    sources: Sequence[Source],
    settings: TrackSettings,
    *,
    fps: float | None = None,
    retry_seconds: float = RETRY_SECONDS,
) -> Iterator[Detections]:
    """The objects of one frame after the other; see `track_frames` and `open_frames`.

    Raises:
        DataError: the source cannot be opened, or broke off for good.
        MissingExtraError: the package `trackers` is not installed.
    """
    with open_frames(sources, fps=fps, retry_seconds=retry_seconds) as frames:
        for frame, found in track_frames(pipeline, frames, settings):
            read = functools.partial(np.asarray, frame.image)
            yield dataclasses.replace(found, source=sources[0].name, read=read)
        if frames.lost:
            raise DataError(frames.lost)


def track_to_folder(
    pipeline: Pipeline,
    frames: Frames,
    settings: TrackSettings,
    *,
    source: str,
    output: Path,
    counter: Counter | None = None,
    draw: bool = True,
    overwrite: bool = False,
    max_frames: int | None = None,
    watch: Stopwatch | None = None,
    progress: Progress | None = None,
) -> TrackSummary:
    """Follow objects and write video, JSON lines, MOT text and a summary, once all is complete.

    A camera ends with `max_frames` or an interrupt (Ctrl-C), which keeps what was recorded. Its
    video shows a frame again for each one that was dropped, so that it runs at the right speed.

    Args:
        pipeline: what finds objects.
        frames: opened.
        settings: how objects are followed.
        source: its name.
        output: the folder; made if absent.
        counter: lines and zones.
        draw: write the annotated video.
        overwrite: allow a folder that holds something already.
        max_frames: stop after so many frames.
        watch: the one that `frames` counts decoding with.
        progress: called with the numbers of frames done and in all.

    Raises:
        UsageError: the folder is occupied, or `max_frames` is not positive.
        DataError: there are no frames, or the video cannot be written.
        MissingExtraError: the package `trackers` is not installed.
    """
    if max_frames is not None and max_frames < 1:
        raise UsageError(f"`max_frames` must be at least 1, got {max_frames}")
    if not overwrite or output.is_file():
        require_free(output, replaceable=True)
    if Path(source).absolute() == (output / VIDEO).absolute():
        raise UsageError(f"{source}: the source would be replaced; name another `output`")
    watch, counter = watch or Stopwatch(), counter or Counter()
    rounds: deque[StageTimes] = deque(maxlen=1000)
    classes: dict[int, str] = {}
    done = last = 0
    with scratch_beside(output) as scratch:
        with (
            VideoFiles(scratch / LINES, scratch / VIDEO, fps=frames.fps) as files,
            (scratch / MOT).open("w", encoding="utf-8") as mot,
        ):
            try:
                for frame, found in track_frames(pipeline, frames, settings, watch=watch):
                    rounds.append(watch.restart())
                    classes = {int(one.track_id or 0): one.name for one in found} | classes
                    counter.update(found)
                    files.add(
                        found,
                        counter.draw(found.draw(frame.image)) if draw else None,
                        number=frame.number,
                        seconds=frame.seconds,
                        times=frame.number - last if done else 1,
                    )
                    mot.writelines(_mot_rows(frame, found))
                    last = frame.number
                    done += 1
                    if progress is not None:
                        progress(done, max_frames or frames.total)
                    if done == max_frames:
                        break
            except KeyboardInterrupt:
                if not frames.live:
                    raise
        if not done:
            raise DataError(f"{source}: the video has no frames that can be read")
        files.require_whole()
        names = list(classes.values())
        summary = TrackSummary(
            source=source,
            output=output,
            video=output / VIDEO if draw else None,
            predictions=output / LINES,
            mot=output / MOT,
            frames=done,
            dropped=frames.dropped,
            reconnects=frames.reconnects,
            lost=frames.lost,
            objects={name: names.count(name) for name in dict.fromkeys(names)},
            lines=counter.lines(),
            zones=counter.zones(),
            milliseconds=spread_of([*rounds][1:]),
        )
        write_json(scratch / SUMMARY, summary_as_dict(summary))
        move_entries(scratch, output)
    return summary


def summary_as_dict(summary: TrackSummary) -> dict[str, Any]:
    """Plain values, as ``summary.json`` holds them."""
    values = dataclasses.asdict(summary)
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}


def _mot_rows(frame: Frame, found: Detections) -> Iterator[str]:
    for one in found:
        left, top, right, bottom = one.box
        box = f"{left:.2f},{top:.2f},{right - left:.2f},{bottom - top:.2f}"
        yield f"{frame.number + 1},{one.track_id},{box},{one.score:.4f},-1,-1,-1\n"
