"""From samples to batches, here or in loader processes; used by `oculox.data.loader`."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from oculox.data.faults import BadImages
from oculox.data.preprocess import stack_images
from oculox.distributed.launch import follow_parent
from oculox.errors import DataError, OculoxError
from oculox.types import Batch, IntArray, Sample, Targets

_LABEL_STEP = 8
"""Label slots come in multiples of this, so that few different shapes reach the compiler."""


LOADER_TIMEOUT = 600
"""Seconds without an answer after which a loader process counts as hung."""


class SampleKey(NamedTuple):
    """Names one sample: the image at `position` of `epoch`, in which phase."""

    epoch: int
    position: int
    image_index: int
    mosaic: bool


def collate(samples: Sequence[Sample], *, color: Literal["bgr", "rgb"]) -> Batch:
    """Stack samples of one size.

    Args:
        samples: at least one, all with images of the same size.
        color: channel order of the batch (samples are BGR).
    """
    most = max(len(s.boxes) for s in samples)
    slots = max(1, -(-most // _LABEL_STEP)) * _LABEL_STEP
    boxes = np.zeros((len(samples), slots, 4), np.float32)
    labels = np.zeros((len(samples), slots), np.int64)
    mask = np.zeros((len(samples), slots), np.bool_)
    for i, sample in enumerate(samples):
        count = len(sample.boxes)
        boxes[i, :count], labels[i, :count], mask[i, :count] = sample.boxes, sample.labels, True
    return Batch(
        images=torch.from_numpy(stack_images([s.image for s in samples], color=color)),
        targets=Targets(*(torch.from_numpy(a) for a in (boxes, labels, mask))),
        image_ids=tuple(s.image_id for s in samples),
        source_hw=tuple(s.source_hw for s in samples),
        faults=tuple(s.faults for s in samples),
    )


def order_indices(total: int, *, seed: int, start: int, count: int) -> IntArray:
    """A stretch of the endless order of images: one seeded permutation after another.

    Args:
        total: number of images, at least 1.
        seed: of the permutations.
        start: first entry.
        count: number of entries.

    Returns:
        int64 (count,), image indices.
    """
    first, last = start // total, (start + count - 1) // total
    stretch = np.concatenate(
        [
            np.random.default_rng(np.random.SeedSequence((seed, 0, p))).permutation(total)
            for p in range(first, last + 1)
        ]
    )
    return stretch[start - first * total :][:count].astype(np.int64)


Steps = list[list[SampleKey]]
"""What the next pass loads: the keys of each batch.

