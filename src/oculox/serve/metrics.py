"""What the service counts, for Prometheus."""

from __future__ import annotations

import os

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from oculox.runtime.timing import STAGES, StageTimes
from oculox.types import Detections

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable of prometheus_client: where several workers share their counts."""
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one process; with several workers those of all are added up."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "oculox_requests", "Answers by path and status.", ["path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "oculox_request_seconds",
            "From a request's head to the end of its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.running = Gauge(
            "oculox_requests_running",
            "Requests that are being read, wait or are worked on.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._batch_size = Histogram(
            "oculox_batch_size",
            "Images that went through the network together.",
            buckets=_BATCH_SIZES,
            registry=registry,
        )
        self._stages = Counter(
            "oculox_stage_seconds", "Time in each stage.", ["stage"], registry=registry
        )
        self._detections = Counter(
            "oculox_detections", "Objects found, by class.", ["name"], registry=registry
        )

    def count_answer(self, path: str, status: int, seconds: float) -> None:
        """An answer was sent."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_batch(self, times: StageTimes) -> None:
        """A batch went through the network."""
        self._batch_size.observe(times.images)
        for stage in STAGES:
            self._stages.labels(stage).inc(getattr(times, stage))

    def count_decoding(self, seconds: float) -> None:
        """An image was decoded."""
        self._stages.labels("decode").inc(seconds)

    def count_found(self, found: Detections) -> None:
        """Objects were found."""
        for name, count in found.counts().items():
            self._detections.labels(name).inc(count)

    def as_text(self) -> bytes:
        """The counts in the text format of Prometheus."""
        if SHARED_FOLDER not in os.environ:
            return generate_latest(self._registry)
        shared = CollectorRegistry()
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
        return generate_latest(shared)
