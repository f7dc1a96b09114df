"""The folder of a run."""

import pytest
from oculox.training.output import CONFIG, claim_output, settled_config, trim_checkpoints

from oculox.config import config_to_yaml, known_keys, load_config
from oculox.errors import ConfigError, TrainingError
from oculox.training import output


def test_a_new_folder_is_made(tmp_path):
    claim_output(tmp_path / "a/b", resume=False)
    claim_output(tmp_path / "a/b", resume=False)
    assert (tmp_path / "a/b").is_dir()


def test_a_folder_with_other_things_may_be_used(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    claim_output(tmp_path, resume=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["config.yaml", "last.pt"])
def test_another_run_is_never_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(TrainingError, match="holds another run; choose another --output"):
        claim_output(tmp_path, resume=False)


def test_what_cannot_be_made_or_resumed(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(TrainingError, match="cannot be created"):
            claim_output(folder, resume=False)
    with pytest.raises(TrainingError, match=r"no last\.pt to resume from"):
        claim_output(tmp_path, resume=True)
    assert not (tmp_path / "new").exists()
    with pytest.raises(TrainingError, match=r"no config\.yaml, so there is no run to resume"):
        settled_config(tmp_path / "new", load_config("yolox-s"))
    assert not (tmp_path / "new").exists()


def begun(folder, *overrides):
    (folder / CONFIG).write_text(config_to_yaml(load_config("yolox-s", overrides)), "utf-8")


def test_the_lists_of_keys_hold_keys():
    assert set(known_keys()) >= output._FREE_KEYS | output._FROM_WEIGHTS


@pytest.mark.parametrize(
    "override",
    [
        "data.root=elsewhere",
        "data.workers=3",
        "train.device=cpu",
        "train.max_steps=5",
        "eval.batch=2",
    ],
)
def test_how_and_where_a_run_goes_on_is_free(tmp_path, override):
    begun(tmp_path)
    assert settled_config(tmp_path, load_config("yolox-s", [override])) == load_config(
        "yolox-s", [override]
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimizer.lr=0.5", r"optimizer\.lr \(0\.01 then, 0\.5 now\)"),
        ("train.batch=8", r"train\.batch \(64 then, 8 now\)"),
        ("train.seed=1", r"train\.seed"),
        ("input.size=320", r"input\.size"),
        ("augment.multiscale=null", r"augment\.multiscale \(\[.*\] then, None now\)"),
        ("model.num_classes=3", r"model\.num_classes"),
    ],
)
def test_what_defines_a_run_is_not(tmp_path, override, said):
    begun(tmp_path)
    with pytest.raises(ConfigError, match=said):
        settled_config(tmp_path, load_config("yolox-s", [override]))


def test_preprocessing_taken_from_weights_stays(tmp_path):
    begun(tmp_path, "input.color=rgb", "input.pixel_max=1")
    config = settled_config(tmp_path, load_config("yolox-s"))
    assert (config.input.color, config.input.pixel_max) == ("rgb", 1)


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
