"""Writes small COCO sets for the tests of this folder."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

Box = Sequence[float]


def write_coco(
    folder: Path,
    *,
    sizes_hw: Sequence[tuple[int, int]] = ((40, 60), (64, 48), (33, 33)),
    boxes: Sequence[Sequence[Box]] | None = None,
    ids: Sequence[int | str] | None = None,
    files: Sequence[str] | None = None,
    category_ids: Sequence[int] = (1, 2),
) -> tuple[Path, Path]:
    """Images of smooth noise and their annotations (xywh, category = box number modulo)."""
    rng = np.random.default_rng(7)
    ids = list(range(1, len(sizes_hw) + 1)) if ids is None else ids
    files = [f"{i}.png" for i in range(len(sizes_hw))] if files is None else files
    if boxes is None:
        boxes = [[(4, 5, 20, 15), (10, 8, 12, 20)] for _ in sizes_hw]
    entries, annotations = [], []
    images = folder / "images"
    for image_id, name, (h, w), rows in zip(ids, files, sizes_hw, boxes, strict=True):
        path = images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (h // 8 + 2, w // 8 + 2, 3), np.uint8)
        cv2.imwrite(str(path), cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC))
        entries.append({"id": image_id, "file_name": name, "height": h, "width": w})
        for k, row in enumerate(rows):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_ids[k % len(category_ids)],
                    "bbox": list(row),
                    "iscrowd": 0,
                }
            )
    tree = {
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": c, "name": f"kind{c}"} for c in category_ids],
    }
    (folder / "labels.json").write_text(json.dumps(tree))
    return folder / "labels.json", images
