"""YOLO: ``images/`` and ``labels/`` side by side, one text file per image, ``data.yaml``.

A line is ``class cx cy w h``, fractions of the image; or a class and a polygon of at least
three points, whose bounding box is taken.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from oculox.config.load import read_yaml
from oculox.data.image import IMAGE_SUFFIXES
from oculox.datasets.formats.dataset import (
    NO_SIZE,
    SPLITS,
    TEXT,
    ImageReader,
    LabelledData,
    LabelledImage,
    LabelledObject,
    OnImage,
    labelled,
)
from oculox.datasets.image_facts import ImageFacts, look_at, place_image
from oculox.distributed.ahead import usable_threads, work_ahead
from oculox.errors import DataError
from oculox.files import FileMode

_ALIASES = {"train": "train", "val": "val", "valid": "val", "test": "test"}


def read_yolo(
    root: Path,
    *,
    classes: Sequence[str] | None,
    splits: Mapping[str, str] | None,
    wanted: Collection[str] = SPLITS,
    keep_bad_images: bool = False,
    on_image: OnImage,
) -> LabelledData:
    """Read a YOLO dataset.

    Args:
        root: the folder, or its YAML file. Without one: ``images/<split>`` or ``<split>/images``.
        classes: names by index; without them those of the YAML file or ``classes.txt``.
        splits: the source's split name -> split; without it train, val (or valid) and test.
        wanted: the splits to read where `splits` does not say which.
        keep_bad_images: see `ImageReader`.
        on_image: called after each image, for progress.

    Raises:
        DataError: no image of any split or no class names are found, or the YAML file is
            malformed.
    """
    config, base = _load_yaml(root)
    names = tuple(classes) if classes is not None else _names(config, base)
    readers: dict[str, _YoloReader] = {}
    result: dict[str, tuple[LabelledImage, ...]] = {}
    for source, split in (splits or _ALIASES).items():
        if splits is None and (split in result or split not in wanted):
            continue  # one folder is often named both by the file and by itself
        reader = readers.setdefault(split, _YoloReader(names, keep_bad_images=keep_bad_images))
        images = []
        listed = work_ahead(_looked_at, _images(base, config, source), threads=usable_threads())
        for path, name, fact in listed:
            image = reader.read(path, name, fact)
            if image is not None:
                images.append(image)
            on_image()
        if images:
            result[split] = (*result.get(split, ()), *images)
        elif splits is not None:
            raise DataError(f"{root}: no images of split {source!r} found")
    faults = {split: reader.faults for split, reader in readers.items()}
    if wanted == SPLITS and not result and not any(faults.values()):
        raise DataError(
            f"{root}: no images found; expected a data.yaml with train and val, or "
            "images/train and labels/train, or train/images and train/labels"
        )
    return LabelledData(names, result, faults)


def _load_yaml(root: Path) -> tuple[dict[str, Any], Path]:
    """The YAML file's content ({} where there is none) and the folder its paths count from."""
    if not root.exists():
        raise DataError(f"{root}: no such file or folder")
    if root.is_dir():
        files = [root / f"data.{e}" for e in ("yaml", "yml") if (root / f"data.{e}").is_file()]
        files = files or sorted((*root.glob("*.yaml"), *root.glob("*.yml")))
        if not files:
            return {}, root
        path = files[0]
    else:
        path = root
    try:
        config = read_yaml(path.read_text(encoding=TEXT))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(config, dict):
        raise DataError(f"{path}: expected keys such as train, val and names")
    stated = config.get("path")
    base = path.parent / stated if isinstance(stated, str) else path.parent
    return config, base if _holds(Path.is_dir, base) else path.parent


def _names(config: Mapping[str, Any], base: Path) -> tuple[str, ...]:
    names = config.get("names")
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise DataError(
                f"names must be numbered 0, 1, ... without gaps, got {', '.join(map(str, names))}"
            )
        names = [names[i] for i in range(len(names))]
    if isinstance(names, list) and names:
        return tuple(str(n) for n in names)
    listing = base / "classes.txt"
    if listing.is_file():
        lines = listing.read_text(encoding=TEXT, errors="replace").splitlines()
        found = tuple(line.strip() for line in lines if line.strip())
        if found:
            return found
    raise DataError(
        f"{base}: no class names; write them into {base / 'data.yaml'}, as in `names: [cup, dog]`, "
        "or pass `classes`"
    )


def _images(base: Path, config: Mapping[str, Any], split: str) -> Iterator[tuple[Path, str]]:
    """Images of a split, each with its name below its folder, in order of name."""
    stated = config.get(split)
    sources = [stated] if isinstance(stated, str) else stated if isinstance(stated, list) else []
    paths = [_resolve(base, str(source)) for source in sources]
    if not sources:
        paths = [p for p in (base / "images" / split, base / split / "images") if p.is_dir()]
        if split == "train" and not paths and (base / "images").is_dir():
            # One folder of images without splits.
            named = any((base / "images" / alias).is_dir() for alias in _ALIASES)
            paths = [] if named else [base / "images"]
    for path in paths:
        if path.suffix == ".txt" and _holds(Path.is_file, path):
            for line in path.read_text(encoding=TEXT, errors="replace").splitlines():
                if line.strip():
                    image = _resolve(base, line.strip())
                    yield image, image.name
        elif _holds(Path.is_dir, path):
            for image in sorted(path.rglob("*")):
                if image.suffix.lower() in IMAGE_SUFFIXES:
                    yield image, image.relative_to(path).as_posix()


