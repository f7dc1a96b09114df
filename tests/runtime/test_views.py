"""Several views of an image: mirrored, in other sizes, in tiles."""

import json

import cv2
import numpy as np
import pytest
import torch

from oculox.api import Detector
from oculox.data.coco import load_coco
from oculox.data.tiles import Tiling
from oculox.errors import UsageError
from oculox.evaluation.evaluate import OFFICIAL_SETTINGS, evaluate
from oculox.postprocess import DetectSettings
from oculox.predict.pipeline import Pipeline
from oculox.runtime.timing import Stopwatch
from oculox.runtime.views import ImageDetector, Views, input_sizes
from oculox.types import DecodedPredictions
from red_images import RedBackend, red_image

FLIP, FULL, TILES = Views(tta="flip"), Views(tta="full"), Views(tiling=Tiling(64, 0.25))
BOTH = Views(tta="flip", tiling=Tiling(64, 0.25))


class FirstViewOnly(RedBackend):
    """Finds something in the first batch alone."""

    def predict(self, images):
        boxes, found, classes = super().predict(images)
        return DecodedPredictions(boxes, found * (len(self.batches) == 1), classes)


class TwoBoxes(RedBackend):
    """Finds the block twice: all of it, and six tenths around its middle."""

    def predict(self, images):
        boxes, found, classes = super().predict(images)
        inset = (boxes[..., 2] - boxes[..., 0]) * 0.2
        inner = boxes + torch.stack((inset, 0 * inset, -inset, 0 * inset), dim=-1)
        both = torch.cat((boxes, inner), dim=1)
        return DecodedPredictions(both, found.repeat(1, 2), classes.repeat(1, 2, 1))


@pytest.mark.parametrize(("iou", "count"), [(0.5, 1), (0.65, 2)])
@pytest.mark.parametrize("views", [Views(), FLIP])
def test_fusion_takes_for_one_object_what_nms_does(views, iou, count):
    """A lower threshold of the fusion cost all that mirroring gains: docs/experiments.md."""
    found = Pipeline(TwoBoxes(), DetectSettings(iou=iou), views=views)([red_image()])[0]
    assert len(found) == count


@pytest.mark.parametrize("placement", ["top_left", "center"])
@pytest.mark.parametrize("views", [FLIP, FULL])
@pytest.mark.parametrize(
    ("height", "width", "box"), [(48, 120, (10, 12, 50, 36)), (200, 60, (10, 100, 50, 160))]
)
def test_views_are_fused_in_source_pixels(views, placement, height, width, box):
    backend = RedBackend(placement=placement, size_hw=(96, 128))
    found = Pipeline(backend, views=views)([red_image(height, width, box)])[0]
    assert len(found) == 1
    assert found.scores[0] == pytest.approx(0.9)
    np.testing.assert_allclose(found.xyxy[0], box, atol=1 + 1.5 / min(96 / height, 128 / width))


@pytest.mark.parametrize(
    ("views", "shapes"),
    [
        (FLIP, [(64, 96)] * 2),
        (FULL, [(64, 64)] * 2 + [(64, 96)] * 2 + [(64, 128)] * 2),
    ],
)
def test_the_sizes_of_the_views(views, shapes):
    backend = RedBackend()
    Pipeline(backend, views=views, batch=2)([red_image()] * 3)
    sizes = [shape[2:] for shape in backend.batches]
    assert sizes == shapes * 2
    assert [shape[0] for shape in backend.batches] == [2] * len(shapes) + [1] * len(shapes)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((416, 416), [(352, 352), (416, 416), (480, 480)]),
        ((640, 640), [(544, 544), (640, 640), (736, 736)]),
        ((384, 640), [(320, 544), (384, 640), (448, 736)]),
        ((32, 32), [(32, 32)]),
    ],
)
def test_three_sizes(size, expected):
    assert input_sizes(RedBackend(), size, "full") == expected
    assert input_sizes(RedBackend(), size, "flip") == [size]


