"""Where training images come from: their files, or a decode-once cache.

Both caches keep an image no larger than its letterbox at the input size, as the official cache
does. The plain path then gives the same pixels as without a cache; a mosaic interpolates a
large image twice instead of once, a difference that cannot be seen.

On disk a split has one cache: a new one, of another input size or of changed images, replaces
those before it, unless a run is reading them.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import secrets
import shutil
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch

from oculox.addresses import Address
from oculox.config.schema import InputConfig
from oculox.data.coco import CocoIndex
from oculox.data.faults import BadImages, bad_training_images
from oculox.data.image import read_image, shrink_for
from oculox.data.preprocess import letterbox_geometry
from oculox.data.train_set import Images
from oculox.errors import DataError, UsageError
from oculox.files import hold_lock, try_lock
from oculox.types import ImageArray, IntArray

_CHUNK = 256
"""Images decoded ahead of the writer of a disk cache."""

_PREFIX = "oculox-cache-"
"""Of the names of disk caches."""

_RAM_SHARE = 0.8
"""Part of the available memory that a cache may take."""


@dataclasses.dataclass(frozen=True)
class FileImages:
    """Images decoded from their files at every call."""

    index: CocoIndex

    def __call__(self, i: int, scale: float = 1.0) -> ImageArray:
        """Image i: uint8 (H, W, 3), BGR; a smaller copy where it will be drawn at half or less.

        Args:
            i: which image.
            scale: pixels that it is drawn to for each of its own.

        Raises:
            DataError: it cannot be read, or its size is not what the annotations state (its
                boxes would be wrong).
        """
        path = self.index.image_file(i)
        shrink = shrink_for(scale)
        image = read_image(path, shrink=shrink)
        height, width = self.index.source_hw(i)
        if shrink > 1:
            # Decoders round either way.
            if np.abs(np.divide((height, width), shrink) - image.shape[:2]).max() < 1:
                return image
            image = read_image(path)
        if image.shape[:2] != (height, width):
            got = f"{image.shape[1]} x {image.shape[0]}"
            turned = (
                " (turned by its EXIF orientation?)"
                if image.shape[1::-1] == (height, width)
                else ""
            )
            raise DataError(
                f"{path}: the image is {got}{turned}, but image {self.index.image_id(i)!r} of "
                f"{self.index.annotations} says {width} x {height}; correct the annotations"
            )
        return image


class CachedImages:
    """Images kept decoded in one flat array: all pixels, then a byte for each image that is kept.

    The array is a tensor in memory or a memory-mapped file: loader processes share either, so
    memory does not grow with their number.
    """

    def __init__(self, files: FileImages, shapes_hw: IntArray, store: torch.Tensor | Path) -> None:
        """Serve images out of a store.

        Args:
            files: asked for images that could not be kept, and says what is wrong with them.
            shapes_hw: int64 (n, 2), sizes of the kept images.
            store: uint8 tensor of all pixels and marks in a row, or the path of an `.npy` file of
                them.
        """
        self._files = files
        self._shapes = shapes_hw
        self._offsets = _offsets(shapes_hw)
        self._store = store
        self._mapped: npt.NDArray[np.uint8] | None = None
        if isinstance(store, Path):
            weakref.finalize(self, os.close, _hold(store))

    def __getstate__(self) -> dict[str, object]:
        # A memory map would be pickled as the whole array.
        return {**self.__dict__, "_mapped": None}

    def __call__(self, i: int, scale: float = 1.0) -> ImageArray:
        """Image i: uint8 (h, w, 3), BGR, a view that must not be changed.

        Args:
            i: which image.
            scale: as for `FileImages`, which serves what could not be kept.

        Raises:
            DataError: it could not be read when the store was filled, and still cannot.
        """
        if self._mapped is None:
            self._mapped = (
                np.load(self._store, mmap_mode="r")
                if isinstance(self._store, Path)
                else self._store.numpy()
            )
        if not self._mapped[self._offsets[-1] + i]:
            return self._files(i, scale)
        flat = self._mapped[self._offsets[i] : self._offsets[i + 1]]
        return np.asarray(flat).reshape(*self._shapes[i].tolist(), 3)


def build_images(
    index: CocoIndex,
    *,
    cache: Literal["none", "ram", "disk"],
    input_config: InputConfig,
    folder: Path | None = None,
    processes: int = 1,
    bad: BadImages | None = None,
    report: Callable[[str], None] | None = None,
) -> Images:
    """The reader of a split's images, with its cache filled.

    Args:
        index: the split.
        cache: ``none``, ``ram`` (each process its own) or ``disk`` (shared, kept between runs).
        input_config: kept images are no larger than their letterbox in this input.
        folder: where a disk cache is kept; beside the annotations by default.
        processes: training processes on this machine, which divide its memory.
        bad: counts the images that cannot be read into a cache; none may be by default.
        report: gets a line on what a disk cache takes, and on what it replaces.

    Raises:
        DataError: too many images cannot be read, or memory or disk space do not suffice.
    """
    files = FileImages(index)
    bad = bad or bad_training_images(0, images=len(index))
    if cache == "none":
        return files
    shapes = np.array([_kept_hw(index.source_hw(i), input_config) for i in range(len(index))])
    if cache == "ram":
        store = _fill_ram(files, shapes, bad, processes=processes)
        return CachedImages(files, shapes, store)
    if isinstance(index.annotations, Address) or isinstance(index.image_dir, Address):
        raise UsageError(
            "data.cache=disk: not for images at a URL, whose files are kept already; use ram "
            "or none"
        )
    folder = folder or index.annotations.parent
    split, (height, width) = _split_key(index), input_config.size
    path = folder / f"{_PREFIX}{split}-{height}x{width}-{_key(index, shapes)}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Windows: two writers waste time, the last move wins.
        with hold_lock(path.with_suffix(".lock")):
            if not _is_whole(path, shapes):
                note = _make_room(path, split, needed=_needed(shapes))
                _write(path, files, shapes, bad)
            else:
                note = f"{path}: {_needed(shapes) / 1e9:.1f} GB, from an earlier run"
            if report is not None:
                report(f"data.cache=disk: {note}")
            return CachedImages(files, shapes, path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot keep the image cache ({error.strerror or error})"
        ) from None


class CacheFile(NamedTuple):
    """A disk cache: the file, its size in bytes, and the input height x width in its name."""

    path: Path
    size: int
    input_size: str


def find_caches(folder: Path) -> list[CacheFile]:
    """The disk caches in a folder, by name."""
    # Names hold split, input size and content; names of older versions have the content alone.
    paths = sorted(folder.glob(f"{_PREFIX}*.npy"))
    sides = [[*p.stem.removeprefix(_PREFIX).split("-"), "unknown"][1] for p in paths]
    return [CacheFile(p, p.stat().st_size, s) for p, s in zip(paths, sides, strict=True)]


def remove_cache(path: Path) -> bool:
    """Delete a disk cache; false, and nothing done, where a run uses it.

    Raises:
        DataError: it cannot be deleted.
    """
    try:
        with path.open("rb") as file:
            free = try_lock(file)  # Windows: deleting it says so
        if free:
            path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)
            return True
    except OSError as error:
        raise DataError(f"{path}: cannot be deleted ({error.strerror or error})") from None
    return False


def available_memory() -> int | None:
    """Bytes this process can still take, the limit of its container included; None if unknown."""
    found = []
    try:
        with Path("/proc/meminfo").open() as lines:
            found += [int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable:")]
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            used = int(Path("/sys/fs/cgroup/memory.current").read_text())
            found.append(int(limit) - used)
    except OSError:  # no Linux, or an older control group
        pass
    return min(found, default=None)


def _kept_hw(source_hw: tuple[int, int], input_config: InputConfig) -> tuple[int, int]:
    fit = letterbox_geometry(source_hw, input_config.size, input_config.placement)
    return fit.inner_hw if fit.scale < 1 else source_hw


def _offsets(shapes_hw: IntArray) -> IntArray:
    offsets = np.zeros(len(shapes_hw) + 1, np.int64)
    np.cumsum(shapes_hw.prod(axis=1) * 3, out=offsets[1:])
    return offsets


def _needed(shapes_hw: IntArray) -> int:
    """Bytes of a store: the pixels, and a mark for each image."""
    return int(_offsets(shapes_hw)[-1]) + len(shapes_hw)


def _decoded(files: FileImages, shapes_hw: IntArray, bad: BadImages) -> Iterator[ImageArray | None]:
    """Every image at its kept size, in order, decoded on all cores a chunk ahead; None if bad."""

    def kept(i: int) -> ImageArray | DataError:
        try:
            image = files(i)
        except DataError as error:
            return error
        height, width = shapes_hw[i].tolist()
        if image.shape[:2] == (height, width):
            return image
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        numbers = iter(range(len(shapes_hw)))
        while chunk := list(itertools.islice(numbers, _CHUNK)):
            for image in pool.map(kept, chunk):
                if isinstance(image, DataError):
                    bad.add([str(image)])
                    yield None
                else:
                    yield image


def _fill_ram(
    files: FileImages, shapes_hw: IntArray, bad: BadImages, *, processes: int
) -> torch.Tensor:
    offsets = _offsets(shapes_hw)
    needed, available = _needed(shapes_hw), available_memory()
    if available is not None and needed * processes > available * _RAM_SHARE:
        raise DataError(
            f"data.cache=ram: {len(shapes_hw)} images need {needed * processes / 1e9:.1f} GB "
            f"({processes} process{'es' if processes > 1 else ''}), {available / 1e9:.1f} GB of "
            "memory are available; use data.cache=disk or none"
        )
    # A tensor, not an array: where loader processes are not forked it moves to shared memory.
    store = torch.empty(needed, dtype=torch.uint8)
    flat = store.numpy()
    for i, image in enumerate(_decoded(files, shapes_hw, bad)):
        flat[offsets[-1] + i] = image is not None
        if image is not None:
            flat[offsets[i] : offsets[i + 1]] = image.reshape(-1)
    return store


def _key(index: CocoIndex, shapes_hw: IntArray) -> str:
    """Changes whenever a kept pixel could: files, sizes, times, target size or decoder."""
    digest = hashlib.sha256(
        json.dumps([2, cv2.__version__, str(Path(str(index.image_dir)).resolve())]).encode()
    )
    digest.update(index.sizes_hw.tobytes() + shapes_hw.tobytes() + index.places.tobytes())
    for i in range(0 if len(index.places) else len(index)):
        stat = Path(str(index.image_path(i))).stat()
        digest.update(f"{index.file_name(i)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:20]


def _is_whole(path: Path, shapes_hw: IntArray) -> bool:
    try:
        return bool(np.load(path, mmap_mode="r").shape == (_needed(shapes_hw),))
    except (FileNotFoundError, ValueError, EOFError):
        return False


def _split_key(index: CocoIndex) -> str:
    """Names a split, whatever is in its files."""
    places = [str(Path(str(place)).resolve()) for place in (index.annotations, index.image_dir)]
    return hashlib.sha256(json.dumps(places).encode()).hexdigest()[:8]


def _make_room(path: Path, split: str, *, needed: int) -> str:
    """Delete the caches that `path` replaces; says what it will take.

    Raises:
        DataError: there is not enough room even without them.
    """
    older = [c for c in find_caches(path.parent) if c.path.name.startswith(f"{_PREFIX}{split}-")]
    free = shutil.disk_usage(path.parent).free
    room = free + sum(c.size for c in older)
    if needed > room:
        raise DataError(
            f"data.cache=disk: {path.parent} has {room / 1e9:.1f} GB free (older caches of the "
            f"split counted as free), the images need {needed / 1e9:.1f} GB; free some space or "
            "use data.cache=none"
        )
    removed = sum(remove_cache(c.path) for c in older)
    return (
        f"{path}: {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB were free; "
        f"older caches of the split removed: {removed}"
    )


def _hold(path: Path) -> int:
    """Open a cache so that `remove_cache` leaves it alone; the descriptor to close."""
    held = os.open(path, os.O_RDONLY)
    try_lock(held, shared=True, wait=True)  # Windows deletes no open files
    return held


def _write(path: Path, files: FileImages, shapes_hw: IntArray, bad: BadImages) -> None:
    """Write all images beside `path`, then move them there in one step."""
    for left in path.parent.glob(f"{path.stem}.*.partial"):  # by a process that was killed
        with contextlib.suppress(OSError):  # Windows: a writer at work, which no lock keeps out
            left.unlink()
    partial = path.with_suffix(f".{secrets.token_hex(4)}.partial")
    try:
        with partial.open("wb") as out:
            header = {"descr": "|u1", "fortran_order": False, "shape": (_needed(shapes_hw),)}
            np.lib.format.write_array_header_1_0(out, header)
            kept = bytearray()
            for shape, image in zip(shapes_hw, _decoded(files, shapes_hw, bad), strict=True):
                kept.append(image is not None)
                pixels = np.zeros((*shape, 3), np.uint8) if image is None else image
                out.write(np.ascontiguousarray(pixels).data)
            out.write(kept)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
