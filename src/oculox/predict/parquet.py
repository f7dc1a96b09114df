"""Parts of images as Parquet files: what is done is not done again.

The list of images is written once, as `IMAGES`: its row group n is part n. Each part becomes a
file of its own that is whole or not there. Names that begin with an underscore are no data to
those who read a folder of Parquet files.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from oculox.addresses import AbsentError, Location, on_disk, upload
from oculox.files import write_atomically
from oculox.predict.pipeline import Pipeline
from oculox.predict.table import predict_table, pyarrow

IMAGES = "_images.parquet"
_COUNTS = b"oculox"
"""Key of the counts in a part's own metadata."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DonePart:
    """A part whose file is there.

    Attributes:
        number: from 0.
        images: how many there are in it.
        unreadable: how many of them have an error.
        detections: how many were found.
        kept: whether an earlier run wrote it.
    """

    number: int
    images: int
    unreadable: int
    detections: int
    kept: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class FailedPart:
    """A part that could not be done, and why."""

    number: int
    error: str


class Workers(Protocol):
    """What works on parts."""

    def settings(self) -> Mapping[str, Any]:
        """What results depend on: the model and how it is run, as plain values.

        Raises:
            OculoxError: the model cannot be opened.
        """

    def each(self, parts: Iterable[int]) -> Iterator[DonePart | FailedPart]:
        """Work on parts; they come back in any order.

        Raises:
            OculoxError: no part can be done, such as when the disk is full.
        """


Open = Callable[[], tuple[Pipeline, Mapping[str, Any]]]
"""Opens the model; gives it with the settings that results depend on."""


class PartWorker:
    """Works on parts in this process; the model is opened when it is needed first.

    Args:
        open_model: opens the model.
        output: the folder of the parts.
    """

    def __init__(self, open_model: Open, output: Location) -> None:
        self._open, self._output = open_model, output
        self._opened: tuple[Pipeline, Mapping[str, Any]] | None = None

    def _model(self) -> tuple[Pipeline, Mapping[str, Any]]:
        self._opened = self._opened or self._open()
        return self._opened

    def settings(self) -> Mapping[str, Any]:
        """See `Workers.settings`."""
        return self._model()[1]

    def each(self, parts: Iterable[int]) -> Iterator[DonePart]:
        """See `Workers.each`."""
        return map(self.predict, parts)

    def predict(self, number: int) -> DonePart:
        """Write a part, unless its file is there.

        Raises:
            OculoxError: it cannot be written.
        """
        pq = pyarrow(".parquet")
        with on_disk(self._output / IMAGES).open("rb") as listing:
            images = pq.ParquetFile(listing).read_row_group(number)["image"].to_pylist()
        target = self._output / f"part-{number:06}.parquet"
        if (kept := _read_counts(target, images=len(images))) is not None:
            return DonePart(number=number, images=len(images), kept=True, **kept)
        table = predict_table(self._model()[0], images)
        counts = {
            "unreadable": len(images) - table["error"].null_count,
            "detections": sum(len(scores) for scores in table["scores"]),
        }
        table = table.replace_schema_metadata({_COUNTS: json.dumps(counts)})
        write_file(target, lambda path: pq.write_table(table, path, compression="zstd"))
        return DonePart(number=number, images=len(images), **counts)


def _read_counts(part: Location, *, images: int) -> dict[str, int] | None:
    """The counts in a part's metadata; None where the file is not there or not whole.

    The metadata is at the end of the file, so of a file that was cut none is left.
    """
    try:
        found = pyarrow(".parquet").read_metadata(on_disk(part))
        counts: dict[str, int] = json.loads(found.metadata[_COUNTS])
    except (AbsentError, OSError, ValueError, KeyError, TypeError):
        return None
    return counts if found.num_rows == images else None


def write_file(target: Location, write: Callable[[Path], object]) -> None:
    """Write a file that holds all of its content, or is not there.

    Args:
        target: the file.
        write: writes the whole content to the path it is given.

    Raises:
        OculoxError: it cannot be written.
    """
    if isinstance(target, Path):
        write_atomically(target, write)
        return
    with tempfile.TemporaryDirectory(prefix="oculox-") as folder:
        file = Path(folder) / target.name
        write(file)
        upload(file, target)
