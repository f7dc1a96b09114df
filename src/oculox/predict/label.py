"""A model's detections as annotations that people correct in a labelling tool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree as Xml

import numpy as np

from oculox.data.faults import Fault
from oculox.data.image import IMAGE_SUFFIXES, read_image
from oculox.datasets.formats import LabelFormat
from oculox.datasets.formats.coco import coco_tree
from oculox.datasets.formats.dataset import LabelledData, LabelledImage
from oculox.datasets.formats.yolo import yolo_lines
from oculox.errors import DataError, UsageError
from oculox.files import new_folder, write_json, write_text
from oculox.predict.pipeline import Pipeline
from oculox.types import Detections, ImageArray, Progress


def label_images(
    pipeline: Pipeline, folder: Path, *, progress: Progress | None = None
) -> LabelledData:
    """Detect objects in all images below a folder.

    Args:
        pipeline: what finds objects.
        folder: of the images; folders in it are read too.
        progress: called with the numbers of images done and in all.

    Returns:
        One split, ``train``: images in the order of their names, with `LabelledImage.scores`.
        Images that cannot be read are its faults.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of images")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise DataError(f"{folder}: no images found ({' '.join(sorted(IMAGE_SUFFIXES))})")
    images: list[LabelledImage] = []
    faults: list[Fault] = []
    results = pipeline.each(paths, read=_read, finish=partial(_labelled, folder))
    for done, (path, result) in enumerate(results, start=1):
        if isinstance(result, DataError):
            message = str(result).removeprefix(f"{path}: ")
            faults.append(Fault(code="image-unreadable", file=str(path), message=message))
        else:
            images.append(result)
        if progress is not None:
            progress(done, len(paths))
    return LabelledData(pipeline.backend.spec.names, {"train": tuple(images)}, {"train": faults})


class _Read(NamedTuple):
    path: Path
    image: ImageArray


def _read(path: Path) -> _Read:
    return _Read(path, read_image(path))


def _labelled(folder: Path, read: _Read, detections: Detections) -> LabelledImage:
    return LabelledImage(
        source=read.path,
        name=read.path.relative_to(folder).as_posix(),
        hw=read.image.shape[:2],
        boxes=detections.xyxy,
        labels=detections.class_ids,
        crowd=np.zeros(len(detections), np.bool_),
        scores=detections.scores,
    )


def write_labels(data: LabelledData, target: Path, *, label_format: LabelFormat, root: str) -> None:
    """Write annotations into a new or empty folder, whole or not at all; images stay in place.

    - coco: ``annotations.json``, with the ``score`` of each annotation;
    - yolo: ``labels/NAME.txt`` for each image, and ``classes.txt``; no scores;
    - labelstudio: ``tasks.json``, tasks with predictions, and ``config.xml``, the labelling
      interface they go with;
    - cvat: ``annotations.xml``, CVAT for images 1.1, and ``labels.json`` for the task's labels;
      no scores.

    Args:
        data: of `label_images`.
        target: the folder.
        label_format: what to write.
        root: name of the images' folder; Label Studio's addresses start with it.

    Raises:
        UsageError: the target is in use, or the format is unknown.
        OculoxError: it cannot be written.
    """
    if label_format not in _WRITERS:
        raise UsageError(f"`format` must be one of {', '.join(_WRITERS)}, got {label_format!r}")
    with new_folder(target) as folder:
        _WRITERS[label_format](data.classes, data.splits["train"], folder, root)


_Images = Sequence[LabelledImage]


def _write_coco(classes: Sequence[str], images: _Images, folder: Path, root: str) -> None:
    write_json(folder / "annotations.json", coco_tree(classes, images))


def _write_yolo(classes: Sequence[str], images: _Images, folder: Path, root: str) -> None:
    for image in images:
        path = (folder / "labels" / image.name).with_suffix(".txt")
        if path.exists():
            raise DataError(
                f"{image.name}: another image has this name with another suffix, and "
                "YOLO names label files after the rest; rename one of them"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(yolo_lines(image)))
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes))


def _write_label_studio(classes: Sequence[str], images: _Images, folder: Path, root: str) -> None:
    """Boxes in percent of the image; the files as its local storage serves them.

    Source: https://labelstud.io/guide/predictions and https://labelstud.io/tags/rectanglelabels
    """
    tasks = []
    for image in images:
        height, width = image.hw
        percent = image.boxes * (100 / np.array((width, height, width, height)))
        results = []
        rows = zip(percent.tolist(), image.labels.tolist(), image.scores.tolist(), strict=True)
        for number, ((x1, y1, x2, y2), label, score) in enumerate(rows, start=1):
            value: dict[str, Any] = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
            value = {key: round(v, 4) for key, v in value.items()}
            value |= {"rotation": 0, "rectanglelabels": [classes[label]]}
            results.append(
                {
                    "id": str(number),
                    "type": "rectanglelabels",
                    "from_name": "label",
                    "to_name": "image",
                    "original_width": width,
                    "original_height": height,
                    "image_rotation": 0,
                    "value": value,
                    "score": round(score, 4),
                }
            )
        # The least certain box: Label Studio sorts tasks by it.
        lowest = {"score": min(r["score"] for r in results)} if results else {}
        tasks.append(
            {
                "data": {"image": f"/data/local-files/?d={quote(f'{root}/{image.name}')}"},
                "predictions": [{"model_version": "oculox", "result": results, **lowest}],
            }
        )
    view = Xml.Element("View")
    Xml.SubElement(view, "Image", name="image", value="$image")
    labels = Xml.SubElement(view, "RectangleLabels", name="label", toName="image")
    for name in classes:
        Xml.SubElement(labels, "Label", value=name)
    write_json(folder / "tasks.json", tasks)
    write_text(folder / "config.xml", _xml_text(view))


def _write_cvat(classes: Sequence[str], images: _Images, folder: Path, root: str) -> None:
    """Boxes in pixels, by the image's name.

    Source: https://docs.cvat.ai/docs/other/xml_format
    """
    tree = Xml.Element("annotations")
    Xml.SubElement(tree, "version").text = "1.1"
    task = Xml.SubElement(Xml.SubElement(tree, "meta"), "task")
    Xml.SubElement(task, "name").text = root
    Xml.SubElement(task, "size").text = str(len(images))
    Xml.SubElement(task, "mode").text = "annotation"
    labels = Xml.SubElement(task, "labels")
    for name in classes:
        Xml.SubElement(Xml.SubElement(labels, "label"), "name").text = name
    for number, image in enumerate(images):
        height, width = map(str, image.hw)
        element = Xml.SubElement(
            tree, "image", id=str(number), name=image.name, width=width, height=height
        )
        for box, label in zip(image.boxes.tolist(), image.labels.tolist(), strict=True):
            sides = zip(("xtl", "ytl", "xbr", "ybr"), (f"{v:.2f}" for v in box), strict=True)
            more = {"source": "auto", "occluded": "0", "z_order": "0"}
            Xml.SubElement(element, "box", {"label": classes[label], **dict(sides), **more})
    write_text(folder / "annotations.xml", _xml_text(tree))
    write_json(folder / "labels.json", [{"name": name, "attributes": []} for name in classes])


def _xml_text(tree: Xml.Element) -> str:
    Xml.indent(tree)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + Xml.tostring(tree, "unicode") + "\n"


_WRITERS: Mapping[str, Callable[[Sequence[str], _Images, Path, str], None]] = MappingProxyType(
    {
        "coco": _write_coco,
        "yolo": _write_yolo,
        "labelstudio": _write_label_studio,
        "cvat": _write_cvat,
    }
)
