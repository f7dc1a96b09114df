"""The time of a prediction by stage: decode, preprocess, network, postprocess."""

import dataclasses
import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, Self

Stage = Literal["decode", "preprocess", "network", "postprocess"]
STAGES: tuple[Stage, ...] = ("decode", "preprocess", "network", "postprocess")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageTimes:
    """Seconds spent in each stage over `images` images.

    Attributes:
        decode: reading and decoding files (in an evaluation: waiting for the loader).
        preprocess: letterbox and stacking.
        network: the forward pass; with NMS where the model contains it.
        postprocess: decoding of boxes, thresholds, NMS, back to source pixels.
        images: images that went through.
    """

    decode: float = 0.0
    preprocess: float = 0.0
    network: float = 0.0
    postprocess: float = 0.0
    images: int = 0

    @property
    def total(self) -> float:
        """Seconds in all stages."""
        return self.decode + self.preprocess + self.network + self.postprocess

    def milliseconds(self) -> dict[str, float]:
        """Mean milliseconds per image of each stage and of their `total`."""
        scale = 1000 / max(self.images, 1)
        seconds: dict[str, float] = {str(stage): getattr(self, stage) for stage in STAGES}
        return {stage: s * scale for stage, s in {**seconds, "total": self.total}.items()}

    def __add__(self, other: Self) -> Self:
        """The times of two runs together."""
        return type(self)(**{key: mine + getattr(other, key) for key, mine in vars(self).items()})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """Milliseconds per image over several measurements."""

    median: float
    min: float
    max: float


def spread_of(rounds: Iterable[StageTimes]) -> dict[str, Spread]:
    """The milliseconds per image of each stage and of their `total`; empty without measurements.

    Args:
        rounds: one measurement each, of an image or a batch.
    """
    rows = [one.milliseconds() for one in rounds if one.images]
    if not rows:
        return {}
    columns = {stage: [row[stage] for row in rows] for stage in rows[0]}
    return {
        stage: Spread(median=statistics.median(column), min=min(column), max=max(column))
        for stage, column in columns.items()
    }


class Stopwatch:
    """Adds up the seconds of each stage; `times` gives them as a value."""

    def __init__(self) -> None:
        self._seconds: dict[Stage, float] = dict.fromkeys(STAGES, 0.0)
        self._images = 0

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Count the time inside the `with` block for that stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - start

    def count(self, images: int) -> None:
        """Say that so many images went through."""
        self._images += images

    def restart(self) -> StageTimes:
        """What was measured so far; the watch begins again at zero."""
        times = self.times()
        self._seconds, self._images = dict.fromkeys(STAGES, 0.0), 0
        return times

    def times(self) -> StageTimes:
        """What was measured so far."""
        seconds = {str(stage): value for stage, value in self._seconds.items()}
        return StageTimes(images=self._images, **seconds)
