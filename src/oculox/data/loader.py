"""Batches for training and evaluation, the same for any number of loader processes.

What a training batch holds depends only on (seed, epoch, step): not on the number of loader
processes, not on how many training processes share a global batch, not on where a run resumed.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Literal

import numpy as np
import torch

from oculox.addresses import Address, fetch_ahead
from oculox.config.schema import Config, InputConfig
from oculox.data.batches import (
    LOADER_TIMEOUT,
    SampleKey,
    Steps,
    close_loader,
    open_loader,
    order_indices,
    read_batches,
)
from oculox.data.cache import FileImages, build_images
from oculox.data.coco import CocoIndex
from oculox.data.faults import BadImages, bad_evaluation_images, bad_training_images
from oculox.data.preprocess import apply_letterbox, boxes_to_input, letterbox_geometry
from oculox.data.train_set import TrainSet
from oculox.distributed.launch import count_processes_here
from oculox.errors import DataError
from oculox.types import Batch, ImageArray, Sample

_TINY = 64
"""Sets below this many images are read in the training process itself."""


class TrainLoader:
    """Full training batches, one process's share of each global batch.

    The images come in an endless concatenation of permutations. An epoch takes
    `steps_per_epoch` global batches of it, and process r the r-th contiguous slice of each.
    """

    def __init__(
        self,
        train_set: TrainSet,
        *,
        batch: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        seed: int = 0,
        pin_memory: bool = False,
        timeout: float = LOADER_TIMEOUT,
        bad: BadImages | None = None,
    ) -> None:
        """Keep the parts; loader processes start with the first epoch and stay.

        Args:
            train_set: makes the samples.
            batch: images a step for this process.
            rank: number of this process.
            world_size: number of processes.
            workers: loader processes; 0 makes samples in this process.
            seed: of the order.
            pin_memory: page-locked batches, for copies to a CUDA device.
            timeout: most seconds to wait for the loader processes.
            bad: counts the images that cannot be used over all epochs; none may be by default.
        """
        self._set = train_set
        self._bad = bad or bad_training_images(0, images=len(train_set))
        self._batch, self._rank, self._world_size = batch, rank, world_size
        self._seed = seed
        self._steps: Steps = []
        self._loader = open_loader(
            partial(_train_sample, train_set),
            self._steps,
            color=train_set.input_config.color,
            workers=workers,
            pin_memory=pin_memory,
            timeout=timeout,
            ahead=partial(_fetch_train, train_set),
        )

    @property
    def index(self) -> CocoIndex:
        """The split."""
        return self._set.index

    @property
    def steps_per_epoch(self) -> int:
        """Steps until about every image was seen once."""
        return -(-len(self._set) // (self._batch * self._world_size))

    def iterate(self, epoch: int, *, mosaic: bool, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch; a new epoch ends the one before.

        Args:
            epoch: counted from 0.
            mosaic: true in the first phase.
            start_step: steps of the epoch already done.

        Raises:
            DataError: too many images cannot be used, or a loader process died or hangs.
        """
        share = self._batch * self._world_size
        size = self.steps_per_epoch * share
        order = order_indices(len(self._set), seed=self._seed, start=epoch * size, count=size)
        self._steps[:] = [
            [
                SampleKey(epoch, position, int(order[position]), mosaic)
                for position in range(low, low + self._batch)
            ]
            for low in range(start_step * share + self._rank * self._batch, size, share)
        ]
        name = self._set.index.file_name
        yield from read_batches(self._loader, self._steps, self._bad, name=name)

    def close(self) -> None:
        """Stop the loader processes now; a later pass starts new ones."""
        close_loader(self._loader)


class EvalLoader:
    """Letterboxed batches of a split in order: every image once over all processes.

    Or whole images, BGR, one a batch. In place of an image that cannot be used comes a grey one,
    with its fault in `Batch.faults`.

    Process r takes every `world_size`-th image from the r-th on; the last batch may be smaller.
    `letterbox_geometry` recovers each image's geometry.
    """

    def __init__(
        self,
        index: CocoIndex,
        *,
        input_config: InputConfig | None,
        batch: int,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        timeout: float = LOADER_TIMEOUT,
        max_bad_images: int = 0,
    ) -> None:
        """Keep the parts; loader processes start with the first pass and stay.

        Args:
            index: the split.
            input_config: size, placement, padding and colour order; None for whole images.
            batch: most images at once; 1 for whole ones, whose sizes differ.
            workers: loader processes; 0 reads in this process.
            rank: number of this process.
            world_size: number of processes.
            pin_memory: page-locked batches, for copies to a CUDA device.
            timeout: most seconds to wait for the loader processes.
            max_bad_images: how many images that cannot be used may be in a pass.
        """
        self.index = index
        self.max_bad_images = max_bad_images
        self.input_config = input_config
        mine = list(range(rank, len(index), world_size))
        self._steps = [
            [SampleKey(0, i, i, mosaic=False) for i in mine[low : low + batch]]
            for low in range(0, len(mine), batch)
        ]
        self._loader = open_loader(
            partial(_eval_sample, index, FileImages(index), input_config),
            self._steps,
            color=input_config.color if input_config else "bgr",
            workers=workers,
            pin_memory=pin_memory,
            timeout=timeout,
            ahead=partial(_fetch_eval, index),
        )

    def __len__(self) -> int:
        """Number of batches of this process."""
        return len(self._steps)

    def __iter__(self) -> Iterator[Batch]:
        """The batches, from the start; a new pass ends the one before.

        Raises:
            DataError: too many images cannot be used, or a loader process died or hangs.
        """
        bad = bad_evaluation_images(self.max_bad_images)
        yield from read_batches(self._loader, self._steps, bad, name=self.index.file_name)

    def close(self) -> None:
        """Stop the loader processes now; a later pass starts new ones."""
        close_loader(self._loader)


