"""Images in tar shards: where one is, and how its bytes are read and written.

A COCO file whose ``shard_bytes`` lists the sizes of shards is their index: it gives each image a
``shard``, its place ``[number of the shard, offset, bytes, CRC-32]``. A place names no file, so it
cannot lead out of the image folder, and an image is read alone, without looking at the archive
around it. The archives are in the layout of WebDataset: of each sample an image and a JSON file.
"""

import dataclasses
import io
import os
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oculox.addresses import Address, Location, cache_limit, open_cached
from oculox.data.image import ImageFile
from oculox.errors import DataError
from oculox.types import IntArray

SIZES = "shard_bytes"
"""Key of a COCO file: the size of each shard in bytes."""
PLACE = "shard"
"""Key of its images."""

_BLOCK = 512
"""Bytes of the head of a file in a tar archive."""


def shard_name(number: int) -> str:
    """Name of a shard in the image folder."""
    return f"shard-{number:06d}.tar"


def is_place(place: Any, sizes: Sequence[int]) -> bool:
    """Whether it is the place of an image within shards of these sizes."""
    if type(place) not in (list, tuple) or len(place) != 4:
        return False
    if any(type(value) is not int or value < 0 for value in place):
        return False
    number, offset, size, crc32 = map(int, place)
    return number < len(sizes) and offset + size <= sizes[number] and crc32 < 1 << 32


@dataclasses.dataclass(frozen=True, slots=True)
class ShardImage:
    """An image in a shard.

    The shard is opened for each read: that costs microseconds, and leaves no open files to count,
    to lock between threads or to share with processes. One at an address is kept whole in the cache
    of this machine, where it is fetched once.

    Attributes:
        shard: the tar file.
        name: the file name in the dataset.
        offset: of the image's first byte.
        size: bytes.
        crc32: of the bytes.
    """

    shard: Location
    name: str
    offset: int
    size: int
    crc32: int

    def __str__(self) -> str:
        """Shard and name, for messages."""
        return f"{self.shard}: {self.name}"

    def read_bytes(self) -> bytes:
        """The bytes of the image file, as they were packed.

        Raises:
            OSError: the shard cannot be read.
            DataError: it ends too early, or its bytes are others.
            AddressError: it cannot be fetched.
        """
        shard = self.shard
        with open_cached(shard) if isinstance(shard, Address) else shard.open("rb") as file:
            # Before reading: a wrong size would take the memory.
            if os.fstat(file.fileno()).st_size < self.offset + self.size:
                raise DataError(f"{self}: the shard ends before the image does; fetch it again")
            file.seek(self.offset)
            data = file.read(self.size)
        if zlib.crc32(data) != self.crc32:
            raise DataError(
                f"{self}: the bytes at {self.offset} are not those that were packed (their CRC-32 "
                "differs from the index); fetch the shard and the index again"
            )
        return data


def image_file(folder: Location, name: str, place: Sequence[int] | None) -> ImageFile:
    """An image of a dataset: a file in a folder, or a part of a shard there."""
    if place is None:
        return folder / name
    number, offset, size, crc32 = map(int, place)
    return ShardImage(folder / shard_name(number), name, offset, size, crc32)


def require_room(folder: Location, places: IntArray) -> None:
    """Refuse shards at an address that the cache of this machine cannot hold all at once.

    Samples take images from any shard, so each would be fetched again and again.

    Args:
        folder: where the shards are.
        places: int64 (n, 4), of the images.

    Raises:
        DataError: they are larger than the cache.
    """
    size = int(places[:, 2].sum())
    if isinstance(folder, Address) and size > cache_limit():
        raise DataError(
            f"{folder}: the shards have {size / 1e9:.1f} GB, and the cache of this machine holds "
            f"{cache_limit() / 1e9:.1f}; set OCULOX_CACHE_GB to more, or fetch them to a disk"
        )


class ShardWriter:
    """Writes samples into shards of a new folder; equal samples give equal files.

    Args:
        folder: it is made.
        limit: bytes of a shard; one sample may be larger, and has a shard of its own.
    """

    def __init__(self, folder: Path, *, limit: float) -> None:
        self.sizes: list[int] = []
        self._folder, self._limit = folder, limit
        self._tar: tarfile.TarFile | None = None
        folder.mkdir(parents=True)

    def add(self, key: str, image: bytes, *, suffix: str, sample: bytes) -> list[int]:
        """Append a sample.

        Args:
            key: name of the sample, without a dot.
            image: the bytes of the image file.
            suffix: of the image, with its dot.
            sample: what is known of the image, as JSON.

        Returns:
            The place of the image, see the module.
        """
        needed = sum(_BLOCK + -(-len(part) // _BLOCK) * _BLOCK for part in (image, sample))
        if self._tar is not None and self._tar.offset + needed + tarfile.RECORDSIZE > self._limit:
            self.close()
        if self._tar is None:
            path = self._folder / shard_name(len(self.sizes))
            self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        place = [len(self.sizes), self._tar.offset + _BLOCK, len(image), zlib.crc32(image)]
        for name, content in ((f"{key}{suffix}", image), (f"{key}.json", sample)):
            head = tarfile.TarInfo(name)
            head.size = len(content)
            self._tar.addfile(head, io.BytesIO(content))
        return place

    def close(self) -> None:
        """End the last shard; then `sizes` holds the bytes of all."""
        if self._tar is not None:
            self._tar.close()
            self.sizes.append((self._folder / shard_name(len(self.sizes))).stat().st_size)
            self._tar = None
