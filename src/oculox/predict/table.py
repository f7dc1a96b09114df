"""What is in images as a table, an image a row."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from oculox.addresses import WEB_PREFIXES, AbsentError, Address, local_copy, to_location
from oculox.errors import DataError
from oculox.extras import require
from oculox.predict.pipeline import Pipeline
from oculox.predict.sources import LoadedImage, Source, read_source
from oculox.types import Detections

_AHEAD, _THREADS = 32, 16
"""Images of storages that are fetched before they are needed, and at the same time."""


def pyarrow(module: str = "") -> Any:
    """The package, or a module of it, such as ``.parquet``.

    Raises:
        MissingExtraError: it is not installed.
    """
    return require(f"pyarrow{module}", extra="parquet", purpose="a table of images")


def table_schema() -> Any:
    """The columns of a part, a `pyarrow.Schema`: a promise to those who read the files.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    pa = pyarrow()
    return pa.schema(
        [
            pa.field("image", pa.string(), nullable=False),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("boxes", pa.list_(pa.list_(pa.float32()))),
            pa.field("scores", pa.list_(pa.float32())),
            pa.field("class_ids", pa.list_(pa.int32())),
            pa.field("names", pa.list_(pa.string())),
            pa.field("truncated", pa.bool_()),
            pa.field("error", pa.string()),
        ]
    )


def predict_table(pipeline: Pipeline, images: Sequence[str]) -> Any:
    """What is in each image, as a `pyarrow.Table` of `table_schema`.

    Args:
        pipeline: what finds objects.
        images: files and addresses.

    Returns:
        A row for each image, in order; one that cannot be read has no detections, and an error.

    Raises:
        MissingExtraError: pyarrow is not installed.
        AddressError: the storage of an image cannot be reached, or refuses.
    """
    schema = table_schema()
    pool = ThreadPoolExecutor(_THREADS)
    try:
        results = pipeline.each(_fetched_ahead(images, pool), read=_read, finish=_row)
        rows = [
            _empty_row(wanted.source.name, result) if isinstance(result, DataError) else result
            for wanted, result in results
        ]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return pyarrow().Table.from_pylist(rows, schema=schema)


class _Wanted(NamedTuple):
    """An image, and the copy of one that is in a storage."""

    source: Source
    copy: Future[Path] | None = None


def _fetched_ahead(names: Iterable[str], pool: Executor) -> Iterator[_Wanted]:
    ahead: deque[_Wanted] = deque()
    for name in names:
        place = name if name.startswith(WEB_PREFIXES) else to_location(name)
        if isinstance(place, Path):
            wanted = _Wanted(Source(kind="image", name=name, path=place))
        else:
            # Compared with the storage: this machine may have a copy from long ago.
            copy = pool.submit(local_copy, place) if isinstance(place, Address) else None
            wanted = _Wanted(Source(kind="image", name=name, address=place), copy)
        ahead.append(wanted)
        if len(ahead) > _AHEAD:
            yield ahead.popleft()
    yield from ahead


def _read(wanted: _Wanted) -> LoadedImage:
    if wanted.copy is not None:
        with suppress(AbsentError):  # which is told below
            wanted.copy.result()
    return read_source(wanted.source)


def _row(loaded: LoadedImage, found: Detections) -> dict[str, Any]:
    height, width = loaded.image.shape[:2]
    return {
        "image": loaded.source.name,
        "width": width,
        "height": height,
        "boxes": list(found.xyxy),
        "scores": found.scores,
        "class_ids": found.class_ids,
        "names": [found.name(int(number)) for number in found.class_ids],
        "truncated": loaded.truncated,
        "error": None,
    }


def _empty_row(image: str, error: DataError) -> dict[str, Any]:
    nothing: dict[str, Any] = {name: [] for name in ("boxes", "scores", "class_ids", "names")}
    return {"image": image, "truncated": False, "error": str(error), **nothing}
