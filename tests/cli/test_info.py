"""`oculox config` and `oculox models`."""

import pytest

from oculox.config import config_to_dict, load_config, recipe_names

PUBLISHED = {
    # Million parameters, GFLOPs and AP of the official README's tables; those count a few
    # operations besides the convolutions.
    "yolox-nano": (0.91, 1.08, 25.8),
    "yolox-tiny": (5.06, 6.45, 32.8),
    "yolox-s": (9.0, 26.8, 40.5),
    "yolox-m": (25.3, 73.8, 46.9),
    "yolox-l": (54.2, 155.6, 49.7),
    "yolox-x": (99.1, 281.9, 51.1),
    "yolox-darknet53": (63.7, 185.3, 47.7),
}


def test_models(oculox):
    rows = oculox("models", "--json").json
    assert [row["name"] for row in rows] == list(recipe_names()) == list(PUBLISHED)
    for row in rows:
        parameters, gflops, ap = PUBLISHED[row["name"]]
        assert row["parameters"] / 1e6 == pytest.approx(parameters, abs=0.06)
        assert row["gflops"] == pytest.approx(gflops, rel=0.04)
        assert row["published_ap"] == ap
        assert row["source"].startswith("https://")
        side = 416 if row["name"] in ("yolox-nano", "yolox-tiny") else 640
        assert row["input"] == [side, side]


def test_models_for_people(oculox):
    outcome = oculox("models")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert len(lines) == 9
    assert lines[3].split() == ["yolox-s", "8,968,255", "26.69", "640", "40.5"]


@pytest.mark.parametrize("recipe", recipe_names())
def test_config_is_a_recipe(oculox, tmp_path, recipe):
    overrides = ("train.batch=12", "data.root=täst data", "augment.multiscale=null")
    outcome = oculox("config", recipe, *overrides)
    assert outcome.code == 0
    path = tmp_path / "mine.yaml"
    path.write_text(outcome.out, "utf-8")
    assert load_config(path) == load_config(recipe, overrides)


def test_config_as_json(oculox):
    tree = oculox("config", "yolox-s", "train.batch=12", "--json").json
    assert tree == config_to_dict(load_config("yolox-s", ["train.batch=12"]))


def test_old_names_in_a_saved_configuration_are_told_once(oculox, tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text("eval: {nms: 0.5}\n")
    for _ in range(2):
        outcome = oculox("config", path, "--json")
        assert outcome.json["eval"]["iou"] == 0.5
        assert outcome.err == f"warning: {path}: 'eval.nms' is called 'eval.iou' now\n"
    refused = oculox("config", "yolox-s", "eval.nms=0.5")
    assert refused.code == 2
    assert refused.error == "'eval.nms=0.5': 'eval.nms' is called 'eval.iou' now"