def test_what_one_view_alone_found_counts_less():
    settings = DetectSettings(conf=0.3)
    found = Pipeline(FirstViewOnly(), settings, views=FLIP)([red_image()])[0]
    assert found.scores.tolist() == pytest.approx([0.45])
    stricter = DetectSettings(conf=0.5)
    assert len(Pipeline(FirstViewOnly(), stricter, views=FLIP)([red_image()])[0]) == 0


def test_a_model_of_one_size_can_be_mirrored_only():
    backend = RedBackend(dynamic_size=False)
    with pytest.raises(UsageError, match=r"built for 64 x 96.*take tta flip.*`dynamic_size`"):
        Pipeline(backend, views=FULL)
    assert len(Pipeline(backend, views=FLIP)([red_image()])[0]) == 1


@pytest.mark.parametrize(
    "make", [lambda: Views(tta="twice"), lambda: Pipeline(RedBackend(), batch=0)]
)
def test_wrong_values(make):
    with pytest.raises(UsageError, match=r"tta must be one of flip, full|batch must be"):
        make()


def test_tiles_find_what_is_too_small_in_the_whole():
    # In the whole image of 600 x 900 the block is less than a pixel of the input.
    image = red_image(600, 900, (400, 300, 406, 306))
    backend = RedBackend()
    assert len(Pipeline(backend)([image])[0]) == 0
    found = Pipeline(backend, views=TILES, batch=4)([image])[0]
    assert len(found) == 1
    np.testing.assert_allclose(found.xyxy[0], (400, 300, 406, 306), atol=1.5)
    assert max(shape[0] for shape in backend.batches) <= 4


@pytest.mark.parametrize("views", [TILES, BOTH])
@pytest.mark.parametrize("left", range(0, 60, 7))
def test_cut_objects_are_found_once(views, left):
    """Tiles start at 0, 32 and 64: some cut the block, and one or the whole image shows it all."""
    box = (left, 10, left + 30, 50)
    found = Pipeline(RedBackend(), views=views)([red_image(64, 128, box)])[0]
    assert len(found) == 1
    np.testing.assert_allclose(found.xyxy[0], box, atol=2.5)


def test_an_object_larger_than_a_tile_is_found_once():
    box = (5, 5, 185, 120)
    found = Pipeline(RedBackend(), views=TILES)([red_image(128, 192, box)])[0]
    assert len(found) == 1
    np.testing.assert_allclose(found.xyxy[0], box, atol=4)


def test_an_image_of_one_tile_is_seen_once():
    backend = RedBackend()
    views = Views(tiling=Tiling(128))
    [found] = Pipeline(backend, views=views)([red_image()])
    [plain] = Pipeline(RedBackend())([red_image()])
    assert len(backend.batches) == 1
    np.testing.assert_array_equal(found.xyxy, plain.xyxy)


def test_limits_hold_for_what_was_merged():
    image = red_image(64, 192, (5, 5, 20, 20))
    image[30:50, 150:170] = (0, 0, 255)
    pair = Pipeline(RedBackend(), views=TILES)([image])[0]
    assert len(pair) >= 2
    one = Pipeline(RedBackend(), DetectSettings(max_det=1), views=TILES)([image])[0]
    assert len(one) == 1
    none = Pipeline(RedBackend(), DetectSettings(class_ids=(1,)), views=TILES)([image])[0]
    assert len(none) == 0


@pytest.fixture
def index(tmp_path):
    """Three images of different sizes with a red block each, and one that cannot be read."""
    images, annotations = [], []
    for i, (height, width) in enumerate([(64, 192), (100, 150), (48, 60), (64, 64)]):
        box = (5 + i, 8, 35 + i, 40)
        cv2.imwrite(str(tmp_path / f"{i}.png"), red_image(height, width, box))
        images.append({"id": i, "file_name": f"{i}.png", "width": width, "height": height})
        bbox = [box[0], box[1], 30, 32]
        annotations.append({"id": i + 1, "image_id": i, "category_id": 1, "bbox": bbox})
    (tmp_path / "3.png").write_bytes(b"no image")
    categories = [{"id": 1, "name": "square"}, {"id": 2, "name": "disc"}]
    tree = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "val.json").write_text(json.dumps(tree))
    return load_coco(tmp_path / "val.json", tmp_path)


