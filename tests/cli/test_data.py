import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from oculox.addresses import Address
from oculox.api import check_data
from oculox.cli.console import file_size
from oculox.cli.data import app
from oculox.config.schema import DataConfig, InputConfig
from oculox.data.cache import build_images
from oculox.data.coco import load_split
from oculox.datasets.splits import load_splits
from oculox.errors import DataError, OculoxError, UsageError


def run(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "demo"
    result = run("demo", folder, "--train", 8, "--val", 3, "--width", 160, "--height", 120)
    assert result.exit_code == 0, result.output
    assert "8 training and 3 validation images" in result.output
    return folder


def test_demo_refuses_then_replaces(tmp_path: Path) -> None:
    size = ("--train", 2, "--val", 1, "--width", 64, "--height", 48)
    assert run("demo", tmp_path / "d", *size).exit_code == 0
    again = run("demo", tmp_path / "d", *size)
    assert isinstance(again.exception, UsageError)
    assert "`overwrite`" in str(again.exception)
    result = run("demo", tmp_path / "d", *size, "--overwrite", "--json", "--seed", 3)
    tree = json.loads(result.stdout)
    assert tree["images"] == {"train": 2, "val": 1}
    assert tree["classes"] == ["ball", "car", "cup", "fish", "house", "leaf"]


def test_check_of_a_faultless_dataset(demo: Path) -> None:
    result = run("check", demo)
    assert result.exit_code == 0, result.output
    assert "\nusable: " in result.output
    tree = json.loads(run("check", demo, "--json").stdout)
    assert tree["ok"] is True
    assert list(tree["splits"]) == ["train", "val"]
    assert tree["splits"]["train"]["stats"]["images"] == 8
    one = run("check", demo, "--split", "val", "--no-deep", "--json")
    assert list(json.loads(one.stdout)["splits"]) == ["val"]


def test_check_at_an_address_prints_texts(demo: Path) -> None:
    report = check_data(demo, split="val")
    place = Address("s3://bucket/val2017")
    checked = dataclasses.replace(report.splits["val"].checked, image_dir=place)
    split = dataclasses.replace(report.splits["val"], checked=checked)
    values = dataclasses.replace(report, splits={"val": split}).as_dict()
    assert values["splits"]["val"]["image_dir"] == "s3://bucket/val2017"


def test_check_names_faults_and_fix_repairs(demo: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    tree = json.loads((demo / "annotations/instances_train2017.json").read_text())
    tree["annotations"][0]["bbox"] = [900, 1, 5, 5]
    tree["images"][7]["file_name"] = "nowhere.jpg"
    path.write_text(json.dumps(tree))
    options = ("check", path, "--images", demo / "train2017")
    result = run(*options)
    assert result.exit_code == 1
    assert "box-outside (1)" in result.output
    assert "nowhere.jpg (image 8): no such image" in result.output
    assert "faulty: 2 errors; --fix OUT writes a copy without" in result.output
    fixed = run(*options, "--fix", tmp_path / "clean")
    assert fixed.exit_code == 0, fixed.output
    assert "7 images" in fixed.output
    assert "--fix" not in fixed.output
    assert "images dropped: 1" in fixed.output
    assert run("check", tmp_path / "clean").exit_code == 0
    piped = run(*options, "--json", "--fix", tmp_path / "other")
    assert json.loads(piped.stdout)["counts"]["box-outside"] == 1
    assert (tmp_path / "other/annotations").is_dir()


def test_fix_says_that_faulty_lines_of_labels_are_not_in_the_copy(tmp_path: Path) -> None:
    for split, lines in (("train", "0 0.5 0.5 0.2 0.5\n0 x"), ("val", "0 0.5 0.5 0.2 0.5")):
        for folder in ("images", "labels"):
            (tmp_path / "y" / folder / split).mkdir(parents=True)
        Image.new("RGB", (64, 48)).save(tmp_path / f"y/images/{split}/{split}.png")
        (tmp_path / f"y/labels/{split}/{split}.txt").write_text(lines)
    (tmp_path / "y/classes.txt").write_text("cat\n")
    result = run("check", tmp_path / "y", "--fix", tmp_path / "clean")
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "train: 1 image, 1 object; without what is faulty" in said
    assert "val: 1 image, 1 object; nothing to change" in said


def test_show_limits_the_listing(demo: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    tree = json.loads((demo / "annotations/instances_train2017.json").read_text())
    for annotation in tree["annotations"]:
        annotation["bbox"] = [900, 1, 5, 5]
    path.write_text(json.dumps(tree))
    count = len(tree["annotations"])
    result = run("check", path, "--images", demo / "train2017", "--no-deep", "--show", 2)
    assert result.output.count("lies outside") == 2
    assert f"and {count - 2} more" in result.output


def test_convert_both_ways(demo: Path, tmp_path: Path) -> None:
    to_yolo = run("convert", "--from", "coco", "--to", "yolo", demo, tmp_path / "y")
    assert to_yolo.exit_code == 0, to_yolo.output
    assert "classes in order: ball, car, cup, fish, house, leaf" in to_yolo.output
    back = run(
        *("convert", "--from", "yolo", "--to", "coco", tmp_path / "y", tmp_path / "c", "--json"),
        *("--splits", "train,val:test", "--mode", "symlink"),
    )
    assert json.loads(back.stdout)["images"] == {"train": 8, "test": 3}
    few = run(
        *("convert", "--from", "coco", demo, tmp_path / "few", "--classes", "leaf, ball"),
        *("--show", 1),
    )
    assert few.exit_code == 0
    assert "classes in order: leaf, ball" in few.output
    assert "class-unknown" in few.output


def test_split(demo: Path, tmp_path: Path) -> None:
    both = run("split", demo, tmp_path / "a", "--val", 0.2, "--test", 0.1, "--mode", "symlink")
    assert both.exit_code == 0, both.output
    assert f"{tmp_path / 'a'}: train 8 images, " in both.output
    assert f"train on it with data.root={tmp_path / 'a'}" in both.output
    path = demo / "annotations/instances_train2017.json"
    one = run("split", path, tmp_path / "b", "--images", demo / "train2017", "--json")
    assert json.loads(one.stdout)["images"] == {"train": 6, "val": 2}


def test_stats(demo: Path) -> None:
    result = run("stats", demo)
    assert result.exit_code == 0, result.output
    assert "small / medium / large" in result.output
    assert "is enough: nine of ten objects" in result.output
    tree = json.loads(run("stats", demo, "--json", "--imgsz", "240,320", "--split", "val").stdout)
    assert tree["val"]["images"] == 3
    assert tree["val"]["input_hw"] == [240, 320]


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (("check", "{demo}", "--fix", "{demo}"), UsageError, "already holds files"),
        (("check", "{demo}", "--fix", "x", "--no-deep"), UsageError, "--no-deep"),
        (("check", "{demo}", "--images", "{demo}"), UsageError, "JSON file"),
        (("pack", "{demo}", "s3://b/x"), UsageError, "s3:/b/x: expected a path on this machine"),
        (("view", "{demo}", "--output", "s3://b/x.html"), UsageError, "not a URL"),
        (("check", "{demo}", "--split", "test"), DataError, "no test split"),
        (("stats", "/nowhere"), DataError, "/nowhere: no such dataset"),
        (("demo", "x", "--train", "0"), UsageError, "at least 1"),
        (("convert", "--from", "voc", "{demo}", "{demo}/y"), DataError, "not a Pascal VOC"),
    ],
)
def test_refusals_are_for_people(
    demo: Path, args: tuple[str, ...], error: type[OculoxError], message: str
) -> None:
    result = run(*(a.replace("{demo}", str(demo)) for a in args))
    assert isinstance(result.exception, error), result.output
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


def test_yolo_is_checked_measured_and_searched_for_caches(demo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "y"
    assert run("convert", "--from", "coco", "--to", "yolo", demo, folder).exit_code == 0
    for root in (folder, folder / "data.yaml"):
        assert list(json.loads(run("check", root, "--json").stdout)["splits"]) == ["train", "val"]
        ours = json.loads(run("stats", root, "--json").stdout)
        theirs = json.loads(run("stats", demo, "--json").stdout)
        assert ours["train"]["per_class"] == theirs["train"]["per_class"]
        assert run("cache", root).output == "no image caches\n"
    (index,) = load_splits(DataConfig(root=folder), "train")
    build_images(index, cache="disk", input_config=InputConfig(size=(64, 96)))
    (row,) = json.loads(run("cache", folder, "--json").stdout)
    assert Path(row["path"]).parent == folder


@pytest.mark.parametrize(
    ("size", "shown"), [(0, "0.0 kB"), (16_672, "16.7 kB"), (1_250_001, "1.3 MB")]
)
def test_sizes_of_files(size: int, shown: str) -> None:
    assert file_size(size) == shown


def test_view(demo: Path, tmp_path: Path) -> None:
    page = tmp_path / "view.html"
    result = run("view", demo, "--output", page)
    assert result.exit_code == 0, result.output
    size = file_size(page.stat().st_size)
    assert f"{page}: 11 images, 0 findings, {size}" in result.output
    again = run("view", demo, "--output", page)
    assert isinstance(again.exception, UsageError)
    assert "pass `overwrite`" in str(again.exception)
    tree = json.loads(run("view", demo, "--output", page, "--overwrite", "--json").stdout)
    assert tree["images"] == 11
    assert tree["bytes"] == page.stat().st_size
    other = run("view", demo, "--output", tmp_path / "view.txt")
    assert "must end in .html" in str(other.exception)


@pytest.mark.parametrize("command", ["check", "stats"])
def test_names_are_printed_as_they_are(demo: Path, tmp_path: Path, command: str) -> None:
    shutil.copytree(demo, tmp_path / "d")
    for path in (tmp_path / "d/annotations").glob("*.json"):
        path.write_text(path.read_text("utf-8").replace('"ball"', '":car: [red]"'), "utf-8")
    assert ":car: [red]" in run(command, tmp_path / "d").output


@pytest.mark.parametrize("args", [("convert", "a", "b"), ("check",), ("stats", "a", "--no")])
def test_wrong_usage_exits_with_2(args: tuple[str, ...]) -> None:
    assert run(*args).exit_code == 2


def test_cache(demo: Path) -> None:
    assert run("cache", demo).output == "no image caches\n"
    index = load_split(DataConfig(root=demo), "train")
    build_images(index, cache="disk", input_config=InputConfig(size=(64, 96)))
    (row,) = json.loads(run("cache", demo, "--json").stdout)
    assert (row["input_size"], row["removed"]) == ("64x96", False)
    assert Path(row["path"]).stat().st_size == row["bytes"]
    result = run("cache", demo, "--clear")
    assert result.output.endswith(" GB, deleted\n")
    assert not Path(row["path"]).exists()
