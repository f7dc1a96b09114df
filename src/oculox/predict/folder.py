"""Predict on many sources into a folder: annotated images and one `predictions.json`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from oculox.addresses import Location, local_output
from oculox.errors import DataError, OculoxError
from oculox.files import make_folder, remove_empty, require_free, write_image, write_json
from oculox.predict.pipeline import Pipeline
from oculox.predict.sources import LoadedImage, Source, Unreadable, fetching, read_source
from oculox.predict.video import VideoSummary, annotate_video
from oculox.runtime.timing import Spread, StageTimes, spread_of
from oculox.types import Detections, Progress

PREDICTIONS = "predictions.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictSummary:
    """The result of a run over many sources.

    Attributes:
        output: the folder.
        images: number of images predicted on.
        found: the result of each image, in order, without its pixels.
        detections: number of detections in images and videos.
        unreadable: the images and videos that were skipped, with the reason.
        truncated: the images whose files end too early; what could be decoded was predicted on.
        videos: one summary a video or camera.
        speed: milliseconds of an image by stage, video frames included; without the first batch
            or frame, which warms the network up, and so empty where there was no other.
    """

    output: Location
    images: int
    found: tuple[Detections, ...]
    detections: int
    unreadable: tuple[Unreadable, ...]
    truncated: tuple[Source, ...]
    videos: tuple[VideoSummary, ...]
    speed: dict[str, Spread]

    @property
    def predictions(self) -> Location:
        """The file of all detections in images."""
        return self.output / PREDICTIONS

    def moved(self, output: Location) -> PredictSummary:
        """The same files in another folder."""
        videos = [
            dataclasses.replace(
                video,
                video=video.video and output / video.video.name,
                predictions=output / video.predictions.name,
            )
            for video in self.videos
        ]
        return dataclasses.replace(self, output=output, videos=tuple(videos))

    @property
    def empty(self) -> bool:
        """Whether no source could be read, and so nothing was written."""
        return not self.images and not self.videos

    @property
    def ok(self) -> bool:
        """Whether every source could be read."""
        return not self.unreadable


def predict_to_folder(
    pipeline: Pipeline,
    sources: Sequence[Source],
    *,
    output: Location,
    draw: bool = True,
    overwrite: bool = False,
    max_frames: int | None = None,
    stdin: BinaryIO | None = None,
    progress: Progress | None = None,
) -> PredictSummary:
    """Predict on sources and write what was found.

    `predictions.json` is a list with one entry per image: source, width, height, detections
    (box in xyxy pixels, score, class_id, name), and `annotated`, the annotated file's name, if
    drawn. A video becomes a file of JSON lines and, if drawn, an MP4. A source that cannot be
    read is skipped and reported in the summary; where all are, nothing is written. After an error
    or an interrupt (Ctrl-C) `predictions.json` has the images that were done.

    Args:
        pipeline: what finds objects.
        sources: from `find_sources`.
        output: folder to write to; made if absent. Sources are never overwritten. At an address
            the files arrive at the end.
        draw: write annotated images and videos.
        overwrite: allow a folder that holds something already.
        max_frames: most frames of each video or camera.
        stdin: read for the source ``-``; standard input if None.
        progress: called with the numbers of sources done and in all.

    Raises:
        UsageError: when the folder is occupied.
        DataError: when it cannot be written.
    """
    with local_output(output, overwrite=overwrite) as folder:
        if not overwrite or folder.is_file():
            require_free(folder, replaceable=True)
        with remove_empty(folder):
            make_folder(folder)
            summary = _predict(
                pipeline,
                sources,
                output=folder,
                draw=draw,
                max_frames=max_frames,
                stdin=stdin,
                progress=progress,
            )
    return summary.moved(output)


def _predict(
    pipeline: Pipeline,
    sources: Sequence[Source],
    *,
    output: Path,
    draw: bool,
    max_frames: int | None,
    stdin: BinaryIO | None,
    progress: Progress | None,
) -> PredictSummary:
    names = _Names(output, sources)
    report = functools.partial(_report, progress, len(sources))
    images = [source for source in sources if source.kind in ("image", "stdin")]
    targets = {source: names.take(source) for source in images} if draw else {}
    rounds: list[StageTimes] = []
    written: list[_Written] = []
    unreadable: list[Unreadable] = []
    results = pipeline.each(
        fetching(images),
        read=functools.partial(read_source, stdin=stdin),
        finish=functools.partial(_finish, targets),
        rounds=rounds,
    )
    videos: list[VideoSummary] = []
    try:
        for done, (source, result) in enumerate(results, start=1):
            if isinstance(result, DataError):
                unreadable.append(Unreadable(source=source, error=result))
            else:
                written.append(result)
            report(done)
        for source in sources:
            if source.kind in ("video", "camera"):
                try:
                    target = names.take(source)
                    videos.append(
                        annotate_video(
                            pipeline,
                            source,
                            video=target if draw else None,
                            predictions=target.with_suffix(".jsonl"),
                            max_frames=max_frames,
                        )
                    )
                except DataError as error:
                    unreadable.append(Unreadable(source=source, error=error))
                report(len(written) + len(unreadable) + len(videos))
    except BaseException:  # an interrupt or an error keeps what is done, where there is room
        with contextlib.suppress(OculoxError):
            _write_predictions(output, written)
        raise
    if written or videos:
        _write_predictions(output, written)
    return PredictSummary(
        output=output,
        images=len(written),
        found=tuple(one.found for one in written),
        detections=sum(len(one.found) for one in written) + sum(v.detections for v in videos),
        unreadable=tuple(unreadable),
        truncated=tuple(one.source for one in written if one.truncated),
        videos=tuple(videos),
        speed=spread_of([*rounds, *(frame for v in videos for frame in v.rounds)][1:]),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Written:
    """What remains of an image: no pixels."""

    source: Source
    hw: tuple[int, int]
    found: Detections
    annotated: Path | None
    truncated: bool

    def entry(self) -> dict[str, Any]:
        """Of `predictions.json`."""
        return {
            "source": self.source.name,
            "width": self.hw[1],
            "height": self.hw[0],
            "detections": self.found.to_dicts(),
            **({"annotated": self.annotated.name} if self.annotated else {}),
        }


def _finish(targets: Mapping[Source, Path], loaded: LoadedImage, found: Detections) -> _Written:
    """Draw the image where it has a target."""
    target = targets.get(loaded.source)
    if target is not None:
        write_image(target, found.draw(loaded.image))
    return _Written(
        source=loaded.source,
        hw=loaded.image.shape[:2],
        found=dataclasses.replace(found, source=loaded.source.name),
        annotated=target,
        truncated=loaded.truncated,
    )


def _write_predictions(output: Path, written: Sequence[_Written]) -> None:
    write_json(output / PREDICTIONS, [one.entry() for one in written])


def _report(progress: Progress | None, total: int, done: int) -> None:
    if progress is not None:
        progress(done, total)


class _Names:
    """Gives out file names in a folder: no two alike, none of them a source's own file."""

    def __init__(self, folder: Path, sources: Sequence[Source]) -> None:
        self._folder = folder
        # Compared in lower case: `A.jpg` and `a.jpg` are one file on many systems.
        self._taken = {self._key(s.path) for s in sources if s.path is not None}
        self._taken.add(self._key(folder / PREDICTIONS))

    def take(self, source: Source) -> Path:
        if source.kind == "image" and source.path is not None:
            stem, suffix = source.path.stem, _written_suffix(source.path)
        elif source.kind == "image":
            page = Path(urlsplit(str(source.address)).path)
            stem, suffix = _plain(page.stem) or "image", _written_suffix(page)
        elif source.kind == "stdin":
            stem, suffix = source.name, ".jpg"
        else:
            stem, suffix = _plain(source.path.stem if source.path else source.name), ".mp4"
        target = self._folder / f"{stem}{suffix}"
        number = 2
        while self._key(target) in self._taken:
            target = self._folder / f"{stem}-{number}{suffix}"
            number += 1
        self._taken.add(self._key(target))
        return target

    @staticmethod
    def _key(path: Path) -> str:
        return os.path.realpath(path).lower()


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_. " else "_" for c in name)


def _written_suffix(path: Path) -> str:
    """Images keep their format where it suits photographs and every viewer shows it."""
    suffix = path.suffix.lower()
    return suffix if suffix in (".jpg", ".jpeg", ".png", ".webp", ".bmp") else ".png"
