"""What a COCO file says, as columns: read fast where nothing in it is wrong, and kept between runs.

`read_columns` reads only the fields that training and evaluation need, into typed objects, and
gives up at the first thing that is not as it should be: then the reader of `oculox.data.coco_scan`
looks at the whole file and says what is wrong. Columns of large files are kept in the cache
folder. A kept copy counts only while the file has the same place, size, time and checksum.
"""

import contextlib
import dataclasses
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from oculox.data.coco_scan import CocoScan, GroundTruth, image_size, paused_gc
from oculox.data.faults import stays_inside
from oculox.data.shards import PLACE, SIZES, is_place
from oculox.errors import OculoxError
from oculox.files import cache_folder, write_atomically
from oculox.types import ImageId, IntArray

KEPT_FROM = 16 << 20
"""Bytes of the smallest annotation file whose columns are kept; smaller ones are read at once."""

_FORMAT = 2
"""Of the kept files; another one makes them read anew."""
_CHUNK = 1 << 18
_LONGEST = 1e100
"""Side of a box whose area is a number too."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PackedStrings:
    """Many strings in two arrays.

    Attributes:
        data: uint8 (total bytes,), UTF-8.
        offsets: int64 (n + 1,); string i is ``data[offsets[i]:offsets[i + 1]]``.
    """

    data: npt.NDArray[np.uint8]
    offsets: IntArray

    @classmethod
    def pack(cls, strings: Sequence[str]) -> Self:
        """Store `strings`, in order."""
        encoded = [s.encode("utf-8", "surrogatepass") for s in strings]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(e) for e in encoded], out=offsets[1:])
        return cls(data=np.frombuffer(b"".join(encoded), np.uint8), offsets=offsets)

    def __len__(self) -> int:
        """Number of strings."""
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> str:
        """String i."""
        low, high = self.offsets[i], self.offsets[i + 1]
        return self.data[low:high].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        """The strings, in order."""
        data = self.data.tobytes()
        for low, high in pairwise(self.offsets.tolist()):
            yield data[low:high].decode("utf-8", "surrogatepass")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CocoColumns:
    """The valid entries of a COCO file.

    Attributes:
        class_names: name of each class, by contiguous index.
        category_ids: the file's category id of each class, ascending.
        sizes_hw: int32 (n, 2), height and width of each image as the file states them.
        file_names: of the n images.
        packed_ids: n image ids, as JSON.
        places: int64 (n, 4), of images in shards (`oculox.data.shards`); (0, 4) of files.
        truth: the objects.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    sizes_hw: npt.NDArray[np.int32]
    file_names: PackedStrings
    packed_ids: PackedStrings
    places: IntArray
    truth: GroundTruth

    @classmethod
    def from_scan(cls, scan: CocoScan) -> Self:
        """The valid entries that a scan found."""
        return cls(
            class_names=scan.class_names,
            category_ids=scan.category_ids,
            sizes_hw=scan.sizes_hw,
            file_names=PackedStrings.pack([image["file_name"] for image in scan.images]),
            packed_ids=_packed_ids([image["id"] for image in scan.images]),
            places=_places([image[PLACE] for image in scan.images if SIZES in scan.tree]),
            truth=scan.truth,
        )


class _Category(msgspec.Struct, gc=False):
    id: int
    name: int | str


class _Image(msgspec.Struct, gc=False):
    id: int | str
    file_name: str
    height: int | float
    width: int | float
    shard: tuple[int, int, int, int] | None = None