Loader processes live through all epochs; they learn of a new epoch or phase only through the keys
they are sent, so nothing in them can be out of date.
"""


class _Reader(Dataset[Batch | OculoxError]):
    """Makes whole batches from keys.

    An OculoxError is handed over as a value: raised in a loader process, it would reach the user
    with that process's traceback in its message.
    """

    def __init__(
        self,
        sample: Callable[[SampleKey], Sample],
        color: Literal["bgr", "rgb"],
        ahead: Callable[[list[SampleKey]], None] | None,
    ) -> None:
        self._sample = sample
        self._color = color
        self._ahead = ahead

    def __getitem__(self, keys: list[SampleKey]) -> Batch | OculoxError:
        try:
            if self._ahead is not None:
                self._ahead(keys)
            return collate([self._sample(key) for key in keys], color=self._color)
        except OculoxError as error:
            return error


Loader = DataLoader[Batch | OculoxError]


def open_loader(
    sample: Callable[[SampleKey], Sample],
    steps: Steps,
    *,
    color: Literal["bgr", "rgb"],
    workers: int,
    pin_memory: bool,
    timeout: float = LOADER_TIMEOUT,
    ahead: Callable[[list[SampleKey]], None] | None = None,
) -> Loader:
    """A loader over `steps`; read it with `read_batches`.

    On Linux loader processes are forked: they share the annotations and the image cache with
    this process, start at once and need no importable main module. They use neither OpenCV's
    nor PyTorch's threads, the two things that a fork breaks. Other systems have their own way.

    Args:
        sample: makes a sample; it must be picklable where processes are not forked.
        steps: what to load, looked at when a pass begins.
        color: channel order of the batches.
        workers: loader processes, which stay for all passes; 0 for none.
        pin_memory: page-locked batches.
        timeout: most seconds to wait for the loader processes.
        ahead: begins to fetch what the samples of a batch need, before they are made.
    """
    return DataLoader(
        _Reader(sample, color, ahead),
        sampler=steps,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        worker_init_fn=_start_worker,
        pin_memory=pin_memory,
        timeout=timeout if workers else 0,
        # Its own, or every pass would draw a seed from the global generator and so change what
        # the network draws.
        generator=torch.Generator(),
    )


def read_batches(
    loader: Loader, steps: Steps, bad: BadImages, *, name: Callable[[int], str]
) -> Iterator[Batch]:
    """One pass over a loader; a new pass ends the one before.

    Args:
        loader: from `open_loader`.
        steps: what it loads.
        bad: counts the images that were left out.
        name: file name of the image of an index, for messages.

    Raises:
        DataError: a sample could not be made, too many images were left out, or a loader process
            died or does not answer.
        AddressError: the images cannot be fetched.
    """
    passing: Any = iter(loader)
    done = 0
    try:
        for item in passing:
            if isinstance(item, OculoxError):
                raise item
            bad.add(fault for faults in item.faults for fault in faults)
            # Page-locking turns plain tuples into lists.
            yield item._replace(
                image_ids=tuple(item.image_ids),
                source_hw=tuple((int(h), int(w)) for h, w in item.source_hw),
                faults=tuple(tuple(faults) for faults in item.faults),
            )
            done += 1
    except (OculoxError, RuntimeError) as error:
        # PyTorch has no class of its own for a process that died or hangs.
        died = str(error).startswith("DataLoader worker (pid")
        hangs = str(error).startswith("DataLoader timed out")
        if hangs:
            # In this order: the end of a process that still counts is one more error. One that
            # hangs hears nothing else.
            passing._shutdown_workers()
            for worker in passing._workers:
                worker.kill()
                worker.join()
        del passing
        close_loader(loader)
        if hangs:
            images = ", ".join(name(key.image_index) for key in steps[done][:4])
            raise DataError(
                f"the loader processes have not answered for {loader.timeout:g} s (train.timeout "
                f"of a run), at a batch with {images}; is the disk or network with the images "
                "there, and fast enough?"
            ) from error
        if died:
            raise DataError(
                f"a loader process died ({error}); it may have run out of memory or of shared "
                "memory: lower data.workers, or enlarge /dev/shm (docker: --shm-size)"
            ) from error
        raise


def close_loader(loader: Loader) -> None:
    """Stop the loader processes; the next pass starts new ones.

    Left to the garbage collector the processes may miss their end and be waited for, five
    seconds each: an error's traceback keeps the loader in a reference cycle, and there the
    queues to the processes are finalised first. PyTorch offers no public way to do it in time.
    """
    loader._iterator = None


def _as_it_is(item: Any) -> Any:
    return item


def _start_worker(worker: int) -> None:
    """Set up a loader process; `worker` is its number."""
    # As many processes as there are cores for them: more threads would only slow them down.
    cv2.setNumThreads(0)
    # Signals to all processes are for the main one, which ends these.
    for name in ("SIGINT", "SIGUSR1"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    follow_parent(os.getppid(), alone=True)
    sys.excepthook = _unless_abandoned


def _unless_abandoned(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print nothing when the main process ended while a batch was sent to it.

    The thread that hands batches over reports through this hook, and on Ctrl-C the other end of
    its connection is closed.
    """
    if not issubclass(kind, (EOFError, ConnectionError)):
        sys.__excepthook__(kind, error, trace)
