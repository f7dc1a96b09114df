"""COCO JSON -> a compact, validated index of images and boxes.

The index keeps everything in a handful of flat arrays: loader processes share their pages with
the parent, whereas lists of Python objects are copied one by one as their reference counts
change, and memory grows with every process and epoch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from oculox.config.schema import DataConfig
from oculox.data.coco_parse import (
    Objects,
    check_files,
    read_categories,
    read_images,
    read_objects,
    read_sections,
)
from oculox.errors import DataError
from oculox.types import FloatArray, ImageId, IntArray

_Array = TypeVar("_Array", bound=npt.NDArray[Any])


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedStrings:
    """Many strings in two arrays.

    Attributes:
        data: uint8 (total bytes,), UTF-8.
        offsets: int64 (n + 1,); string i is ``data[offsets[i]:offsets[i + 1]]``.
    """

    data: npt.NDArray[np.uint8]
    offsets: IntArray

    @classmethod
    def pack(cls, strings: Sequence[str]) -> PackedStrings:
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


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoIndex:
    """The images of one split and the objects in them; made by `load_coco`.

    Attributes:
        annotations: the JSON file it came from.
        image_dir: folder of the images.
        class_names: name of each class, by contiguous index.
        category_ids: the file's category id of each class, ascending.
        sizes_hw: int32 (n, 2), height and width of each image as the file states them.
        file_names: n names relative to `image_dir`.
        packed_ids: n image ids, as JSON.
        all_boxes: float32 (total, 4), xyxy pixels, clipped to their images.
        all_labels: int64 (total,), contiguous class indices.
        offsets: int64 (n + 1,); image i owns rows ``offsets[i]:offsets[i + 1]``.
    """

    annotations: Path
    image_dir: Path
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    sizes_hw: npt.NDArray[np.int32]
    file_names: PackedStrings
    packed_ids: PackedStrings
    all_boxes: FloatArray
    all_labels: IntArray
    offsets: IntArray

    def __len__(self) -> int:
        """Number of images, those without objects included."""
        return len(self.file_names)

    @property
    def image_ids(self) -> tuple[ImageId, ...]:
        """The file's own image ids, in order (made anew at each call)."""
        return tuple(self.image_id(i) for i in range(len(self)))

    def image_id(self, i: int) -> ImageId:
        """The file's own id of image i."""
        value: ImageId = json.loads(self.packed_ids[i])
        return value

    def file_name(self, i: int) -> str:
        """Name of image i, relative to the image folder."""
        return self.file_names[i]

    def image_path(self, i: int) -> Path:
        """Path of image i."""
        return self.image_dir / self.file_names[i]

    def source_hw(self, i: int) -> tuple[int, int]:
        """Height and width of image i, as the annotations state them."""
        height, width = self.sizes_hw[i].tolist()
        return height, width

    def boxes(self, i: int) -> FloatArray:
        """Boxes of image i: float32 (k, 4), xyxy pixels (a read-only view)."""
        return self.all_boxes[self.offsets[i] : self.offsets[i + 1]]

    def labels(self, i: int) -> IntArray:
        """Classes of image i: int64 (k,), contiguous (a read-only view)."""
        return self.all_labels[self.offsets[i] : self.offsets[i + 1]]

    def num_objects(self, i: int) -> int:
        """Number of objects in image i."""
        return int(self.offsets[i + 1] - self.offsets[i])


def load_coco(annotations: Path, images: Path) -> CocoIndex:
    """Read and validate a COCO detection file.

    Crowd regions are left out, images without objects are kept, boxes are clipped to their
    image and dropped when nothing remains. Category ids may have gaps: sorted ascending, they
    become class indices 0..C-1.

    Args:
        annotations: the JSON file.
        images: folder that its file names are relative to.

    Raises:
        DataError: the JSON is unreadable, incomplete or inconsistent, or an image is missing.
            The message names the file and the image, annotation or category.
    """
    sections = read_sections(annotations)
    names, category_ids = read_categories(sections["categories"], annotations)
    files, ids, sizes = read_images(sections["images"], annotations)
    objects = read_objects(sections["annotations"], ids, category_ids, where=annotations)
    check_files(files, images, where=annotations)
    owners, labels, boxes = _clip(objects, sizes)
    order = np.argsort(owners, kind="stable")
    offsets = np.zeros(len(files) + 1, np.int64)
    np.cumsum(np.bincount(owners, minlength=len(files)), out=offsets[1:])
    return CocoIndex(
        annotations=annotations,
        image_dir=images,
        class_names=names,
        category_ids=category_ids,
        sizes_hw=_frozen(sizes),
        file_names=PackedStrings.pack(files),
        packed_ids=PackedStrings.pack([json.dumps(i) for i in ids]),
        all_boxes=_frozen(boxes[order]),
        all_labels=_frozen(labels[order]),
        offsets=_frozen(offsets),
    )


