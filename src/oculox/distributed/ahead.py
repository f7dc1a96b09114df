"""Work on one item after the other in threads, while the caller uses what is done."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

MOST_THREADS = 8
"""More gain little: what Python itself does runs in one of them at a time."""


class _Cores:
    """How many threads PyTorch uses for one operator, while `work_ahead` gives its own fewer.

    That number is a thread's own, and that of all threads to come: a caller that begins while
    another is at work would take a share for the whole.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = self._kept = 0

    def number(self) -> int:
        """As it is, or was before the first of those who are at work began."""
        with self._lock:
            return self._kept if self._users else torch.get_num_threads()

    @contextmanager
    def shared(self) -> Iterator[int]:
        """Keep the number while threads of the block change it, and then put it back."""
        with self._lock:
            if not self._users:
                self._kept = torch.get_num_threads()
            self._users += 1
            kept = self._kept
        try:
            yield kept
        finally:
            with self._lock:
                self._users -= 1
                torch.set_num_threads(kept)


_CORES = _Cores()


def usable_threads() -> int:
    """How many threads may work at once: as many as PyTorch uses for one operator, 8 at most."""
    return min(_CORES.number(), MOST_THREADS)


def work_ahead(function: Callable[[T], R], items: Iterable[T], *, threads: int) -> Iterator[R]:
    """``map(function, items)``, several at once.

    A network on one image keeps several cores busy only in part, and reading, drawing and writing
    one core alone; whole images side by side use all of them. In each thread PyTorch takes its
    share of the cores.

    Args:
        function: called in the threads; in the caller's own where there is one thread.
        items: taken in the caller's thread, at most two for each thread ahead of the results.
        threads: how many.

    Yields:
        The results in the order of the items. An error comes in its place and ends the work; so
        does an interrupt (Ctrl-C), or closing the generator: what has begun is finished, the rest
        is not begun.
    """
    if threads < 2:
        yield from map(function, items)
        return
    with _CORES.shared() as cores:
        pool = ThreadPoolExecutor(
            threads, initializer=torch.set_num_threads, initargs=(max(1, cores // threads),)
        )
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                while waiting and (waiting[0].done() or len(waiting) > 2 * threads):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
