"""Images with boxes on them. Works on plain arrays, so that every part may use it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def draw_boxes(
    image: npt.NDArray[np.uint8],
    xyxy: npt.NDArray[np.float32],
    class_ids: npt.NDArray[np.int64],
    *,
    captions: Sequence[str],
) -> npt.NDArray[np.uint8]:
    """Draw labelled boxes on a copy of an image.

    A caption stands on the top left corner of its box, and is moved into the image where it would
    reach beyond its edge.

    Args:
        image: uint8 (H, W, 3), BGR; not modified.
        xyxy: float32 (D, 4) pixels.
        class_ids: int64 (D,); picks the colour.
        captions: D texts.

    Returns:
        uint8 (H, W, 3), BGR.
    """
    import cv2
    import supervision as sv

    if len(xyxy) == 0:
        return np.array(image, np.uint8)
    height, width = image.shape[:2]
    detections = sv.Detections(
        xyxy=np.array(xyxy, np.float32), class_id=np.asarray(class_ids, np.int64)
    )
    thickness = sv.calculate_optimal_line_thickness((width, height))
    scale = max(0.4, sv.calculate_optimal_text_scale((width, height)))  # letters of 9 pixels
    drawn = sv.BoxAnnotator(thickness=thickness).annotate(image.copy(), detections)
    padding = 3
    texts = [cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0] for text in captions]
    widths, heights = (np.array(texts, np.float32) + 2 * padding).T
    detections.xyxy[:, 0] = np.minimum(detections.xyxy[:, 0], width - widths).clip(min=0)
    detections.xyxy[:, 1] = np.maximum(detections.xyxy[:, 1], heights)
    drawn = sv.LabelAnnotator(text_scale=scale, text_thickness=1, text_padding=padding).annotate(
        drawn, detections, labels=list(captions)
    )
    result: npt.NDArray[np.uint8] = np.asarray(drawn, np.uint8)
    return result


def shrunk(image: npt.NDArray[np.uint8], *, longest: int = 1024) -> npt.NDArray[np.uint8]:
    """An image, uint8 (H, W, C), made smaller where a side is longer than that."""
    import cv2

    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def contact_sheet(
    images: Sequence[npt.NDArray[np.uint8]],
    *,
    columns: int = 4,
    cell_hw: tuple[int, int] = (240, 320),
) -> npt.NDArray[np.uint8]:
    """Tile images into one, each fitted into a cell of `cell_hw` on a dark background.

    Returns:
        uint8 (rows * height, columns * width, 3), BGR.

    Raises:
        ValueError: when there is no image.
    """
    import cv2

    if not images:
        raise ValueError("a contact sheet needs at least one image")
    height, width = cell_hw
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * height, columns * width, 3), 24, np.uint8)
    for i, image in enumerate(images):
        ratio = min((height - 4) / image.shape[0], (width - 4) / image.shape[1])
        size = (max(1, int(image.shape[1] * ratio)), max(1, int(image.shape[0] * ratio)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        top = (i // columns) * height + (height - size[1]) // 2
        left = (i % columns) * width + (width - size[0]) // 2
        sheet[top : top + size[1], left : left + size[0]] = small
    return sheet
