"""Detections: validation, conversions and their round trips."""

import dataclasses
import importlib.util
import json

import cv2
import matplotlib
import numpy as np
import pytest
import supervision as sv
from matplotlib import pyplot

from oculox.config.schema import InputConfig, ModelConfig
from oculox.errors import CheckpointError, UsageError
from oculox.types import Detection, Detections, ModelSpec

NAMES = ("cat", "dog")


def make(n: int = 2) -> Detections:
    xyxy = np.array([[1, 2, 11, 22], [3.5, 4, 5, 6.25], [0, 0, 1, 1]], np.float32)[:n]
    scores = np.array([0.9, 0.5, 0.25], np.float32)[:n]
    return Detections(xyxy, scores, np.array([1, 0, 1])[:n], NAMES)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("xyxy", np.zeros((2, 5), np.float32)),
        ("xyxy", np.zeros(4, np.float32)),
        ("scores", np.zeros((2, 1), np.float32)),
        ("scores", np.zeros(3, np.float32)),
        ("class_ids", np.zeros(1, np.int64)),
    ],
)
def test_wrong_shape_names_expected_and_got(field, value):
    parts = {"xyxy": make().xyxy, "scores": make().scores, "class_ids": make().class_ids}
    with pytest.raises(ValueError, match=r"must have shape \(.*got \("):
        Detections(**{**parts, field: value})


@pytest.mark.parametrize("n", [0, 1, 3])
def test_supervision_round_trip(n):
    found = make(n)
    back = Detections.from_supervision(found.to_supervision(), NAMES)
    np.testing.assert_array_equal(back.xyxy, found.xyxy)
    np.testing.assert_array_equal(back.scores, found.scores)
    np.testing.assert_array_equal(back.class_ids, found.class_ids)


def test_from_supervision_without_scores_and_classes():
    back = Detections.from_supervision(sv.Detections(xyxy=np.zeros((2, 4), np.float32)))
    assert back.scores.tolist() == [1, 1]
    assert back.class_ids.tolist() == [0, 0]


@pytest.mark.parametrize("image_id", [7, "a/b.jpg"])
@pytest.mark.parametrize(
    ("category_ids", "expected"), [(None, [1, 0]), ((10, 90), [90, 10]), ({0: 3, 1: 5}, [5, 3])]
)
def test_to_coco(image_id, category_ids, expected):
    rows = make().to_coco(image_id, category_ids)
    assert [r["category_id"] for r in rows] == expected
    assert rows[0]["bbox"] == [1, 2, 10, 20]
    assert {r["image_id"] for r in rows} == {image_id}


@pytest.mark.parametrize("category_ids", [(10,), {0: 3}])
def test_to_coco_needs_an_id_for_each_class(category_ids):
    with pytest.raises(UsageError, match=r"category_ids has no id for class 1 \(.+\); give one"):
        make().to_coco(7, category_ids)


def test_to_dicts_uses_names_and_falls_back_to_numbers():
    found = make()
    assert [d["name"] for d in found.to_dicts()] == ["dog", "cat"]
    assert found.to_dicts()[0] == {
        "box": [1.0, 2.0, 11.0, 22.0], "score": 0.9, "class_id": 1, "name": "dog",
    }  # fmt: skip
    nameless = Detections(found.xyxy, found.scores, found.class_ids)
    assert [d["name"] for d in nameless.to_dicts()] == ["1", "0"]


@pytest.mark.parametrize(
    ("index", "count"),
    [
        (slice(0, 1), 1),
        (slice(None, None, -1), 3),
        (np.array([True, False, True]), 2),
        (np.array([2, 0]), 2),
        ([2], 1),
        (slice(0, 0), 0),
    ],
)
def test_selection(index, count):
    part = make(3)[index]
    assert len(part) == count
    np.testing.assert_array_equal(part.xyxy, make(3).xyxy[index])
    assert part.names == NAMES


def test_iterating_gives_single_detections():
    assert list(make()) == [
        Detection(box=(1, 2, 11, 22), score=pytest.approx(0.9), class_id=1, name="dog"),
        Detection(box=(3.5, 4, 5, 6.25), score=0.5, class_id=0, name="cat"),
    ]
    for one in make():
        assert {type(v) for v in (*one.box, one.score)} == {float}


@pytest.mark.parametrize("index", [0, 2, -1, -3, np.int64(1)])
def test_an_integer_gives_one_detection(index):
    found = make(3)
    assert found[index] == list(found)[index]


def test_one_detection_without_names_is_called_by_its_number():
    found = make()
    assert Detections(found.xyxy, found.scores, found.class_ids)[0].name == "1"


@pytest.mark.parametrize("index", [3, -4])
def test_an_index_that_is_not_there(index):
    with pytest.raises(IndexError):
        make(3)[index]


def test_empty():
    empty = Detections.empty(NAMES)
    assert list(empty) == []
    assert len(empty) == 0
    assert empty.to_dicts() == empty.to_coco(1) == []


