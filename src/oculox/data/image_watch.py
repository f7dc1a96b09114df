"""A look at all images of a run ahead of it, so that hours of training do not end at a bad one."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import SEEK_END, BytesIO
from multiprocessing.connection import Connection
from pathlib import Path

import cv2

from oculox.addresses import Address
from oculox.data.cache import FileImages
from oculox.data.coco import CocoIndex
from oculox.data.faults import BadImages
from oculox.data.image import ImageFile, read_header
from oculox.errors import DataError

_ENDS = 1 << 16
"""Bytes read at either end of a training image."""

News = Callable[[], list[tuple[int, str]]]


@contextmanager
def watch_images(
    train: tuple[CocoIndex, BadImages],
    val: tuple[CocoIndex, BadImages],
    *,
    report: Callable[[str], None],
    ahead: bool = True,
) -> Iterator[Callable[[Iterable[str]], None]]:
    """Report the bad images of a run, and end it as soon as they are known to be too many.

    Args:
        train: the training split, and the count of its bad images.
        val: the validation split, and the count of its bad images.
        report: gets a line for each bad image.
        ahead: look at all files as well, in one process of low priority: validation images are
            decoded, of training images the header and the end are read.

    Yields:
        A function to call after every batch with the faults that came with it. It raises
        DataError when a split has more bad images than allowed.
    """
    splits = (train, val)
    # To look at images of a storage would download the whole dataset.
    ahead = ahead and not any(isinstance(index.image_dir, Address) for index, _ in splits)
    with _looking_ahead([index for index, _ in splits], enabled=ahead) as news:

        def look(faults: Iterable[str]) -> None:
            for split, message in (*((0, fault) for fault in faults), *news()):
                for new in splits[split][1].add([message]):
                    report(f"{('training', 'validation')[split]} image left out: {new}")

        yield look


@contextmanager
def _looking_ahead(indexes: Sequence[CocoIndex], *, enabled: bool) -> Iterator[News]:
    """Yields a function that tells which bad images were found since it was last called."""
    if not enabled:
        yield list
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_look_at_all, args=(indexes, sender), daemon=True)
    process.start()
    # The process holds the other end: where it has ended, reading does too.
    sender.close()

    def news() -> list[tuple[int, str]]:
        found = []
        try:
            while receiver.poll():
                found.append(receiver.recv())
        except (EOFError, OSError):
            receiver.close()
        return found

    try:
        yield lambda: [] if receiver.closed else news()
    finally:
        process.kill()  # it has nothing to save, and may hang on a disk that is gone
        process.join()
        receiver.close()


def _look_at_all(indexes: Sequence[CocoIndex], sender: Connection) -> None:
    """Send (number of the split, what is wrong) for every bad image; in a process of its own."""
    for name in ("SIGINT", "SIGUSR1"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)
    if hasattr(os, "nice"):
        os.nice(19)
    parent = multiprocessing.parent_process()
    train, val = indexes
    # Validation images first: they are fewer, and are met last.
    for split, index, decode in ((1, val, True), (0, train, False)):
        files = FileImages(index)
        for i in range(len(index)):
            if parent is not None and not parent.is_alive():
                return
            try:
                if decode or not _looks_whole(index.image_file(i), index.source_hw(i)):
                    files(i)
            except DataError as error:
                sender.send((split, str(error)))


def _looks_whole(path: ImageFile, stated_hw: tuple[int, int]) -> bool:
    """Whether the ends of a file say that it is whole and has those sides, in either order.

    Of an image in a shard all bytes are read, as they have a checksum.
    """
    try:
        with path.open("rb") if isinstance(path, Path) else BytesIO(path.read_bytes()) as file:
            head = file.read(_ENDS)
            file.seek(max(len(head), file.seek(0, SEEK_END) - _ENDS))
            header = read_header(head + file.read())
    except OSError:
        return False
    return header.size_hw in (stated_hw, stated_hw[::-1]) and not header.truncated
