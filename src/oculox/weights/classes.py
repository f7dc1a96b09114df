"""Names and ids of COCO's 80 classes, for weights that come without names; equal names."""

from collections.abc import Sequence

# fmt: off
COCO_NAMES: tuple[str, ...] = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote",
    "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book",
    "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on

_UNUSED_IDS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
COCO_CATEGORY_IDS: tuple[int, ...] = tuple(i for i in range(1, 91) if i not in _UNUSED_IDS)


def default_names(num_classes: int) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """Names and category ids for weights without any: COCO's for 80 classes, else numbers."""
    if num_classes == len(COCO_NAMES):
        return COCO_NAMES, COCO_CATEGORY_IDS
    return numbered_names(num_classes), None


def numbered_names(num_classes: int) -> tuple[str, ...]:
    """``class 0``, ``class 1``, ...: stand for names that nobody knows."""
    return tuple(f"class {i}" for i in range(num_classes))


# Pascal VOC's names of classes that COCO calls otherwise.
_SAME = {"aeroplane": "airplane", "motorbike": "motorcycle", "sofa": "couch", "tvmonitor": "tv"}


def same_classes(wanted: Sequence[str], known: Sequence[str]) -> tuple[int | None, ...]:
    """For each wanted class the index of the known class of that name; None where there is none.

    Upper case, spaces, ``_`` and ``-`` do not count, and VOC's names are those of COCO.
    """
    index = {_plain(name): i for i, name in reversed(list(enumerate(known)))}
    return tuple(index.get(_plain(name)) for name in wanted)


def _plain(name: str) -> str:
    plain = "".join(letter for letter in name.casefold() if letter not in " _-")
    return _SAME.get(plain, plain)
