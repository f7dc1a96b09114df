"""Parts of images on Ray: workers that hold the model, on one machine or on all of a cluster.

These are plain actors, not Ray Data. There a part has no file of its own to go on from, and an
image that kills its worker ends the whole run, or is tried for ever.
"""

from __future__ import annotations

import math
import signal
import threading
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from oculox.addresses import Location
from oculox.errors import OculoxError, OculoxWarning, first_line
from oculox.extras import require
from oculox.predict.parquet import DonePart, FailedPart, Open, PartWorker

TRIES = 3
"""How often a part is begun that ends with the death of its worker."""
_PATIENCE = 60


@contextmanager
def ray_workers(
    open_model: Open, output: Location, *, number: int | None = None, gpu: bool = True
) -> Iterator[RayWorkers]:
    """Workers on the cluster of ``RAY_ADDRESS``, or of this machine; else on a Ray started here.

    A Ray that the program itself has started is used, and stays.

    Args:
        open_model: opens the model, in each worker.
        output: a folder that all machines share.
        number: of workers; None for one a GPU, or one a machine where there are none. They share
            the cores and GPUs.
        gpu: whether the model may use GPUs.

    Raises:
        MissingExtraError: Ray is not installed.
        OculoxError: the cluster cannot be reached, or has no machine to work on.
    """
    ray = require("ray", extra="ray", purpose="the engine ray")
    own = not ray.is_initialized()
    if own:
        try:
            # What workers print would come in between the results on standard output.
            ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        except ConnectionError as error:
            raise OculoxError(
                f"Ray: the cluster cannot be reached ({first_line(error)})"
            ) from error
    with ExitStack() as stack:
        if own:
            stack.callback(ray.shutdown)
            stack.enter_context(_ending_by_sigterm())
        workers = RayWorkers(ray, open_model, output, number=number, gpu=gpu)
        stack.callback(workers.close)
        yield workers


@contextmanager
def _ending_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the program, and with it Ray; Ray's own handler tells it as another failure."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class RayWorkers:
    """See `ray_workers`.

    A worker has one part at a time. One that dies is replaced, and its part is begun again. Parts
    go to workers that have opened the model: a cluster without room for all of them uses only the
    workers that could start.
    """

    def __init__(
        self, ray: Any, open_model: Open, output: Location, *, number: int | None, gpu: bool
    ) -> None:
        self._ray = ray
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        number, self._share = worker_shares(machines, number, gpu=gpu)
        self._actor = ray.remote(PartWorker).options(**self._share)
        shared = output.absolute() if isinstance(output, Path) else output
        self._arguments = open_model, shared
        self._settings: Mapping[str, Any] | None = None
        self._waiting: deque[int] = deque()
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, int | None]] = {}
        self._deaths: Counter[int | None] = Counter()
        for _ in range(number):
            self._add()

    def _add(self) -> None:
        actor = self._actor.remote(*self._arguments)
        self._busy[actor.settings.remote()] = (actor, None)

    def settings(self) -> Mapping[str, Any]:
        """See `Workers.settings`; the same for all workers."""
        while self._settings is None:
            self._next()
        return self._settings

    def each(self, parts: Iterable[int]) -> Iterator[DonePart | FailedPart]:
        """See `Workers.each`."""
        self._waiting.extend(parts)
        while self._waiting or any(part is not None for _, part in self._busy.values()):
            while self._waiting and self._idle:
                actor, part = self._idle.pop(), self._waiting.popleft()
                self._busy[actor.predict.remote(part)] = (actor, part)
            result = self._next()
            if result is not None:
                yield result

    def _next(self) -> DonePart | FailedPart | None:
        """Wait until a worker is done with something; None where that is no part."""
        while not (done := self._ray.wait(list(self._busy), timeout=_PATIENCE)[0]):
            if all(part is None for _, part in self._busy.values()):
                warnings.warn(
                    f"Ray: no worker has opened the model for {_PATIENCE} seconds; one needs "
                    f"{self._share}, and the cluster has {self._ray.available_resources()} left",
                    OculoxWarning,
                    stacklevel=2,
                )
        actor, part = self._busy.pop(call := done[0])
        try:
            result: Any = self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, OculoxError):
                raise error.cause from None
            if part is None:
                raise
            result = FailedPart(number=part, error=first_line(error.cause))
        except self._ray.exceptions.RayError as error:
            self._ray.kill(actor)
            self._add()
            return self._died(part, _reason(error))
        self._idle.append(actor)
        if isinstance(result, DonePart | FailedPart):
            return result
        self._deaths[None] = 0
        if self._settings not in (None, result):
            raise OculoxError(
                f"Ray: the workers opened different models: {self._settings} and {result}; "
                "the files of the model and the packages must be the same on all machines"
            )
        self._settings = result
        return None

    def _died(self, part: int | None, reason: str) -> FailedPart | None:
        self._deaths[part] += 1
        if self._deaths[part] < TRIES:
            if part is not None:
                self._waiting.appendleft(part)
            return None
        if part is None:
            raise OculoxError(
                f"Ray: {TRIES} workers died before they had opened the model ({reason}); Oculox "
                "must be installed alike on all machines, and fewer `workers` take less memory"
            )
        return FailedPart(number=part, error=f"its worker died {TRIES} times ({reason})")

    def close(self) -> None:
        """End all workers."""
        for actor in [*self._idle, *(actor for actor, _ in self._busy.values())]:
            self._ray.kill(actor)


def _reason(error: Exception) -> str:
    """Of a death the first line; of an exception of the worker the last, which names it."""
    lines = str(error).strip().splitlines()
    return lines[-1 if "creation task" in lines[0] else 0]


def worker_shares(
    machines: Iterable[Mapping[str, float]], number: int | None, *, gpu: bool
) -> tuple[int, dict[str, float]]:
    """How many workers there are, and what each takes of its machine.

    Args:
        machines: their resources, as Ray counts them: ``CPU`` and ``GPU``.
        number: of workers that is wanted; see `ray_workers`.
        gpu: see `ray_workers`.

    Returns:
        Their number, and ``num_cpus`` and ``num_gpus`` of one.

    Raises:
        OculoxError: no machine has CPUs.
    """
    usable = [one for one in machines if one.get("CPU")]
    if not usable:
        raise OculoxError("Ray: the cluster has no machine with CPUs to work on")
    gpus = sum(one.get("GPU", 0) for one in usable) if gpu else 0
    if gpus:
        usable = [one for one in usable if one.get("GPU")]
    number = number or int(gpus) or len(usable)
    cpus = min(one["CPU"] for one in usable) / math.ceil(number / len(usable))
    return number, {"num_cpus": _rounded(cpus), "num_gpus": _rounded(min(1, gpus / number))}


def _rounded(share: float) -> float:
    """Ray takes whole numbers, and smaller ones to the fourth place."""
    return math.floor(share) if share >= 1 else math.floor(share * 1e4) / 1e4
