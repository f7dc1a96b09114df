"""COCO results, as files hold them, as the columns that the metrics take."""

import numpy as np

from oculox.evaluation.coco_metrics import FoundObjects


def found_objects(index, rows):
    image_of = {image_id: i for i, image_id in enumerate(index.image_ids)}
    label_of = {category: label for label, category in enumerate(index.category_ids)}
    return FoundObjects(
        owners=np.array([image_of[row["image_id"]] for row in rows], np.int64),
        labels=np.array([label_of[row["category_id"]] for row in rows], np.int64),
        xywh=np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4),
        scores=np.array([row["score"] for row in rows], np.float64),
    )