def _looked_at(image: tuple[Path, str]) -> tuple[Path, str, ImageFacts | None]:
    """An image with what is known of its file; None where it has no name that a file can have."""
    path, name = image
    return path, name, look_at(path) if path.name and "\0" not in str(path) else None


def _resolve(base: Path, stated: str) -> Path:
    """A stated path, counted from the base; a leading ../ that leads nowhere is ignored."""
    path = base / stated
    stripped = base / "/".join(p for p in PurePosixPath(stated).parts if p != "..")
    found = _holds(Path.exists, path) or not _holds(Path.exists, stripped)
    return path if found else stripped


def _holds(question: Callable[[Path], bool], path: Path) -> bool:
    """A question about a path that may be none: too long for a name, or with a zero byte."""
    try:
        return question(path)
    except (OSError, ValueError):
        return False


class _YoloReader(ImageReader):
    def __init__(self, names: Sequence[str], *, keep_bad_images: bool) -> None:
        super().__init__(keep_bad_images=keep_bad_images)
        self._names_by_index = names

    def read(self, path: Path, name: str, fact: ImageFacts | None) -> LabelledImage | None:
        """One image with its usable objects; without a label file it shows none."""
        if fact is None:
            self.fault("image-missing", str(path), "not the name of an image")
            return None
        hw = self.measure(path, fact)
        if hw is None:
            return None
        labels = label_path(path)
        objects = []
        try:
            text = labels.read_text(encoding=TEXT)
        except FileNotFoundError:
            text = ""
        except (OSError, UnicodeDecodeError) as error:
            self.fault("labels-unreadable", labels, str(error))
            return None
        for i, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                found = self._object(line.split(), hw, where=f"line {i}", file=labels)
                objects += [] if found is None else [found]
        kept = [] if hw == NO_SIZE else self.keep(objects, hw, file=labels)
        name = self.free_name(name)
        return labelled(path, name, hw=hw, objects=kept, classes=self._names_by_index)

    def _object(
        self, words: list[str], hw: tuple[int, int], *, where: str, file: Path
    ) -> LabelledObject | None:
        try:
            number, *values = (float(word) for word in words)
        except ValueError:
            self.fault("box-malformed", file, f"{where}: expected numbers, got {' '.join(words)!r}")
            return None
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            message = f"{where}: expected class cx cy w h or a polygon, got {len(words)} values"
            self.fault("box-malformed", file, message)
            return None
        if number not in range(len(self._names_by_index)):
            message = (
                f"{where}: class {words[0]}, but classes are 0 to {len(self._names_by_index) - 1}"
            )
            self.fault("class-unknown", file, message)
            return None
        height, width = hw
        if len(values) == 4:
            cx, cy, w, h = values
            left, top, right, bottom = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
        else:
            left, right = min(values[::2]), max(values[::2])
            top, bottom = min(values[1::2]), max(values[1::2])
        xyxy = (left * width, top * height, right * width, bottom * height)
        return LabelledObject(self._names_by_index[int(number)], xyxy, where)


def label_path(image: Path) -> Path:
    """The label file of an image: the last folder ``images`` becomes ``labels``."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def write_yolo(data: LabelledData, folder: Path, *, mode: FileMode) -> None:
    """Write ``images/<split>``, ``labels/<split>`` and ``data.yaml`` into an empty folder.

    Crowd regions have no place in this format and are left out; an image without objects gets
    an empty label file.
    """
    for split, images in data.splits.items():
        for image in images:
            place_image(image.source, folder / "images" / split / image.name, mode=mode)
            labels = (folder / "labels" / split / image.name).with_suffix(".txt")
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text("".join(yolo_lines(image)), encoding="utf-8")
    config: dict[str, Any] = {s: f"images/{s}" for s in SPLITS if s in data.splits}
    config["names"] = dict(enumerate(data.classes))
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    (folder / "data.yaml").write_text(text, encoding="utf-8")


def yolo_lines(image: LabelledImage) -> Iterator[str]:
    """The lines of an image's label file."""
    height, width = image.hw
    rows = zip(image.boxes.tolist(), image.labels.tolist(), image.crowd.tolist(), strict=True)
    for (x1, y1, x2, y2), label, crowd in rows:
        if not crowd:
            center = f"{(x1 + x2) / 2 / width:.7f} {(y1 + y2) / 2 / height:.7f}"
            yield f"{label} {center} {(x2 - x1) / width:.7f} {(y2 - y1) / height:.7f}\n"