def build_train_loader(
    config: Config,
    index: CocoIndex,
    *,
    rank: int = 0,
    world_size: int = 1,
    batch_per_process: int,
    report: Callable[[str], None] | None = None,
) -> TrainLoader:
    """The training loader of a configuration.

    Args:
        config: the run.
        index: its training split.
        rank: number of this process.
        world_size: number of processes.
        batch_per_process: images a step (or micro-batch) for this process.
        report: gets a line on what a disk cache takes.

    Raises:
        DataError: the cache does not fit, or too many images cannot be read into it.
    """
    bad = bad_training_images(config.data.max_bad_images, images=len(index))
    images = build_images(
        index,
        cache=config.data.cache,
        input_config=config.input,
        processes=count_processes_here(world_size),
        bad=bad,
        report=report,
    )
    train_set = TrainSet(
        index,
        input_config=config.input,
        augment=config.augment,
        max_labels=config.data.max_labels,
        seed=config.train.seed,
        images=images,
    )
    return TrainLoader(
        train_set,
        batch=batch_per_process,
        rank=rank,
        world_size=world_size,
        workers=_workers(config, index, world_size),
        seed=config.train.seed,
        pin_memory=_wants_pinned(config),
        timeout=config.train.timeout,
        bad=bad,
    )


def build_eval_loader(
    config: Config, index: CocoIndex, *, rank: int = 0, world_size: int = 1
) -> EvalLoader:
    """The evaluation loader of a configuration, over this process's share of `index`."""
    return EvalLoader(
        index,
        input_config=config.input,
        batch=config.eval.batch,
        workers=_workers(config, index, world_size),
        rank=rank,
        world_size=world_size,
        pin_memory=_wants_pinned(config),
        timeout=config.train.timeout,
        max_bad_images=config.eval.max_bad_images,
    )


def _workers(config: Config, index: CocoIndex, world_size: int) -> int:
    return choose_workers(
        config.data.workers, image_count=len(index), processes=count_processes_here(world_size)
    )


def choose_workers(workers: int | Literal["auto"], *, image_count: int, processes: int = 1) -> int:
    """Loader processes for each training process.

    ``auto``: this process's share of the cores less one for itself, from 1 to 16; none for tiny
    sets, which are read faster than processes start.

    Args:
        workers: their number, or ``auto``.
        image_count: images of the split.
        processes: training processes on this machine, which share its cores.
    """
    if workers != "auto":
        return workers
    if image_count < _TINY:
        return 0
    affinity = getattr(os, "sched_getaffinity", None)  # respects containers; Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(16, max(1, cores // processes - 1))


def _wants_pinned(config: Config) -> bool:
    return config.train.device in ("auto", "cuda") and torch.cuda.is_available()


def _fetch_train(train_set: TrainSet, keys: list[SampleKey]) -> None:
    if isinstance(train_set.images, FileImages):
        _fetch(
            train_set.index,
            (
                i
                for key in keys
                for i in train_set.images_of(
                    key.epoch, key.position, key.image_index, mosaic=key.mosaic
                )
            ),
        )


def _fetch_eval(index: CocoIndex, keys: list[SampleKey]) -> None:
    _fetch(index, (key.image_index for key in keys))


def _fetch(index: CocoIndex, numbers: Iterable[int]) -> None:
    """Begin to fetch images that are at an address."""
    if isinstance(folder := index.image_dir, Address):
        fetch_ahead({folder / index.stored_in(i) for i in numbers})


def _train_sample(train_set: TrainSet, key: SampleKey) -> Sample:
    return train_set.sample(key.epoch, key.position, key.image_index, mosaic=key.mosaic)


def _eval_sample(
    index: CocoIndex,
    images: Callable[[int], ImageArray],
    input_config: InputConfig | None,
    key: SampleKey,
) -> Sample:
    source_hw, boxes = index.source_hw(key.image_index), index.boxes(key.image_index)
    size, grey = (input_config.size, input_config.pad_value) if input_config else ((32, 32), 0)
    faults: tuple[str, ...] = ()
    try:
        image = images(key.image_index)
    except DataError as error:
        image = np.full((*size, 3), grey, np.uint8)
        faults = (str(error),)
    if input_config:
        fit = letterbox_geometry(source_hw, input_config.size, input_config.placement)
        boxes = boxes_to_input(boxes, fit)
        if not faults:
            image = apply_letterbox(image, fit, pad_value=grey)
    return Sample(
        image=image,
        boxes=boxes,
        labels=index.labels(key.image_index),
        image_id=index.image_id(key.image_index),
        source_hw=source_hw,
        faults=faults,
    )
