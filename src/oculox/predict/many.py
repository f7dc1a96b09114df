"""Predicting on any number of images, part by part, in this process or in several."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any

from oculox.addresses import AbsentError, Location, list_files, remove
from oculox.errors import OculoxError, UsageError
from oculox.files import scratch_beside
from oculox.predict.parquet import IMAGES, DonePart, FailedPart, Workers, write_file
from oculox.predict.sources import list_images
from oculox.predict.table import pyarrow
from oculox.types import Progress
from oculox.version import __version__

MANIFEST = "_manifest.json"
PARTS = "part-*.parquet"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManySummary:
    """The result of a run over any number of images.

    Attributes:
        output: the folder.
        images: how many images the parts have that are there now.
        unreadable: how many of them have an error in place of detections.
        detections: how many were found in them.
        parts: how many there are in all.
        kept_parts: how many of them an earlier run had written.
        failed_parts: those that could not be done.
        seconds: that this run took, with the opening of the model.
        images_per_second: of this run, without the opening of the model; 0 where all was done.
    """

    output: Location
    images: int
    unreadable: int
    detections: int
    parts: int
    kept_parts: int
    failed_parts: tuple[FailedPart, ...]
    seconds: float
    images_per_second: float

    @property
    def predictions(self) -> Location:
        """A pattern of the files."""
        return self.output / PARTS

    @property
    def manifest(self) -> Location:
        """The file that tells what the parts were made of and with."""
        return self.output / MANIFEST

    @property
    def ok(self) -> bool:
        """Whether every part is there."""
        return not self.failed_parts


def predict_parts(
    workers: Workers,
    sources: Sequence[str],
    *,
    output: Location,
    part_size: int = 1000,
    recursive: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ManySummary:
    """Predict on images and write a Parquet file a part.

    Args:
        workers: what works on parts, with the same `output`.
        sources: what `list_images` takes.
        output: folder to write to; made if absent.
        part_size: images of a part.
        recursive: look into the folders of folders.
        resume: go on with what is in `output`; from the beginning where nothing is.
        overwrite: replace the parts in `output`.
        progress: called with the numbers of images done and in all.

    Raises:
        UsageError: the folder is occupied, or its parts were made of or with something else.
        DataError: a source does not exist or holds no image.
        OculoxError: the model cannot be opened, or nothing can be written.
    """
    start = time.perf_counter()
    if part_size < 1:
        raise UsageError(f"part_size must be at least 1, got {part_size}")
    if resume and overwrite:
        raise UsageError("`resume` keeps what is there and `overwrite` replaces it: pass one")
    manifest = output / MANIFEST
    if not manifest.exists() or not (resume or overwrite):
        _require_free(output)
    wanted = {
        "format": 1,
        "sources": list(sources),
        "recursive": recursive,
        "part_size": part_size,
        # As they are read again from JSON.
        "settings": json.loads(json.dumps(workers.settings())),
    }
    if resume and manifest.exists():
        made = _read_manifest(manifest)
        _require_same(made, wanted, manifest)
    else:
        made = _begin(wanted, output)
    begun = time.perf_counter()
    done: list[DonePart] = []
    failed: list[FailedPart] = []
    images = 0
    for part in workers.each(range(made["parts"])):
        if isinstance(part, FailedPart):
            failed.append(part)
        else:
            done.append(part)
            images += part.images
        if progress is not None:
            progress(images, made["images"])
    now = time.perf_counter()
    fresh = sum(part.images for part in done if not part.kept)
    return ManySummary(
        output=output,
        images=images,
        unreadable=sum(part.unreadable for part in done),
        detections=sum(part.detections for part in done),
        parts=made["parts"],
        kept_parts=sum(part.kept for part in done),
        failed_parts=tuple(sorted(failed, key=lambda part: part.number)),
        seconds=now - start,
        images_per_second=fresh / (now - begun),
    )


def _require_free(output: Location) -> None:
    if (output / MANIFEST).exists():
        raise UsageError(
            f"{output} holds the parts of another run; pass `resume` to continue it, `overwrite` "
            "to replace it, or name a new folder"
        )
    # A run that was killed while it listed the images has left the list, or a part of it.
    begun = (IMAGES, f".{IMAGES}", f".{MANIFEST}")
    if any(not file.name.startswith(begun) for file in _files(output)):
        raise UsageError(f"{output} already holds files; name a new or empty folder")


def _files(folder: Location) -> Iterator[Location]:
    """What is in a folder, where there is one.

    Raises:
        UsageError: it is a file.
    """
    if isinstance(folder, Path) and folder.is_file():
        raise UsageError(f"{folder}: the output must be a folder, this is a file")
    try:
        if isinstance(folder, Path):
            yield from folder.iterdir()
        else:
            yield from (file.address for file in list_files(folder))
    except (AbsentError, FileNotFoundError):
        return


def _remove(file: Location) -> None:
    if isinstance(file, Path):
        file.unlink(missing_ok=True)
    else:
        remove(file)


@contextmanager
def _scratch(output: Location) -> Iterator[Path]:
    """A folder of this machine to make a file for `output` in, removed at the end."""
    if isinstance(output, Path):
        with scratch_beside(output / IMAGES) as folder:
            yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="oculox-") as name:
            yield Path(name)


def _begin(wanted: Mapping[str, Any], output: Location) -> dict[str, Any]:
    """Write the list of images and the manifest; the manifest last, as all else goes by it."""
    with _scratch(output) as folder:
        # The list is whole, and all sources are there, before anything in the output changes.
        listing = folder / IMAGES
        images, parts = _write_listing(
            listing,
            list_images(wanted["sources"], recursive=wanted["recursive"]),
            part_size=wanted["part_size"],
        )
        for old in [*_files(output)]:
            if old.name == MANIFEST or fnmatch(old.name, PARTS):
                _remove(old)
        write_file(output / IMAGES, listing.replace)
    made = {"oculox": __version__, **wanted, "images": images, "parts": parts}
    text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    write_file(output / MANIFEST, lambda path: path.write_text(text, "utf-8"))
    return made


def _write_listing(path: Path, images: Iterable[str], *, part_size: int) -> tuple[int, int]:
    """A row group a part; the numbers of images and parts."""
    pa, pq = pyarrow(), pyarrow(".parquet")
    rest, total, parts = iter(images), 0, 0
    schema = pa.schema([pa.field("image", pa.string(), nullable=False)])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while part := list(islice(rest, part_size)):
            writer.write_table(pa.table([part], schema=schema), row_group_size=part_size)
            total, parts = total + len(part), parts + 1
    return total, parts


def _read_manifest(path: Location) -> dict[str, Any]:
    try:
        made: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return {**made, "images": int(made["images"]), "parts": int(made["parts"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OculoxError(
            f"{path}: cannot be read ({error}); pass `overwrite` to begin anew"
        ) from None


def _require_same(made: Mapping[str, Any], wanted: Mapping[str, Any], path: Location) -> None:
    """Refuse to go on with other sources or settings: the parts would not belong together."""
    both = [{**one, **one.get("settings", {}), "settings": None} for one in (made, wanted)]
    for key in wanted | wanted["settings"]:
        before, now = (one.get(key) for one in both)
        if before != now:
            raise UsageError(
                f"{path}: these parts were made with {key} {before}, not {now}; give the same "
                "again to continue, name a new folder, or pass `overwrite`"
            )