@pytest.mark.parametrize("views", [FLIP, FULL, TILES, BOTH])
@pytest.mark.parametrize("color", ["bgr", "rgb"])
@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_finds_what_prediction_finds(index, views, color, workers):
    backend = RedBackend(color=color)
    result = evaluate(backend, index, views=views, workers=workers, batch=3, max_bad_images=1)
    assert result.metrics.ap50 == pytest.approx(1)
    assert (result.images, len(result.left_out)) == (3, 1)
    pipeline = Pipeline(backend, OFFICIAL_SETTINGS, views=views)
    images = [cv2.imread(str(index.image_path(i))) for i in range(3)]
    predicted = [
        row
        for i, found in zip(range(3), pipeline(images), strict=True)
        for row in found.to_coco(i, (1, 2))
    ]
    assert len(predicted) == len(result.results)
    for ours, theirs in zip(predicted, result.results, strict=True):
        # Evaluation does not clip.
        np.testing.assert_allclose(ours.pop("bbox"), theirs.pop("bbox"), atol=2)
        assert ours == pytest.approx(theirs)


def test_plain_views_change_nothing(index):
    plain = evaluate(RedBackend(), index, max_bad_images=1)
    same = evaluate(RedBackend(), index, views=Views(), max_bad_images=1)
    assert same.results == plain.results


def test_real_objects_in_a_mosaic(shared):
    """Nine photos in one: in the whole image most objects are too small to be found."""
    root = shared / "coco_mini"
    index = load_coco(root / "annotations/instances_val2017.json", root / "val2017")
    mosaic = np.full((1920, 1920, 3), 114, np.uint8)
    for i in range(9):
        photo = cv2.imread(str(index.image_path(i)))
        row, column = divmod(i, 3)
        tile = mosaic[640 * row :, 640 * column :]
        tile[: photo.shape[0], : photo.shape[1]] = photo
    weights = shared / "weights/yolox_nano.pth"
    plain = Detector(weights, device="cpu")(mosaic)
    tiled = Detector(weights, device="cpu", tile=640)(mosaic)
    assert len(tiled) > 3 * len(plain)


@pytest.mark.slow
def test_augmentation_gains_ap(shared, tmp_path):
    """Of 16 photos; docs/experiments.md has the figures for all."""
    root = shared / "coco_mini"
    tree = json.loads((root / "annotations/instances_val2017.json").read_text("utf-8"))
    tree["images"] = tree["images"][:16]
    ids = {image["id"] for image in tree["images"]}
    tree["annotations"] = [a for a in tree["annotations"] if a["image_id"] in ids]
    (tmp_path / "some.json").write_text(json.dumps(tree))
    index = load_coco(tmp_path / "some.json", root / "val2017")
    backend = Detector(shared / "weights/yolox_nano.pth", device="cpu").backend
    ap = {v: evaluate(backend, index, views=v).metrics.ap for v in (Views(), FLIP, FULL)}
    assert ap[Views()] < ap[FLIP] < ap[FULL]


class SideBySide(RedBackend):
    side_by_side = True


@pytest.mark.parametrize(("backend", "most"), [(SideBySide, 2), (RedBackend, 6)])
def test_threads_side_by_side_share_the_memory_of_a_batch(backend, most):
    backend = backend()
    detector = ImageDetector(backend, DetectSettings(), views=Views(), batch=6).for_threads(3)
    assert len(detector([red_image()] * 7, watch=Stopwatch())) == 7
    assert max(shape[0] for shape in backend.batches) == most
