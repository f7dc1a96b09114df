"""Images of many requests as batches of one network."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from oculox.postprocess import DetectSettings
from oculox.predict.pipeline import Pipeline
from oculox.runtime.timing import Stopwatch
from oculox.serve.metrics import Metrics
from oculox.types import Detections, ImageArray


class _Job(NamedTuple):
    image: ImageArray
    settings: DetectSettings
    result: asyncio.Future[Detections]


class Batcher:
    """Collects images while the network is busy, and gives them to it together.

    A batch that is not full waits only while other images are being decoded, so that a lone
    request is not held up. Images with other thresholds go one after the other.

    Args:
        pipeline: what finds objects; its `batch` is the most images at once.
        max_wait_ms: the longest wait for a fuller batch.
        metrics: is told of batches and times.
    """

    def __init__(self, pipeline: Pipeline, *, max_wait_ms: float, metrics: Metrics) -> None:
        self._pipeline, self._wait, self._metrics = pipeline, max_wait_ms / 1000, metrics
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        # One batch in the network, one that gets ready: no more decoded images are in memory.
        self._room = asyncio.Semaphore(2 * pipeline.batch)
        self._decoding = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")

    @contextlib.asynccontextmanager
    async def room(self) -> AsyncIterator[None]:
        """Hold one of the few places for images that are decoded; the others wait."""
        async with self._room:
            yield

    @contextlib.contextmanager
    def decoding(self) -> Iterator[None]:
        """Say that an image will come."""
        self._decoding += 1
        try:
            yield
        finally:
            self._decoding -= 1

    async def detect(self, image: ImageArray, settings: DetectSettings) -> Detections:
        """Find objects in an image, uint8 (H, W, 3), BGR; see `Pipeline`."""
        result: asyncio.Future[Detections] = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait(_Job(image, settings, result))
        return await result

    async def run(self) -> None:
        """Work through the queue until cancelled."""
        while True:
            jobs = await self._collect()
            for settings in dict.fromkeys(job.settings for job in jobs):
                await self._detect([job for job in jobs if job.settings == settings], settings)

    def close(self) -> None:
        """Wait for the batch that is in the network, and end its thread."""
        self._thread.shutdown()

    async def _collect(self) -> list[_Job]:
        """The next batch: what waits, and for a moment what is being decoded."""
        jobs = [await self._jobs.get()]
        deadline = asyncio.get_running_loop().time() + self._wait
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while len(jobs) < self._pipeline.batch:
                    if self._jobs.empty() and not self._decoding:
                        break
                    jobs.append(await self._jobs.get())
        return jobs

    async def _detect(self, jobs: Sequence[_Job], settings: DetectSettings) -> None:
        """Run one batch and hand out its results."""
        # Requests whose time is over are gone.
        jobs = [job for job in jobs if not job.result.done()]
        if not jobs:
            return
        watch = Stopwatch()
        images = [job.image for job in jobs]
        loop = asyncio.get_running_loop()
        try:
            pipeline = self._pipeline.with_settings(settings)
            found = await loop.run_in_executor(self._thread, lambda: pipeline(images, watch=watch))
        except Exception as error:  # noqa: BLE001 - each request of the batch has to learn of it
            for job in jobs:
                if not job.result.done():
                    job.result.set_exception(error)
            return
        self._metrics.count_batch(watch.times())
        for job, result in zip(jobs, found, strict=True):
            if not job.result.done():
                job.result.set_result(result)
