import pytest
from pydantic import ValidationError

from oculox.config import load_config, recipe_names
from oculox.errors import UsageError
from oculox.weights.catalogue import PublishedWeights, find_published, published_weights

ENTRIES = published_weights()


def test_every_network_has_official_weights_under_its_recipes_name() -> None:
    official = {e.name: e.recipe for e in ENTRIES if e.project == "megvii"}
    assert official == {name: name for name in recipe_names()}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
def test_entries_are_complete(entry: PublishedWeights) -> None:
    assert entry.url.startswith("https://")
    assert entry.filename.endswith((".pth", ".ckpt"))
    assert entry.license == ("GPL-3.0-only" if entry.project == "mmyolo" else "Apache-2.0")
    assert entry.recipe in recipe_names()
    assert 20 < entry.ap < 60
    assert entry.input.size == load_config(entry.recipe).input.size
    if entry.project != "megvii":
        assert entry.sha256 is not None
        assert entry.sha256[:8] in entry.filename  # that is where they are published


def test_names_and_files_are_unique() -> None:
    assert len({e.name for e in ENTRIES}) == len(ENTRIES)
    assert len({e.filename for e in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize(
    ("name", "color", "pixel_max", "placement"),
    [
        ("yolox-s", "bgr", 255, "top_left"),
        ("mindyolo-yolox-s", "rgb", 1, "center"),
        ("mmdetection-yolox-s", "bgr", 255, "top_left"),
        ("mmyolo-yolox-s", "bgr", 255, "top_left"),
    ],
)
def test_preprocessing(name: str, color: str, pixel_max: int, placement: str) -> None:
    found = find_published(name).input
    assert (found.color, found.pixel_max, found.placement) == (color, pixel_max, placement)


def test_the_nearest_name_is_offered() -> None:
    with pytest.raises(UsageError, match="did you mean 'yolox-s'"):
        find_published("yoloxs")
    with pytest.raises(UsageError, match="no published weights are called ''"):
        find_published("")


@pytest.mark.parametrize("sha256", ["", "xyz", "0123", "0" * 63, "0" * 65])
def test_checksums_are_whole_or_eight_digits(sha256: str) -> None:
    with pytest.raises(ValidationError):
        PublishedWeights.model_validate({**ENTRIES[0].model_dump(), "sha256": sha256})
