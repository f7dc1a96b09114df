"""Pascal VOC: ``Annotations/*.xml``, ``JPEGImages/``, ``ImageSets/Main/*.txt``.

VOC boxes are whole pixels, counted from 1, the last one included. A pixel column k spans k-1 to
k, so ``xmin - 1, ymin - 1, xmax, ymax`` are the edges; the VOC development kit measures widths in
this way too (xmax - xmin + 1).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml.ElementTree import fromstring

from oculox.data.faults import stays_inside
from oculox.data.image import IMAGE_SUFFIXES
from oculox.datasets.formats.dataset import (
    NO_SIZE,
    SPLITS,
    TEXT,
    ImageReader,
    LabelledData,
    LabelledObject,
    OnImage,
    labelled,
)
from oculox.datasets.image_facts import ImageFacts, look_at
from oculox.distributed.ahead import usable_threads, work_ahead
from oculox.errors import DataError

MAX_BYTES = 16 << 20
"""Largest label file read."""

_Stated = tuple[Path, Path, tuple[int, int], list[LabelledObject]]


def read_voc(
    root: Path,
    *,
    classes: Sequence[str] | None,
    splits: Mapping[str, str] | None,
    skip_difficult: bool = False,
    keep_bad_images: bool = False,
    on_image: OnImage,
) -> LabelledData:
    """Read a Pascal VOC dataset.

    Args:
        root: folder with ``Annotations/`` and ``JPEGImages/``.
        classes: names, in the order wanted; without them all that occur, in alphabetical order.
            Objects of other classes are faults.
        splits: list of ``ImageSets/Main`` (without .txt) -> split; without it train, val and test
            where they are (trainval for train where train is not); all images become train
            where there is no list.
        skip_difficult: leave out objects marked difficult.
        keep_bad_images: see `ImageReader`.
        on_image: called after each image, for progress.

    Raises:
        DataError: the layout is not there, or a wanted list is not.
    """
    for folder in ("Annotations", "JPEGImages"):
        if not (root / folder).is_dir():
            raise DataError(
                f"{root}: not a Pascal VOC dataset: no folder {folder}/ (for a development kit "
                "name the year's folder, such as VOCdevkit/VOC2012)"
            )
    files = sorted((root / "JPEGImages").iterdir())
    by_stem = {p.stem: p for p in files if p.suffix.lower() in IMAGE_SUFFIXES}
    readers: dict[str, _VocReader] = {}
    stated: dict[str, list[_Stated]] = {}
    for split, stems in _lists(root, splits).items():
        stated[split] = []
        readers[split] = _VocReader(
            root, by_stem, skip_difficult=skip_difficult, keep_bad_images=keep_bad_images
        )
        look = partial(_looked_at, by_stem)
        for stem, fact in work_ahead(look, stems, threads=usable_threads()):
            image = readers[split].read(stem, split, fact)
            if image is not None:
                stated[split].append(image)
            on_image()
    seen = {o.class_name for images in stated.values() for *_, objects in images for o in objects}
    names = tuple(classes) if classes is not None else tuple(sorted(seen))
    result = {
        split: tuple(
            labelled(
                image,
                readers[split].free_name(image.name),
                hw=hw,
                objects=readers[split].known(objects, names, file=xml),
                classes=names,
            )
            for image, xml, hw, objects in images
        )
        for split, images in stated.items()
    }
    return LabelledData(names, result, {split: r.faults for split, r in readers.items()})


def _looked_at(images: Mapping[str, Path], stem: str) -> tuple[str, ImageFacts | None]:
    """An image with what is known of its file; None where there is none."""
    return stem, look_at(images[stem]) if stem in images else None


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
        lines = path.read_text(encoding=TEXT, errors="replace").splitlines()
        stems = (line.strip() for line in lines)
        result.setdefault(split, []).extend(dict.fromkeys(s for s in stems if s))
    return result


class _VocReader(ImageReader):
    def __init__(
        self,
        root: Path,
        images: Mapping[str, Path],
        *,
        skip_difficult: bool,
        keep_bad_images: bool,
    ) -> None:
        super().__init__(keep_bad_images=keep_bad_images)
        self._root = root
        self._images = images
        self._skip_difficult = skip_difficult

    def read(self, stem: str, split: str, fact: ImageFacts | None) -> _Stated | None:
        """One image with its label file, size and usable objects, of any class."""
        xml = self._root / "Annotations" / f"{stem}.xml"
        if not stays_inside(stem):
            self.fault("path-escape", f"{split}.txt", f"{stem!r} leads out of the dataset")
            return None
        image = self._images.get(stem)
        if image is None or fact is None:
            self.fault("image-missing", xml, f"no image {stem}.* in JPEGImages/")
            return None
        try:
            tree = parse_xml(xml.read_bytes())
        except FileNotFoundError:
            self.fault("labels-missing", xml, f"no annotation of {image.name}")
            return None
        except (OSError, DataError) as error:
            self.fault("labels-unreadable", xml, str(error))
            return None
        hw = self.measure(image, fact)
        if hw is None or hw == NO_SIZE:
            return None if hw is None else (image, xml, hw, [])
        wrong = self._wrong_size(tree, hw, xml)
        if wrong is not None:
            return (image, xml, wrong, []) if self.keep_bad_images else None
        return image, xml, hw, self.keep(self._objects(tree, xml), hw, file=xml)

    def known(
        self, objects: Sequence[LabelledObject], classes: Sequence[str], *, file: Path
    ) -> list[LabelledObject]:
        """The objects whose class is among `classes`; the others are faults."""
        for name, _, where in objects:
            if name not in classes:
                message = f"{where}: class {name!r} is not among {list(classes)}"
                self.fault("class-unknown", file, message)
        return [found for found in objects if found.class_name in classes]

    def _wrong_size(self, tree: Element, hw: tuple[int, int], xml: Path) -> tuple[int, int] | None:
        """The stated height and width where they forbid to trust the boxes.

        A size that is absent, 0 or turned gives only a warning.
        """
        texts = [tree.findtext(f"size/{key}", "0").strip() for key in ("height", "width")]
        height, width = (int(t) if t.isdecimal() and len(t) < 10 else 0 for t in texts)
        stated = height, width
        real = f"{hw[1]} x {hw[0]}"
        if 0 in stated:
            message = f"no size is stated; the image's {real} is taken"
            self.fault("size-missing", xml, message, severity="warning")
        elif stated == hw[::-1] != hw:
            message = f"height and width are swapped; the image is {real}"
            self.fault("size-mismatch", xml, message, severity="warning")
        elif stated != hw:
            message = f"stated {stated[1]} x {stated[0]}, the image is {real}; left out"
            self.fault("size-mismatch", xml, message)
            return stated
        return None

    def _objects(self, tree: Element, xml: Path) -> list[LabelledObject]:
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
                self.fault("box-malformed", xml, f"{where}: box must be four numbers, got {texts}")
                continue
            if not name:
                self.fault("class-unknown", xml, f"{where}: no class name")
                continue
            # Annotators leave a box of one repeated pixel where they clicked by accident.
            if right == left or bottom == top:
                right, bottom = right - (right == left), bottom - (bottom == top)
            objects.append(LabelledObject(name, (left - 1, top - 1, right, bottom), where))
        return objects


def parse_xml(data: bytes) -> Element:
    """The root element of a label file, which is not trusted.

    Raises:
        DataError: it is not well-formed, larger than `MAX_BYTES` or has a DOCTYPE.
    """
    if len(data) > MAX_BYTES:
        raise DataError(f"larger than {MAX_BYTES >> 20} MiB")
    try:
        root: Element = fromstring(data, forbid_dtd=True)
    except (ParseError, LookupError, ValueError) as error:
        # defusedxml raises ValueErrors of its own, which name the DOCTYPE or entity.
        raise DataError(f"not XML that is read ({error})") from None
    return root
