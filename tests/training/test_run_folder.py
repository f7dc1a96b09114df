"""The folder of a run."""

import re
from pathlib import Path

import pytest

from oculox import train
from oculox.config import Config, config_to_yaml, known_keys, load_config
from oculox.errors import ConfigError, DataError, TrainingError, UsageError
from oculox.training.checkpoints import LAST, trim_checkpoints
from oculox.training.run_folder import (
    CONFIG,
    FREE_KEYS,
    check_free,
    default_folder,
    hold_folder,
    read_summary,
    resumed_config,
    settle_config,
)


def test_a_folder_with_other_things_may_be_used(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    check_free(tmp_path)
    check_free(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", [CONFIG, LAST])
def test_another_run_is_never_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match="holds another run; choose another `output`"):
        settle_config("yolox-s", output=tmp_path)


def test_a_run_that_another_process_trains_is_not_resumed_for_longer(quick, tmp_path):
    run = tmp_path / "run"
    train("yolox-nano", *quick, "train.max_steps=1", output=run)
    config = (run / CONFIG).read_bytes()
    with hold_folder(run), pytest.raises(UsageError, match="another process is training"):
        train("train.epochs=9", "train.max_steps=2", resume=run)
    assert (run / CONFIG).read_bytes() == config
    train("train.epochs=9", "train.max_steps=2", resume=run)
    assert (run / CONFIG).read_bytes() != config


def test_a_folder_in_which_a_run_begins_is_not_free(tmp_path):
    with hold_folder(tmp_path), pytest.raises(UsageError, match="holds another run"):
        check_free(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("log.txt", "holds log.txt, which a run would replace"),
        ("predictions.jpg", "holds predictions.jpg, which a run would replace"),
        ("data.yaml", "holds data.yaml, of a dataset; choose another `output`"),
    ],
)
def test_files_of_others_are_never_replaced(tmp_path, name, said):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=said):
        settle_config("yolox-s", output=tmp_path)


def test_data_that_is_not_there_is_told_before_weights_are_fetched(tmp_path):
    with pytest.raises(DataError, match=r"data\.root: .*nowhere is not a folder"):
        settle_config("yolox-s", [f"data.root={tmp_path / 'nowhere'}"], weights=Path("yolox-s"))


def test_default_folders_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config("yolox-s")
    assert str(default_folder(config)) == "runs/yolox-s"
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs/yolox-s").mkdir(parents=True)
    assert str(default_folder(config)) == "runs/yolox-s-2"


def begun(folder, *overrides):
    (folder / CONFIG).write_text(config_to_yaml(load_config("yolox-s", overrides)), "utf-8")
    (folder / LAST).write_text("")
    return folder


def test_the_list_of_free_keys_holds_keys():
    assert set(known_keys()) >= FREE_KEYS


def test_a_resumed_run_has_its_own_settings(tmp_path):
    words = ["data.root=a", "input.color=rgb", "train.batch=8"]
    assert resumed_config(begun(tmp_path, *words)) == load_config("yolox-s", words)


@pytest.mark.parametrize(
    "override",
    [
        "data.root=elsewhere",
        "data.workers=3",
        "data.val.images=elsewhere",
        "train.device=cpu",
        "train.max_steps=5",
        "train.trackers=[tensorboard]",
        "eval.batch=2",
        "optimizer.lr=0.01",
    ],
)
def test_how_and_where_a_run_goes_on_is_free(tmp_path, override):
    expected = load_config("yolox-s", [override])
    assert resumed_config(begun(tmp_path), [override]) == expected
    # On the command line the first word is the recipe.
    assert settle_config(override, resume=tmp_path) == expected


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimizer.lr=0.5", r"optimizer\.lr \(0\.01 then, 0\.5 now\)"),
        ("train.batch=8", r"train\.batch \(64 then, 8 now\)"),
        ("train.seed=1", r"train\.seed"),
        ("input.size=320", r"input\.size"),
        ("augment.multiscale=null", r"augment\.multiscale \(\(.*\) then, None now\)"),
        ("model.num_classes=3", r"model\.num_classes"),
    ],
)
def test_what_defines_a_run_is_not(tmp_path, override, said):
    with pytest.raises(ConfigError, match=said) as refused:
        resumed_config(begun(tmp_path), [override])
    free = str(refused.value).partition(" may change, such as ")[2].rstrip(")")
    assert set(re.split(", | and ", free)) <= FREE_KEYS


def test_nothing_to_resume(tmp_path):
    (begun(tmp_path) / CONFIG).unlink()
    with pytest.raises(TrainingError, match=f"no {CONFIG}, so there is no run to resume"):
        resumed_config(tmp_path)
    with pytest.raises(TrainingError, match=r"no readable summary"):
        read_summary(tmp_path)


def test_a_run_without_a_checkpoint_may_be_replaced_unless_it_is_running(tmp_path):
    (begun(tmp_path) / LAST).unlink()
    check_free(tmp_path)
    with hold_folder(tmp_path):
        with pytest.raises(UsageError, match="holds another run"):
            check_free(tmp_path)
        with (
            pytest.raises(UsageError, match="another process is training"),
            hold_folder(tmp_path),
        ):
            pytest.fail("two runs in one folder")
    check_free(tmp_path)
    # A person's own file.
    (tmp_path / CONFIG).write_text("extends: yolox-s\n")
    with pytest.raises(UsageError, match="holds another run"):
        check_free(tmp_path)


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        (None, {}, "name a recipe"),
        ("yolox-s", {"resume": True}, "own recipe"),
        (Config(), {"resume": True}, "own recipe"),
        (None, {"resume": True, "weights": "x.pt"}, "own recipe"),
        (None, {"resume": True, "output": "new"}, "own recipe"),
        (Config(), {"overrides": ["train.batch=0"]}, "configuration: train.batch: "),
    ],
)
def test_arguments_that_make_no_sense(tmp_path, recipe, options, said):
    if "resume" in options:
        options = {**options, "resume": begun(tmp_path)}
    with pytest.raises(UsageError, match=said):
        settle_config(recipe, **options)


def test_overrides_change_a_ready_configuration():
    config = settle_config(Config(), ["train.batch=3"])
    assert config == Config().with_overrides("train.batch=3")


@pytest.mark.parametrize(
    ("keep", "left"),
    [(0, []), (1, [10000]), (2, [9999, 10000]), (3, [8, 9999, 10000]), (9, [8, 9999, 10000])],
)
def test_only_the_newest_checkpoints_stay(tmp_path, keep, left):
    for epoch in (9999, 8, 10000):
        (tmp_path / f"epoch-{epoch:04}.pt").write_text("")
    (tmp_path / "last.pt").write_text("")
    trim_checkpoints(tmp_path, keep=keep)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"last.pt", *(f"epoch-{epoch:04}.pt" for epoch in left)}