class _Object(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int | None = None


class _File(msgspec.Struct, gc=False):
    images: list[_Image]
    annotations: list[_Object]
    categories: list[_Category]
    shard_bytes: list[int] | None = None


def read_columns(annotations: Path) -> CocoColumns | None:
    """The columns of a COCO file; None where `oculox.data.coco_scan` has to look at it.

    What this gives is what the scan would give. Fields that are not needed are not looked at.
    """
    try:
        place = annotations.resolve()
        stat = place.stat()
        facts = [_FORMAT, str(place), stat.st_size, stat.st_mtime_ns]
        name = hashlib.sha256(str(place).encode("utf-8", "surrogatepass")).hexdigest()[:20]
        kept = cache_folder() / "annotations" / name
        if stat.st_size < KEPT_FROM:
            return _decode(place.read_bytes())
        if kept.exists():
            with ThreadPoolExecutor(1) as pool:  # beside the rest: it is a third of the work
                checksum = pool.submit(_checksum, place)
                columns = _load_kept(kept, facts, checksum.result)
            if columns is not None:
                return columns
        content = place.read_bytes()
    except OSError:
        return None
    columns = _decode(content)
    if columns is not None:
        # Without room or permission the file is read again next time.
        with contextlib.suppress(OculoxError):
            _keep(kept, [*facts, zlib.crc32(content)], columns)
    return columns


@paused_gc()
def _decode(content: bytes) -> CocoColumns | None:
    try:
        file = msgspec.json.decode(content, type=_File)
        categories = {category.id: str(category.name) for category in file.categories}
        ids = sorted(categories)
        position = {image.id: i for i, image in enumerate(file.images)}
        label_of = {number: label for label, number in enumerate(ids)}
        objects = file.annotations
        truth = GroundTruth(
            owners=np.array([position[one.image_id] for one in objects], np.int64),
            labels=np.array([label_of[one.category_id] for one in objects], np.int64),
            xywh=np.array([one.bbox for one in objects], np.float64).reshape(-1, 4),
            areas=np.array([np.nan if one.area is None else one.area for one in objects]),
            crowd=np.array([bool(one.iscrowd) for one in objects], np.bool_),
        )
    except (msgspec.MsgspecError, KeyError, ValueError, RecursionError):
        return None
    names = [image.file_name for image in file.images]
    sizes = [image_size(image.height, image.width) for image in file.images]
    shards = file.shard_bytes
    places = [image.shard for image in file.images if shards is not None]
    if np.abs(truth.xywh).max(initial=0) > _LONGEST:
        return None
    unstated = np.isnan(truth.areas)
    truth.areas[unstated] = truth.xywh[unstated, 2] * truth.xywh[unstated, 3]
    plain = (
        0 < len(categories) == len(file.categories)
        and 0 < len(position) == len(names)
        and (0, 0) not in sizes
        and all(map(stays_inside, names))
        and all(is_place(place, shards or ()) for place in places)
        and np.abs(truth.areas).max(initial=0) < 1e300
    )
    if not plain:
        return None
    return CocoColumns(
        class_names=tuple(categories[number] for number in ids),
        category_ids=tuple(ids),
        sizes_hw=np.array(sizes, np.int32).reshape(-1, 2),
        file_names=PackedStrings.pack(names),
        packed_ids=_packed_ids(list(position)),
        places=_places(places),
        truth=truth,
    )


def _packed_ids(ids: Sequence[ImageId]) -> PackedStrings:
    return PackedStrings.pack([json.dumps(number) for number in ids])


def _places(rows: Sequence[Any]) -> IntArray:
    return np.array(rows, np.int64).reshape(-1, 4)


def _checksum(path: Path) -> int:
    """CRC-32 of a file."""
    value, buffer = 0, memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            value = zlib.crc32(buffer[:count], value)
    return value


def _keep(path: Path, facts: Sequence[Any], columns: CocoColumns) -> None:
    """Write columns: the SHA-256 of all that follows, then the arrays.

    Raises:
        OculoxError: the disk refuses.
    """
    head = {"facts": facts, "names": columns.class_names, "ids": columns.category_ids}
    content = save(
        {
            "head": np.frombuffer(json.dumps(head).encode(), np.uint8),
            "sizes_hw": columns.sizes_hw,
            "places": columns.places,
            **{f"file_names.{k}": v for k, v in vars(columns.file_names).items()},
            **{f"packed_ids.{k}": v for k, v in vars(columns.packed_ids).items()},
            **{f"truth.{k}": v for k, v in vars(columns.truth).items()},
        }
    )
    digest = hashlib.sha256(content).digest()
    write_atomically(path, lambda temporary: temporary.write_bytes(digest + content))


def _load_kept(path: Path, facts: Sequence[Any], checksum: Callable[[], int]) -> CocoColumns | None:
    """Kept columns; None where they are damaged, or of another file or another content.

    Args:
        path: the kept file.
        facts: place, size and time of the annotation file.
        checksum: of the annotation file; asked for last, as it is computed meanwhile.

    Raises:
        OSError: they cannot be read.
    """
    with path.open("rb") as file:
        digest, content = file.read(32), file.read()
    if hashlib.sha256(content).digest() != digest:
        return None
    arrays = load(content)
    head = json.loads(arrays["head"].tobytes())
    *stated, stated_checksum = head["facts"]
    if stated != facts:
        return None

    def part(name: str) -> dict[str, npt.NDArray[Any]]:
        return {k.removeprefix(name): v for k, v in arrays.items() if k.startswith(name)}

    columns = CocoColumns(
        class_names=tuple(head["names"]),
        category_ids=tuple(head["ids"]),
        sizes_hw=arrays["sizes_hw"],
        file_names=PackedStrings(**part("file_names.")),
        packed_ids=PackedStrings(**part("packed_ids.")),
        places=arrays["places"],
        truth=GroundTruth(**part("truth.")),
    )
    return columns if stated_checksum == checksum() else None
