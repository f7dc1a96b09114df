"""Objects followed from frame to frame, each with a number of its own."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from oculox.errors import UsageError
from oculox.extras import require
from oculox.types import Detections, ImageArray, IntArray

Algorithm = Literal["bytetrack", "sort", "ocsort", "botsort"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackSettings:
    """How objects are followed.

    Attributes:
        algorithm: ``bytetrack`` (arXiv 2110.06864), ``sort`` (1602.00763), ``ocsort``
            (2203.14360) or ``botsort`` (2206.14651), which follows a moving camera too.
        start_conf: lowest score that starts a new object; weaker detections only go on with
            known ones. `ocsort` leaves weaker ones out.
        lost_seconds: how long an object that is not seen keeps its number.

    Raises:
        UsageError: a value is out of its range.
    """

    algorithm: Algorithm = "bytetrack"
    start_conf: float = 0.5
    lost_seconds: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.start_conf <= 1:
            raise UsageError(f"`start_conf` must be from 0 to 1, got {self.start_conf}")
        if not 0 <= self.lost_seconds < float("inf"):
            raise UsageError(f"`lost_seconds` must be at least 0, got {self.lost_seconds}")


class Tracker:
    """Numbers the objects of one video; frames have to come in order.

    Args:
        settings: how objects are followed.
        fps: frames in a second.

    Raises:
        MissingExtraError: the package `trackers` is not installed.
        UsageError: there is no such algorithm.
    """

    def __init__(self, settings: TrackSettings, *, fps: float) -> None:
        trackers = require("trackers", extra="track", purpose="tracking")
        common = {
            # It counts frames of a thirtieth of a second, whatever the frame rate is.
            "lost_track_buffer": round(30 * settings.lost_seconds),
            "frame_rate": fps,
            "minimum_consecutive_frames": 2,
        }
        start = {"track_activation_threshold": settings.start_conf}
        strong = {"high_conf_det_threshold": settings.start_conf}
        builders = {
            "bytetrack": lambda: trackers.ByteTrackTracker(**common, **start, **strong),
            "sort": lambda: trackers.SORTTracker(**common, **start),
            "ocsort": lambda: trackers.OCSORTTracker(**common, **strong),
            "botsort": lambda: trackers.BoTSORTTracker(**common, **start, **strong),
        }
        if settings.algorithm not in builders:
            raise UsageError(
                f"`tracker` must be one of {', '.join(builders)}, got {settings.algorithm!r}"
            )
        self._tracker = builders[settings.algorithm]()
        self._looks = settings.algorithm == "botsort"

    def update(
        self, found: Detections, image: ImageArray, *, seconds: float | None = None
    ) -> Detections:
        """Number what was found in the next frame.

        Args:
            found: all detections of the frame, weak ones too.
            image: the frame, uint8 (H, W, 3), BGR.
            seconds: its time, where frames do not come at an even pace.

        Returns:
            Those that belong to an object, with `track_ids`, best score first. An object has its
            number from the second frame on in which it is seen.
        """
        given = found.to_supervision()
        given.data["place"] = np.arange(len(found))
        tracked = self._tracker.update(given, image if self._looks else None, timestamp=seconds)
        if not len(tracked):
            return dataclasses.replace(found[:0], track_ids=np.zeros(0, np.int64))
        known = tracked[tracked.tracker_id >= 0]
        places: IntArray = np.asarray(known.data["place"], np.int64)
        order = np.argsort(places)
        ids = np.asarray(known.tracker_id, np.int64)[order] + 1
        return dataclasses.replace(found[places[order]], track_ids=ids)
