"""The check's look at a COCO file, entry by entry: every fault is told, what is sound is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from oculox.data.faults import Fault, judge_box, stays_inside
from oculox.datasets.check_images import ImageFacts
from oculox.types import ImageId

Entry = Mapping[str, Any]
Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class CheckedImage:
    """An image entry that can be used: its id, file name, and size (None while unknown)."""

    entry: Entry
    image_id: ImageId
    name: str
    hw: tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class CheckedObject:
    """An annotation that can be used; `box` is xyxy pixels inside its image."""

    entry: Entry
    image_id: ImageId
    category_id: int
    box: Box
    crowd: bool


@dataclasses.dataclass(frozen=True)
class CheckedCategory:
    """A category that can be used."""

    entry: Entry
    category_id: int
    name: str


def scan_categories(
    entries: Sequence[Any], where: str
) -> tuple[list[CheckedCategory], list[Fault]]:
    """Usable categories by ascending id, and what is wrong with the rest."""
    faults: list[Fault] = []

    def tell(code: str, message: str) -> None:
        faults.append(Fault(severity="error", code=code, file=where, message=message))

    kept: dict[int, CheckedCategory] = {}
    for i, entry in enumerate(entries):
        number = entry.get("id") if isinstance(entry, Mapping) else None
        name = entry.get("name") if isinstance(entry, Mapping) else None
        if not isinstance(number, int) or isinstance(number, bool) or not isinstance(name, str):
            tell("category-malformed", f"categories[{i}] needs a whole-number id and a name")
        elif number in kept:
            tell("category-id-duplicate", f"category id {number} occurs twice")
        else:
            if any(c.name == name for c in kept.values()):
                tell("category-name-duplicate", f"category name {name!r} occurs twice")
            kept[number] = CheckedCategory(entry, number, name)
    if not kept:
        tell("no-categories", "there are no usable categories: nothing can be learnt")
    ids = sorted(kept)
    if ids and ids != list(range(ids[0], ids[0] + len(ids))):
        message = f"category ids {ids[0]}..{ids[-1]} have gaps; fine, classes are numbered by order"
        faults.append(Fault(severity="info", code="category-gaps", file=where, message=message))
    return [kept[i] for i in ids], faults


def scan_images(entries: Sequence[Any], where: str) -> tuple[list[CheckedImage], list[Fault]]:
    """Usable image entries in order, and what is wrong with the rest.

    Of entries with the same id the first is kept.
    """
    faults: list[Fault] = []
    kept: dict[ImageId, CheckedImage] = {}
    owners: dict[str, ImageId] = {}
    for i, entry in enumerate(entries):
        problem = _image_problem(entry)
        if problem is not None:
            faults.append(
                Fault(
                    severity="error",
                    code="image-malformed",
                    file=where,
                    message=f"images[{i}]: {problem}",
                )
            )
            continue
        number, name = entry["id"], entry["file_name"]
        if not stays_inside(name):
            code, message = "path-escape", f"file_name {name!r} leads out of the image folder"
        elif number in kept:
            code = "image-id-duplicate"
            message = f"image id {number!r} is also that of {kept[number].name}"
        else:
            kept[number] = CheckedImage(entry, number, name, _stated_size(entry))
            twin = owners.setdefault(name, number)
            if twin != number:
                code, message = "file-name-duplicate", f"the same file as that of image {twin!r}"
            elif kept[number].hw is None:
                code = "size-missing"
                message = (
                    "height and width must be positive whole numbers, got "
                    f"{entry.get('height')!r} and {entry.get('width')!r}"
                )
            else:
                continue
        faults.append(
            Fault(severity="error", code=code, file=name, message=message, image_id=number)
        )
    return list(kept.values()), faults


def _image_problem(entry: Any) -> str | None:
    if not isinstance(entry, Mapping):
        return f"expected an object, got {entry!r}"
    number, name = entry.get("id"), entry.get("file_name")
    if not isinstance(number, (int, str)) or isinstance(number, bool):
        return f"id must be a whole number or a text, got {number!r}"
    if not isinstance(name, str) or not name:
        return f"file_name must be a non-empty text, got {name!r}"
    return None


def _stated_size(entry: Entry) -> tuple[int, int] | None:
    sides = []
    for key in ("height", "width"):
        value = entry.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        if not 1 <= value < 2**31 or value != int(value):
            return None
        sides.append(int(value))
    return sides[0], sides[1]


def settle_images(
    images: Sequence[CheckedImage], facts: Mapping[str, ImageFacts]
) -> tuple[list[CheckedImage], list[Fault]]:
    """Images whose file is there and sound, with the size to use, and what is wrong.

    A stated size that differs from the file's makes its boxes doubtful and the image is left
    out, unless height and width are merely swapped or were not stated.
    """
    faults: list[Fault] = []
    kept: list[CheckedImage] = []
    for image in images:
        fact = facts[image.name]
        problem = None
        if fact.problem is not None:
            problem = "image-missing" if fact.missing else "image-unreadable", fact.problem
        elif fact.hw is not None and image.hw is not None and fact.hw != image.hw:
            stated, real = (f"{w} x {h}" for h, w in (image.hw, fact.hw))
            swapped = fact.hw == image.hw[::-1]
            why = "; the sides are swapped (an EXIF turn?)" if swapped else ""
            problem = "size-mismatch", f"stated {stated}, the file is {real}{why}"
            if swapped:
                kept.append(dataclasses.replace(image, hw=fact.hw))
        else:
            kept.append(dataclasses.replace(image, hw=image.hw or fact.hw))
        if problem is not None:
            code, message = problem
            faults.append(
                Fault(
                    severity="error",
                    code=code,
                    file=image.name,
                    message=message,
                    image_id=image.image_id,
                )
            )
    return kept, faults


class ObjectScan:
    """Sorts annotations into usable ones and faults."""

    def __init__(
        self,
        stated: Sequence[CheckedImage],
        usable: Sequence[CheckedImage],
        categories: Sequence[CheckedCategory],
        *,
        where: str,
    ) -> None:
        self._where = where
        self._names = {p.image_id: p.name for p in stated}
        self._sizes = {p.image_id: p.hw for p in usable if p.hw is not None}
        self._categories = {c.category_id for c in categories}
        self._ids: set[ImageId] = set()
        self._seen: dict[tuple[ImageId, int, Box], Any] = {}
        self.objects: list[CheckedObject] = []
        self.faults: list[Fault] = []

    def add(self, i: int, entry: Any) -> None:
        """Judge ``annotations[i]``."""
        if not isinstance(entry, Mapping):
            self._tell(
                "annotation-malformed", f"annotations[{i}]: expected an object, got {entry!r}"
            )
            return
        number, image, category = (entry.get(k) for k in ("id", "image_id", "category_id"))
        here: dict[str, Any] = {}
        if isinstance(number, (int, str)) and not isinstance(number, bool):
            here["annotation_id"] = number
        if not here or number is None:
            self._tell(
                "annotation-id-missing", f"annotations[{i}]: id must be a number, got {number!r}"
            )
        elif number in self._ids:
            self._tell("annotation-id-duplicate", f"annotation id {number!r} occurs twice", **here)
        else:
            self._ids.add(number)
        if not isinstance(image, (int, str)) or image not in self._names:
            message = f"annotations[{i}]: image_id {image!r} is not among the images"
            self._tell("image-unknown", message, **here)
            return
        here |= {"file": self._names[image], "image_id": image}
        if not isinstance(category, int) or category not in self._categories:
            message = (
                f"category_id {category!r} is not among the {len(self._categories)} categories"
            )
            self._tell("category-unknown", message, **here)
            return
        box = self._box(entry, image, here)
        if box is None:
            return
        crowd = bool(entry.get("iscrowd"))
        if not crowd:
            if (image, category, box) in self._seen:
                twin = self._seen[image, category, box]
                message = f"the same box and class as annotation {twin!r}"
                self._tell("box-duplicate", message, severity="warning", **here)
                return
            self._seen[image, category, box] = number
        self.objects.append(CheckedObject(entry, image, category, box, crowd))

    def _box(self, entry: Entry, image: ImageId, here: dict[str, Any]) -> Box | None:
        """The box to use, if any; tells what is wrong with it."""
        raw = entry.get("bbox")
        if (
            not isinstance(raw, (list, tuple))
            or len(raw) != 4
            or not all(type(v) is float or (type(v) is int and abs(v) < 2**53) for v in raw)
        ):
            message = f"bbox must be four numbers [x, y, width, height], got {raw!r}"
            self._tell("box-malformed", message, **here)
            return None
        hw = self._sizes.get(image)
        # Of an image that cannot be used no size is known; its boxes are judged without one.
        x, y, w, h = (float(v) for v in raw)
        verdict = judge_box((x, y, x + w, y + h), hw or (2**31, 2**31))
        if verdict.code is not None:
            self._tell(verdict.code, verdict.message, severity=verdict.severity, **here)
        return verdict.box if hw is not None else None

    def _tell(self, code: str, message: str, *, severity: Any = "error", **here: Any) -> None:
        here.setdefault("file", self._where)
        self.faults.append(Fault(severity=severity, code=code, message=message, **here))
