"""A dataset as one page for a browser: thumbnails with boxes, filters, and what the check found."""

from __future__ import annotations

import base64
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from oculox.data.faults import Fault
from oculox.data.image import ImageFile, read_image
from oculox.datasets.check import CheckedSplit, CheckReport
from oculox.draw import shrunk
from oculox.errors import DataError
from oculox.files import encode_image, write_text

_QUALITY = 60
"""Of the thumbnails, as WebP: at 256 pixels about 7 KB each."""


def write_view(
    report: CheckReport,
    page: Path,
    *,
    title: str,
    side: int = 256,
    on_image: Callable[[], None] = lambda: None,
) -> None:
    """Write the page.

    Args:
        report: of `check_data`; the boxes are those that the annotations state.
        page: the HTML file; thumbnails are in it, and it names no other address. Enlarged images
            come from the dataset where the page finds it, else from the thumbnails.
        title: of the page.
        side: longest side of a thumbnail, in pixels.
        on_image: called after each image, for progress.

    Raises:
        OculoxError: the page cannot be written.
    """
    images: list[dict[str, Any]] = []
    general: list[str] = []
    classes = list(dict.fromkeys(c for r in report.splits.values() for c in r.stats.per_class))
    base = page.absolute().parent
    for split, one in report.splits.items():
        prefix = f"{split}/"
        found = [(fault.file, fault) for fault in one.faults]
        between = [f for f in report.between if f.file.startswith(prefix)]
        found += [(fault.file.removeprefix(prefix), fault) for fault in between]
        mine, rest = _by_image(one.checked, found)
        general += rest
        rows = _rows(one.checked, classes)
        names = [image["file_name"] for image in one.checked.coco.images]
        paths = [one.checked.image_file(row) for row in range(len(names))]
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            thumbs = pool.map(partial(_thumbnail, side=side), paths)
            for row, (name, path, thumb) in enumerate(zip(names, paths, thumbs, strict=True)):
                # Boxes are in pixels of the stated size; some annotations state none.
                height, width = np.maximum(
                    one.checked.coco.sizes_hw[row], one.checked.sizes_hw[row]
                ).tolist()
                images.append(
                    {
                        "name": name,
                        "split": split,
                        "path": _link(path, base),
                        "width": width,
                        "height": height,
                        "thumb": thumb,
                        "boxes": rows[row],
                        "faults": [[fault.code, fault.message] for fault in mine[row]],
                    }
                )
                on_image()
    general += [f"{f.code}: {f}" for f in report.between if "/" not in f.file]
    data = {"title": title, "classes": classes, "faults": general, "images": images}
    # Nothing in the data may end the element that holds it.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    template = (resources.files("oculox") / "datasets" / "view.html").read_text("utf-8")
    write_text(page, template.replace("/* data */", text))


def _by_image(
    checked: CheckedSplit, found: list[tuple[str, Fault]]
) -> tuple[dict[int, list[Fault]], list[str]]:
    """Faults of each image, by its row, and those of no single image as texts.

    A fault of a label file is its image's: both have one stem.
    """
    rows: dict[str, int] = {}
    for row, image in enumerate(checked.coco.images):
        name = image["file_name"]
        rows.setdefault(Path(name).stem, row)
        rows[name] = row
    mine: dict[int, list[Fault]] = defaultdict(list)
    rest = []
    for file, fault in found:
        key = file if file in rows else Path(file).stem
        if key in rows:
            mine[rows[key]].append(fault)
        else:
            rest.append(f"{fault.code}: {fault}")
    return mine, rest


def _rows(checked: CheckedSplit, classes: list[str]) -> dict[int, list[list[float]]]:
    """Of each image: class, left, top, width, height and whether it can be used (1 or 0)."""
    truth = checked.coco.truth
    labels = [classes.index(name) for name in checked.coco.class_names]
    columns: Iterator[tuple[int, int, list[float], bool]] = zip(
        *(c.tolist() for c in (truth.owners, truth.labels, truth.xywh, checked.usable)),
        strict=True,
    )
    rows: dict[int, list[list[float]]] = defaultdict(list)
    for owner, label, (x, y, width, height), usable in columns:
        # A browser draws no negative side.
        left, top = min(x, x + width), min(y, y + height)
        box = [round(v, 1) for v in (left, top, abs(width), abs(height))]
        rows[owner].append([labels[label], *box, int(usable)])
    return rows


def _link(image: ImageFile, base: Path) -> str:
    """Address of an image file from the page's folder; empty for one in a shard."""
    if not isinstance(image, Path):
        return ""
    return quote(Path(os.path.relpath(image.absolute(), base)).as_posix())


def _thumbnail(path: ImageFile, *, side: int) -> str:
    """A small WebP in base64; empty where the image cannot be read."""
    try:
        image = read_image(path)
    except DataError:
        return ""
    small = shrunk(image, longest=side)
    encoded = encode_image(small, ".webp", [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    return base64.b64encode(encoded).decode("ascii")