Split = Literal["train", "val"]

_ALIASES: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid")}


def find_split(data: DataConfig, split: Split) -> tuple[Path, Path]:
    """Where the images and annotations of a split are.

    What `data.train` or `data.val` states is taken; the rest is looked for below `data.root` in
    the usual layouts: COCO (``train2017/``, ``annotations/instances_train2017.json``), the same
    with ``train/``, ``annotations/train.json``, and ``train/_annotations.coco.json``. Relative
    stated paths count from `data.root` where they exist there, else from the working directory.
    The root itself is taken as the image folder where no other is found.

    Returns:
        The image folder and the annotation file, both existing.

    Raises:
        DataError: nothing fits; the message lists what was looked for.
    """
    stated = data.train if split == "train" else data.val
    root = data.root
    images = _stated(stated.images, root)
    annotations = _stated(stated.annotations, root)
    if images is not None and not images.is_dir():
        raise DataError(f"data.{split}.images: {images} is no folder")
    if annotations is not None and not annotations.is_file():
        raise DataError(f"data.{split}.annotations: {annotations} is no file")
    if images is not None and annotations is not None:
        return images, annotations
    if root is None:
        raise DataError(
            f"no {split} data: set data.root, or data.{split}.images and data.{split}.annotations"
        )
    if not root.is_dir():
        raise DataError(f"data.root: {root} is no folder")
    layouts = _layouts(root, split)
    for candidate_images, candidate_annotations in layouts:
        pair = images or candidate_images, annotations or candidate_annotations
        if pair[0].is_dir() and pair[1].is_file():
            return pair
    looked = ", ".join(dict.fromkeys(str(a.relative_to(root)) for _, a in layouts))
    raise DataError(
        f"{root}: no {split} split found; looked for {looked} (with its images); or set "
        f"data.{split}.images and data.{split}.annotations"
    )


def load_split(data: DataConfig, split: Split) -> CocoIndex:
    """Find and read a split; see `find_split` and `load_coco`."""
    images, annotations = find_split(data, split)
    return load_coco(annotations, images)


def _stated(path: Path | None, root: Path | None) -> Path | None:
    if path is None or root is None:
        return path
    return root / path if (root / path).exists() else path


def _layouts(root: Path, split: Split) -> list[tuple[Path, Path]]:
    """(image folder, annotation file) pairs, the likeliest first."""
    pairs = []
    for name in _ALIASES[split]:
        folders = [f"{name}2017", name, f"images/{name}2017", f"images/{name}", "images"]
        stems = [f"instances_{name}2017", f"instances_{name}", name]
        for stem in stems:
            pairs += [(root / f, root / "annotations" / f"{stem}.json") for f in folders]
        pairs.append((root / name, root / name / "_annotations.coco.json"))
    pairs.append((root, root / "_annotations.coco.json"))
    return pairs


def _clip(
    objects: Objects, sizes_hw: npt.NDArray[np.int32]
) -> tuple[IntArray, IntArray, FloatArray]:
    """Owners, labels and xyxy boxes inside their images, without those that vanish."""
    x, y, width, height = objects.xywh.T
    limits = sizes_hw[objects.owners].astype(np.float64)
    left, right = (np.clip(v, 0, limits[:, 1]) for v in (x, x + width))
    top, bottom = (np.clip(v, 0, limits[:, 0]) for v in (y, y + height))
    boxes = np.stack((left, top, right, bottom), axis=1).astype(np.float32)
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return objects.owners[kept], objects.labels[kept], boxes[kept]


def _frozen(array: _Array) -> _Array:
    """Make it read-only, so that nobody's in-place change spoils the data set."""
    array.flags.writeable = False
    return array
