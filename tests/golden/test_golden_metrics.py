"""Guards the twelve COCO metrics: crowds, areas, limits of detections, wrong classes."""

import json

import numpy as np
from scenes import coco_of, large_scenes

from coco_rows import found_objects
from golden import differences, golden, plain
from oculox.data.coco import load_coco
from oculox.evaluation.coco_metrics import evaluate_boxes

TOPIC = "metrics"


def make_data():
    """The large scenes with crowds, and jittered, doubled, missed and invented detections."""
    content = coco_of(large_scenes(), (480, 640), crowds=range(4, 1000, 9))
    rng = np.random.RandomState(5)
    results = []
    for row in content["annotations"]:
        # The scenes' objects are of medium size; every range of areas is to count.
        scale = {0: 0.25, 1: 2.0}.get(row["id"] % 4, 1.0)
        row["bbox"] = [scale * side for side in row["bbox"]]
        row["area"] *= scale**2
        x, y, w, h = row["bbox"]
        for _ in range(rng.randint(0, 4)):
            shift = rng.standard_normal(4) * 0.08 * [w, h, w, h]
            wrong = rng.uniform() < 0.15
            results.append(
                {
                    "image_id": row["image_id"],
                    "category_id": 1 if wrong else row["category_id"],
                    "bbox": [x + shift[0], y + shift[1], w + shift[2], h + shift[3]],
                    "score": float(rng.uniform()),
                }
            )
    # More than the 100 detections of an image that count, the right ones beyond the tenth.
    x, y, w, h = content["annotations"][-1]["bbox"]
    for i in range(150):
        results.append(
            {
                "image_id": content["annotations"][-1]["image_id"],
                "category_id": content["annotations"][-1]["category_id"],
                "bbox": [x + 3 * abs(50 - i), y, w, h],
                "score": 0.99 - i / 1000,
            }
        )
    return content, results


def compute_all(folder):
    content, results = make_data()
    for image in content["images"]:
        (folder / image["file_name"]).touch()
    (folder / "val.json").write_text(json.dumps(content))
    index = load_coco(folder / "val.json", folder)
    metrics = evaluate_boxes(index, found_objects(index, results))
    return plain(
        {
            "metrics": metrics.as_dict(),
            "classes": [[c.ap, c.ap50, c.ar, c.precision, c.recall] for c in metrics.classes],
            "confusion": metrics.confusion,
            "detections": len(results),
        }
    )


def test_metrics(tmp_path):
    content, _ = make_data()
    assert sum(a["iscrowd"] for a in content["annotations"]) >= 4
    assert differences(compute_all(tmp_path), golden(TOPIC), rel=1e-6) == []