def test_a_table_for_people():
    assert str(make()).splitlines() == [
        "class  score     left      top    right   bottom",
        "dog    0.900      1.0      2.0     11.0     22.0",
        "cat    0.500      3.5      4.0      5.0      6.2",
    ]
    assert str(Detections.empty()) == "nothing found"
    assert make(3).counts() == {"dog": 2, "cat": 1}
    assert repr(make(3)) == "<Detections: 2 dog, 1 cat>"
    named = dataclasses.replace(make(3), source="a.jpg")
    assert repr(named[1:]) == "<Detections in a.jpg: 1 cat, 1 dog>"


def with_image(n: int = 2) -> tuple[Detections, np.ndarray]:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    return dataclasses.replace(make(n), read=lambda: image), image


def test_images_of_what_was_found(tmp_path):
    found, image = with_image()
    assert found.image is image
    assert np.array_equal(found.plot(), found.draw(image))
    found.save(tmp_path / "new/drawn.png")
    assert np.array_equal(cv2.imread(str(tmp_path / "new/drawn.png")), found.plot())
    shown = cv2.imdecode(np.frombuffer(found._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(shown, found.plot())
    large = dataclasses.replace(found, read=lambda: np.zeros((3000, 1000, 3), np.uint8))
    shown = cv2.imdecode(np.frombuffer(large._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (1024, 341, 3)


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")  # not without a screen
def test_show():
    matplotlib.use("agg")
    found, _ = with_image()
    found.show()
    [shown] = pyplot.gcf().axes[0].images
    assert np.array_equal(shown.get_array(), found.plot()[..., ::-1])
    pyplot.close("all")


def test_crops():
    found, image = with_image(3)
    first, second, third = found.crop()
    assert np.array_equal(first, image[2:22, 1:11])
    assert np.array_equal(second, image[4:7, 3:5])
    first[:] = 0
    assert third.shape == (1, 1, 3)
    assert found.image.any()
    outside = dataclasses.replace(found[:1], xyxy=np.array([[-5, -5, 4, 400]], np.float32))
    assert outside.crop()[0].shape == (30, 4, 3)


@pytest.mark.parametrize("what", ["plot", "show", "crop"])
def test_without_an_image(what, tmp_path):
    with pytest.raises(UsageError, match="do not know their image"):
        getattr(make(), what)()
    with pytest.raises(UsageError, match="do not know their image"):
        make().save(tmp_path / "a.png")
    assert make()._repr_png_() is None


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.json"])
def test_an_image_file_of_another_kind(name, tmp_path):
    with pytest.raises(UsageError, match=r"written with a suffix such as \.jpg"):
        with_image()[0].save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_pandas():
    if importlib.util.find_spec("pandas") is None:
        with pytest.raises(UsageError, match="run: pip install pandas"):
            make().to_pandas()
        return
    frame = make().to_pandas()
    assert frame.to_dict("records")[0] == {
        "name": "dog", "score": pytest.approx(0.9), "class_id": 1,
        "left": 1, "top": 2, "right": 11, "bottom": 22,
    }  # fmt: skip
    tracked = dataclasses.replace(make(), track_ids=np.arange(7, 7 + len(make()))).to_pandas()
    assert tracked.columns.tolist() == [*frame.columns, "track_id"]
    assert tracked.track_id.tolist() == list(range(7, 7 + len(frame)))


def test_draw_marks_a_copy():
    image = np.full((60, 80, 3), 50, np.uint8)
    drawn = make(1).draw(image)
    assert drawn.shape == image.shape
    assert (drawn != image).any()
    assert (image == 50).all()


SPEC = ModelSpec(
    model=ModelConfig(name="yolox-s", depth=0.33, num_classes=2),
    input=InputConfig(size=(416, 640), color="rgb", pixel_max=1, placement="center", pad_value=0),
    names=("a", 'b "quoted" ü'),
    category_ids=(1, 9),
)


@pytest.mark.parametrize("changes", [{}, {"category_ids": None, "dynamic_size": False, "batch": 4}])
def test_a_spec_survives_its_json(changes):
    spec = dataclasses.replace(SPEC, **changes)
    values = json.loads(json.dumps(spec.as_dict()))
    assert ModelSpec.from_dict(values, where="x") == spec


def test_the_json_form_of_a_spec_is_a_promise():
    values = SPEC.as_dict()
    assert list(values) == ["model", "input", "names", "category_ids", "dynamic_size", "batch"]
    assert values["input"] == {
        "size": [416, 640],
        "color": "rgb",
        "pixel_max": 1,
        "placement": "center",
        "pad_value": 0,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["a"]}, "x: its description is incomplete: expected 2 class names, got 1"),
        ({"input": {"size": 100}}, "x: its description is incomplete"),
        ({"names": None}, "x: its description is incomplete"),
    ],
)
def test_a_damaged_description(changes, message):
    with pytest.raises(CheckpointError, match=message):
        ModelSpec.from_dict({**SPEC.as_dict(), **changes}, where="x")
