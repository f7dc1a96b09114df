"""Pascal VOC: ``Annotations/*.xml``, ``JPEGImages/``, ``ImageSets/Main/*.txt``.

VOC boxes are whole pixels, counted from 1, the last one included. A pixel column k spans k-1 to
k, so ``xmin - 1, ymin - 1, xmax, ymax`` are the edges; the VOC development kit measures widths in
this way too (xmax - xmin + 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from oculox.data.faults import stays_inside
from oculox.datasets.formats.dataset import (
    IMAGE_SUFFIXES,
    SPLITS,
    ImageReader,
    LabelledData,
    LabelledImage,
    Progress,
    RawObject,
    labelled,
)
from oculox.datasets.formats.xml import XmlError, parse_xml
from oculox.errors import DataError

_Objects = list[tuple[str, tuple[float, float, float, float]]]


def read_voc(
    root: Path,
    *,
    classes: Sequence[str] | None = None,
    splits: Mapping[str, str] | None = None,
    skip_difficult: bool = False,
    on_image: Progress | None = None,
) -> LabelledData:
    """Read a Pascal VOC data set.

    Args:
        root: folder with ``Annotations/`` and ``JPEGImages/``.
        classes: names, in the order wanted; without them all that occur, in alphabetical order.
            Objects of other classes are faults.
        splits: list of ``ImageSets/Main`` (without .txt) -> split; without it train, val and test
            where they are (trainval for train where train is not); all images become train
            where there is no list.
        skip_difficult: leave out objects marked difficult.
        on_image: called after each image, for progress.

    Raises:
        DataError: the layout is not there, or a wanted list is not.
    """
    for folder in ("Annotations", "JPEGImages"):
        if not (root / folder).is_dir():
            raise DataError(
                f"{root}: not a Pascal VOC data set: no folder {folder}/ (for a development kit "
                "name the year's folder, such as VOCdevkit/VOC2012)"
            )
    reader = _VocReader(root, skip_difficult=skip_difficult)
    found: dict[str, list[tuple[Path, str, tuple[int, int], _Objects]]] = {}
    for split, stems in _lists(root, splits).items():
        found[split] = []
        for stem in stems:
            image = reader.read(stem, split)
            if image is not None:
                found[split].append(image)
            if on_image is not None:
                on_image()
    seen = {c for images in found.values() for *_, objects in images for c, _ in objects}
    names = tuple(classes) if classes is not None else tuple(sorted(seen))
    result: dict[str, tuple[LabelledImage, ...]] = {}
    for split, images in found.items():
        result[split] = tuple(
            labelled(path, name, hw=hw, objects=reader.known(objects, names, path), classes=names)
            for path, name, hw, objects in images
        )
    return LabelledData(names, result, tuple(reader.faults))


def _lists(root: Path, splits: Mapping[str, str] | None) -> dict[str, list[str]]:
    """Stems of the images of each split."""
    folder = root / "ImageSets" / "Main"
    if splits is None:
        present = [s for s in SPLITS if (folder / f"{s}.txt").is_file()]
        splits = {s: s for s in present}
        if "train" not in splits and (folder / "trainval.txt").is_file():
            splits = {"trainval": "train", **splits}
        if not splits:
            return {"train": sorted(p.stem for p in (root / "Annotations").glob("*.xml"))}
    result: dict[str, list[str]] = {}
    for name, split in splits.items():
        path = folder / f"{name}.txt"
        if not path.is_file():
            raise DataError(f"{path}: no such list of images")
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        stems = (line.strip() for line in lines)
        result.setdefault(split, []).extend(dict.fromkeys(s for s in stems if s))
    return result


class _VocReader(ImageReader):
    def __init__(self, root: Path, *, skip_difficult: bool) -> None:
        super().__init__()
        self._root = root
        self._skip_difficult = skip_difficult
        images = sorted((root / "JPEGImages").iterdir())
        self._images = {p.stem: p for p in images if p.suffix.lower() in IMAGE_SUFFIXES}

    def read(self, stem: str, split: str) -> tuple[Path, str, tuple[int, int], _Objects] | None:
        """One image with its usable objects, of whatever class."""
        xml = self._root / "Annotations" / f"{stem}.xml"
        if not stays_inside(stem):
            self.tell("path-escape", f"{split}.txt", f"{stem!r} leads out of the data set")
            return None
        image = self._images.get(stem)
        if image is None:
            self.tell("image-missing", xml, f"no image {stem}.* in JPEGImages/")
            return None
        try:
            tree = parse_xml(xml.read_bytes())
        except FileNotFoundError:
            self.tell("labels-missing", xml, f"no annotation of {image.name}")
            return None
        except (OSError, XmlError) as error:
            self.tell("labels-unreadable", xml, str(error))
            return None
        hw = self.measure(image)
        if hw is None or not self._size_agrees(tree, hw, xml):
            return None
        objects = self.keep(self._objects(tree, xml), hw, file=xml)
        return image, self.free_name(split, image.name), hw, objects

    def known(self, objects: _Objects, classes: Sequence[str], image: Path) -> _Objects:
        """The objects whose class is among `classes`; the others are told."""
        xml = self._root / "Annotations" / f"{image.stem}.xml"
        for name, _ in objects:
            if name not in classes:
                self.tell("class-unknown", xml, f"class {name!r} is not among {list(classes)}")
        return [o for o in objects if o[0] in classes]

    def _size_agrees(self, tree: Element, hw: tuple[int, int], xml: Path) -> bool:
        """Whether the boxes can be trusted; a size that is absent or 0 is only worth a word."""
        texts = [tree.findtext(f"size/{key}", "0").strip() for key in ("height", "width")]
        stated = tuple(int(t) if t.isdecimal() else 0 for t in texts)
        if 0 in stated:
            message = f"no size is stated; the image's {hw[1]} x {hw[0]} is taken"
            self.tell("size-missing", xml, message, severity="warning")
            return True
        if stated in (hw, hw[::-1]):
            if stated != hw:
                message = f"height and width are swapped; the image is {hw[1]} x {hw[0]}"
                self.tell("size-mismatch", xml, message, severity="warning")
            return True
        message = f"stated {stated[1]} x {stated[0]}, the image is {hw[1]} x {hw[0]}; left out"
        self.tell("size-mismatch", xml, message)
        return False

    def _objects(self, tree: Element, xml: Path) -> list[RawObject]:
        objects = []
        for i, element in enumerate(tree.iterfind("object"), start=1):
            name = element.findtext("name", "").strip()
            texts = [element.findtext(f"bndbox/{k}") for k in ("xmin", "ymin", "xmax", "ymax")]
            where = f"object {i} ({name})"
            if self._skip_difficult and element.findtext("difficult", "0").strip() == "1":
                continue
            try:
                left, top, right, bottom = (float(t or "") for t in texts)
            except ValueError:
                self.tell("box-malformed", xml, f"{where}: box must be four numbers, got {texts}")
                continue
            if not name:
                self.tell("class-unknown", xml, f"{where}: no class name")
                continue
            # Annotators leave a box of one repeated pixel where they clicked by accident.
            if right == left or bottom == top:
                right, bottom = right - (right == left), bottom - (bottom == top)
            objects.append(RawObject(name, (left - 1, top - 1, right, bottom), where))
        return objects
