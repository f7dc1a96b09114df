"""From one annotation format to another, in one call."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from pydantic_core import to_jsonable_python

from oculox.data.faults import Fault, count_faults
from oculox.datasets.formats import SourceFormat, TargetFormat
from oculox.datasets.formats.coco import read_coco, write_coco
from oculox.datasets.formats.dataset import SPLITS, LabelledData, LabelledImage
from oculox.datasets.formats.voc import read_voc
from oculox.datasets.formats.yolo import read_yolo, write_yolo
from oculox.datasets.splits import recognise
from oculox.errors import DataError, UsageError
from oculox.files import FileMode, new_folder, require_free, require_local
from oculox.types import Progress, counted

READERS: Mapping[str, Callable[..., LabelledData]] = MappingProxyType(
    {"voc": read_voc, "yolo": read_yolo, "coco": read_coco}
)
_WRITERS: Mapping[str, Callable[..., None]] = MappingProxyType(
    {"coco": write_coco, "yolo": write_yolo}
)


@dataclasses.dataclass(frozen=True)
class ConvertSummary:
    """What a conversion wrote.

    Attributes:
        target: the new folder.
        classes: class names in order.
        images: images of each split.
        objects: objects of each split.
        faults: what was left out or doubtful.
    """

    target: Path
    classes: tuple[str, ...]
    images: dict[str, int]
    objects: dict[str, int]
    faults: tuple[Fault, ...]

    @classmethod
    def of(
        cls,
        target: Path,
        classes: tuple[str, ...],
        splits: Mapping[str, Sequence[LabelledImage]],
        faults: tuple[Fault, ...],
        **more: Any,
    ) -> Self:
        """Of images by split; crowd regions count as no objects. `more` are a subclass's fields."""
        images = {split: len(many) for split, many in splits.items()}
        objects = {s: sum(int((~one.crowd).sum()) for one in many) for s, many in splits.items()}
        return cls(target, classes, images, objects, faults, **more)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = to_jsonable_python(self)
        return {**values, "counts": count_faults(self.faults)}


def convert(
    source: str | Path,
    target: str | Path,
    *,
    source_format: SourceFormat,
    target_format: TargetFormat = "coco",
    classes: Sequence[str] | None = None,
    splits: Mapping[str, str] | None = None,
    mode: FileMode = "copy",
    skip_difficult: bool = False,
    progress: Progress | None = None,
) -> ConvertSummary:
    """Convert a dataset; faulty boxes and images are left out and listed.

    Args:
        source: the dataset; it is not touched.
        target: a new or empty folder; it appears whole or not at all.
        source_format: voc, yolo or coco.
        target_format: coco (``train2017/ val2017/ annotations/``) or yolo.
        classes: class names in the order wanted; see the readers for what happens without.
        splits: the source's split name -> train, val or test; see the readers.
        mode: copy the images byte by byte, or link to them.
        skip_difficult: leave out objects that VOC marks difficult.
        progress: called with the number of images read; how many there are is not known.

    Raises:
        UsageError: an unknown format, split or class, an option that does not fit, or the target
            is in use.
        DataError: the source cannot be read or holds nothing usable.
    """
    source, target = require_local(Path(source)), Path(target)
    for name, given, known in (
        ("source_format", source_format, READERS),
        ("target_format", target_format, _WRITERS),
    ):
        if given not in known:
            raise UsageError(f"{name} must be one of {', '.join(known)}, got {given!r}")
    unknown = set((splits or {}).values()) - set(SPLITS)
    if unknown:
        raise UsageError(f"splits can become train, val or test, not {', '.join(sorted(unknown))}")
    if classes is not None and (not all(classes) or len(set(classes)) != len(classes)):
        raise UsageError(f"classes must be different names, got {list(classes)}")
    if skip_difficult and source_format != "voc":
        raise UsageError("only Pascal VOC marks objects as difficult")
    require_free(target)
    on_image = counted(progress)
    more = {"skip_difficult": True} if skip_difficult else {}
    read, write = READERS[source_format], _WRITERS[target_format]
    try:
        data = read(source, classes=classes, splits=splits, on_image=on_image, **more)
        if not any(data.splits.values()) or not data.classes:
            first = f"; the first fault: {data.all_faults[0]}" if data.all_faults else ""
            raise DataError(f"{source}: nothing could be converted{first}")
    except DataError as error:
        seems = recognise(source)
        if seems in (None, source_format):
            raise
        raise DataError(
            f"{error}; this looks like the format {seems}, not {source_format}"
        ) from None
    with new_folder(target) as scratch:
        write(data, scratch, mode=mode)
    return ConvertSummary.of(target, data.classes, data.splits, data.all_faults)
