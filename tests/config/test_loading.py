"""YAML in and out, `extends`, overrides and hints."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from oculox.config import (
    Config,
    config_from_dict,
    config_to_dict,
    config_to_yaml,
    known_keys,
    load_config,
    recipe_names,
)
from oculox.errors import ConfigError, RenamedKeyWarning

fractions = st.floats(0, 1)
sizes = st.integers(1, 30).map(lambda n: 32 * n)
# Names with everything that YAML or a shell could stumble over.
texts = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"), exclude_characters="\x00"),
    max_size=20,
)
awkward = st.sampled_from(
    ("null", "yes", "1e-3", "~", "- a", "a: b", "#x", "'", '"', "täst", " a", "0x1f", "[1]", "日本")
)
paths = (texts | awkward).filter(bool).map(Path)

CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "model.name": texts | awkward,
        "model.num_classes": st.none() | st.integers(1, 1000),
        "input.size": st.tuples(sizes, sizes),
        "input.pixel_max": st.sampled_from((1, 255)),
        "data.root": st.none() | paths,
        "data.val.images": st.none() | paths,
        "data.workers": st.just("auto") | st.integers(0, 64),
        "augment.mosaic_prob": fractions,
        "augment.mosaic_scale": st.tuples(st.floats(1e-9, 1), st.floats(1, 1e9)),
        "augment.hsv_gain": st.tuples(*[st.integers(0, 255)] * 3),
        "augment.multiscale": st.none() | st.tuples(st.floats(1e-3, 1), st.floats(1, 1e3)),
        "optimizer.lr": st.floats(1e-30, 1e30),
        "optimizer.weight_decay": st.floats(0, 1e-3),
        "ema.enabled": st.booleans(),
        "train.epochs": st.none() | st.integers(1, 10**6),
        "train.freeze": st.lists(
            st.sampled_from(("backbone", "neck", "head")), max_size=2, unique=True
        ).map(tuple),
        "train.seed": st.integers(0, 2**63),
    },
)


def changed(config, changes):
    tree = config_to_dict(config)
    for key, value in changes.items():
        *sections, leaf = key.split(".")
        node = tree
        for section in sections:
            node = node[section]
        node[leaf] = value
    return config_from_dict(tree, where="test")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(recipe=st.sampled_from(recipe_names()), changes=CHANGES)
@example(recipe="yolox-nano", changes={"data.root": Path("ends in a no-break space\xa0")})
def test_what_is_written_reads_back_as_it_was(tmp_path, recipe, changes):
    config = changed(load_config(recipe), changes)
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(config), "utf-8")
    assert load_config(path) == config
    assert config_from_dict(config_to_dict(config), where="test") == config


@settings(max_examples=60, deadline=None)
@given(value=st.floats(1e-30, 1e30))
def test_every_spelling_of_a_number_is_that_number(value):
    for text in (repr(value), f"{value:e}", f"{value:.17g}", f"+{value!r}"):
        assert load_config("yolox-s", [f"optimizer.lr={text}"]).optimizer.lr == float(text)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.lr=1e-3", 1e-3),
        ("optimizer.lr=1E3", 1e3),
        ("optimizer.lr=.5", 0.5),
        ("optimizer.lr=1", 1.0),
        ("train.epochs=null", None),
        ("train.epochs=~", None),
        ("train.epochs=", None),
        ("train.epochs=7", 7),
        ("input.size=320", (320, 320)),
        ("input.size=[320, 640]", (320, 640)),
        ("augment.multiscale=null", None),
        ("augment.multiscale=[0.5,2]", (0.5, 2.0)),
        ("augment.mosaic_scale=[1e-1, 2]", (0.1, 2.0)),
        ("train.freeze=[backbone, neck]", ("backbone", "neck")),
        ("train.freeze=[]", ()),
        ("ema.enabled=false", False),
        ("ema.enabled=no", False),
        ("data.root=a folder/with = and spaces", Path("a folder/with = and spaces")),
        ("data.root=2017", Path("2017")),
        ("data.root=a #1", Path("a #1")),
        ("data.root=a: [b", Path("a: [b")),
        ("data.root='quoted'", Path("quoted")),
        ("data.root=null", None),
        ("data.root=", None),
        ("data.workers=auto", "auto"),
        ("data.workers=3", 3),
        ("data.val.images=x", Path("x")),
        ("model.name=yes", "yes"),
        ("model.name=1e-3", "1e-3"),
    ],
)
def test_overrides(override, expected):
    value = load_config("yolox-s", [override])
    for part in override.split("=")[0].split("."):
        value = getattr(value, part)
    assert value == expected
    assert type(value) is type(expected)
    assert load_config("yolox-s", override) == load_config("yolox-s", [override])


def test_numbers_in_files_may_be_spelt_like_overrides(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("optimizer: {lr: 1e-3}\naugment: {mosaic_scale: [1e-1, 2e0]}\n")
    config = load_config(path)
    assert config.optimizer.lr == 1e-3
    assert config.augment.mosaic_scale == (0.1, 2.0)


def test_the_last_override_wins_and_nothing_else_changes():
    config = load_config("yolox-s", ["train.batch=8", "train.batch=16"])
    assert config == load_config("yolox-s").model_copy(
        update={"train": config.train.model_copy(update={"batch": 16})}
    )


def test_a_changed_configuration_is_what_loading_it_so_gives():
    words = ["train.batch=16", "optimizer.lr=1e-3", "input.size=416", "data.root=2017"]
    config = load_config("yolox-s", ["data.val.images=a #1"])
    changed = config.with_overrides(*words)
    assert changed == load_config("yolox-s", ["data.val.images=a #1", *words])
    assert config == load_config("yolox-s", ["data.val.images=a #1"])
    assert config.with_overrides() == config


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.batch=0", "configuration: train.batch: .*greater than or equal to 1"),
        ("train.batch=atuo", r"configuration: train.batch: .*; or Input should be 'auto' .*'atuo'"),
        ("data.workers=-1", r"configuration: data.workers: .*; or Input should be 'auto' \(got -1"),
        ("train.bach=8", "unknown key 'train.bach'; did you mean 'train.batch'"),
        ("train=8", "configuration: train: "),
        ("train.batch", "looks like section.key=value"),
        ("augment.mosaic_scale=[2, 1]", "must be 0 < low <= high"),
    ],
)
def test_a_changed_configuration_is_validated(override, said):
    with pytest.raises(ConfigError, match=said):
        load_config("yolox-s").with_overrides(override)


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}\n", "extends: base\n", "train:\n"])
def test_an_empty_file_is_the_official_recipe(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert load_config(path) == Config()


def test_a_chain_of_files(tmp_path):
    (tmp_path / "team").mkdir()
    (tmp_path / "team/common.yaml").write_text(
        "extends: yolox-s\ntrain: {batch: 8, seed: 3}\naugment: {multiscale: null}\n"
    )
    (tmp_path / "team/mine.yaml").write_text("extends: common.yaml\ntrain: {batch: 4}\n")
    (tmp_path / "top.yaml").write_text("extends: team/mine.yaml\ntrain: {seed: 5}\n")
    config = load_config(tmp_path / "top.yaml", ["train.seed=6"])
    assert (config.train.batch, config.train.seed) == (4, 6)
    assert config.augment.multiscale is None
    assert config.model == load_config("yolox-s").model


def test_a_file_may_extend_a_recipe_with_other_training_settings(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: yolox-tiny-adamw\ntrain: {batch: 8}\n")
    config = load_config(tmp_path / "mine.yaml", ["optimizer.lr=0.002"])
    assert config == load_config("yolox-tiny-adamw", ["train.batch=8", "optimizer.lr=0.002"])


def test_a_file_with_the_ending_of_a_recipe_is_a_file(tmp_path):
    (tmp_path / "mine-adamw").write_text("train: {batch: 8}\n")
    assert load_config(tmp_path / "mine-adamw") == load_config("base", ["train.batch=8"])


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("yolox-nona", "did you mean 'yolox-nano'?"),
        ("yolox-s-adam", "did you mean 'yolox-s-adamw'?"),
        ("yolox_m_adamw", "did you mean 'yolox-m-adamw'?"),
    ],
)
def test_the_nearest_recipe_is_offered(source, hint):
    with pytest.raises(ConfigError, match="neither a recipe nor a YAML file") as caught:
        load_config(source)
    assert hint in str(caught.value)


def test_a_file_beside_this_one_is_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/one.yaml").write_text("train: {batch: 4}\n")
    (tmp_path / "a/two.yaml").write_text("extends: one.yaml\n")
    monkeypatch.chdir(tmp_path)
    assert load_config("a/two.yaml").train.batch == 4
    assert load_config(Path("a/two.yaml")) == load_config(tmp_path / "a/two.yaml")


@pytest.mark.parametrize("links", [("a",), ("b", "a"), ("b", "c", "b")])
def test_circles_are_found(tmp_path, links):
    for name, following in zip("abc", links, strict=False):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {following}.yaml\n")
    with pytest.raises(ConfigError, match="'extends' forms a cycle"):
        load_config(tmp_path / "a.yaml")


def test_a_circle_by_another_spelling(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.yaml").write_text("extends: sub/../a.yaml\n")
    with pytest.raises(ConfigError, match="'extends' forms a cycle"):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("train.batchsize", "did you mean 'train.batch'?"),
        ("train.lr", "did you mean 'optimizer.lr'?"),
        ("lr", "did you mean 'optimizer.lr'?"),
        ("batch", "did you mean 'train.batch'?"),
        ("optim.lr", "did you mean 'optimizer'?"),
        ("augment.mosaic", "did you mean 'augment.mosaic_"),
        ("augmentation", "did you mean 'augment'?"),
        ("data.train.image", "did you mean 'data.train.images'?"),
        ("model.num_class", "did you mean 'model.num_classes'?"),
        ("zzz.qqq", "see `oculox config yolox-s`"),
    ],
)
def test_hints(key, hint):
    with pytest.raises(ConfigError, match="unknown key") as caught:
        load_config("yolox-s", [f"{key}=3"])
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_known_key_is_known():
    keys = list(known_keys())
    assert len(keys) == len(set(keys)) > 60
    assert {"data.train.images", "train.batch", "input.size"} <= set(keys)
    config = Config()
    for key in keys:
        value = config
        for part in key.split("."):
            value = getattr(value, part)


def test_every_key_is_documented():
    def check(model):
        for name, field in model.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                check(field.annotation)
            else:
                assert field.description, (model, name)

    check(Config)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("input.size=33", "input: size must be positive multiples of 32, got [33, 33]"),
        ("input.size=[64]", "input.size"),
        ("input.size=-32", "multiples of 32"),
        ("input.size=big", "input.size"),
        ("augment.mosaic_scale=[2, 1]", "mosaic_scale must be 0 < low <= high"),
        ("augment.mosaic_scale=0.5", "augment.mosaic_scale"),
        ("augment.multiscale=[2, 1]", "multiscale must be 0 < low <= high"),
        ("augment.flip_prob=1.5", "augment.flip_prob"),
        ("optimizer.lr=0", "optimizer.lr"),
        ("optimizer.lr=.nan", "optimizer.lr"),
        ("optimizer.lr=.inf", "optimizer.lr"),
        ("optimizer.lr=nan", "optimizer.lr"),
        ("optimizer.lr=true", "optimizer.lr"),
        ("train.batch=2.5", "train.batch"),
        ("train.batch=true", "train.batch"),
        ("train.batch=null", "train.batch"),
        ("train.batch=[1]", "train.batch"),
        ("train.batch={a: 1}", "train.batch"),
        ("train.accumulate=3", "accumulate=3 does not divide batch=64"),
        ("train.freeze=[backbone, neck, head]", "freeze holds all parts"),
        ("train.freeze=backbone", "train.freeze"),
        ("train.freeze=[tail]", "train.freeze"),
        ("model.backbone=resnet", "model.backbone"),
        ("data.workers=many", "data.workers"),
        ("model=yolox-s", "model"),
        ("data.train=x", "data.train"),
    ],
)
def test_invalid_values_name_their_key_in_one_line(override, said):
    with pytest.raises(ConfigError) as caught:
        load_config("yolox-s", [override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["a" * 5000, "a\0b", ""])
def test_names_that_no_file_can_have(source):
    with pytest.raises(ConfigError):
        load_config(source)


@pytest.mark.parametrize("text", ["3: 4\n", "null: {a: 1}\n", "train: {3: 4}\n", "[1]: 2\n"])
def test_keys_that_are_no_names(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_config(path)


@pytest.mark.parametrize("parent", ["3", "[a, b]", "yolox-nona", "none.yaml", "''"])
def test_extends_must_name_something(tmp_path, parent):
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: {parent}\n")
    with pytest.raises(ConfigError):
        load_config(path)


def test_configurations_are_frozen():
    config = load_config("yolox-s")
    for target, name in ((config, "train"), (config.train, "batch"), (config.data.val, "images")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(target, name, None)
    assert hash(config) == hash(load_config("yolox-s"))


def test_loading_does_not_change_its_arguments():
    tree = {"train": {"batch": 8}}
    config_from_dict(tree, where="test")
    assert tree == {"train": {"batch": 8}}
    overrides = ["train.batch=8"]
    load_config("yolox-s", overrides)
    assert overrides == ["train.batch=8"]
    assert load_config("yolox-s").train.batch == 64


OLD_NAMES = {"eval.nms": 0.5, "eval.max_detections": 77, "train.no_aug_epochs": 3}


def old_tree():
    tree = {}
    for key, value in OLD_NAMES.items():
        section, leaf = key.split(".")
        tree.setdefault(section, {})[leaf] = value
    return tree


def test_saved_configurations_with_old_names_are_read(tmp_path):
    with pytest.warns(RenamedKeyWarning) as told:
        config = config_from_dict(old_tree(), where="last.pt")
    assert (config.eval.iou, config.eval.max_det, config.train.tail_epochs) == (0.5, 77, 3)
    assert "last.pt: 'eval.nms' is called 'eval.iou' now" in [str(w.message) for w in told]
    path = tmp_path / "old.yaml"
    path.write_text("extends: yolox-s\neval: {nms: 0.5}\n")
    with pytest.warns(RenamedKeyWarning, match="old.yaml: 'eval.nms' is called 'eval.iou' now"):
        assert load_config(path, ["eval.conf=0.2"]).eval.iou == 0.5
    with pytest.warns(RenamedKeyWarning):
        assert load_config(path, ["eval.iou=0.4"]).eval.iou == 0.4


@pytest.mark.parametrize(("before", "after"), [(True, ("tensorboard",)), (False, ())])
def test_the_old_tensorboard_switch_is_read(before, after):
    with pytest.warns(RenamedKeyWarning, match=r"'train.tensorboard' is called 'train.trackers'"):
        config = config_from_dict({"train": {"tensorboard": before}}, where="last.pt")
    assert config.train.trackers == after


def test_a_key_by_both_names_is_refused():
    with pytest.raises(ConfigError, match=r"unknown key 'eval.nms'"):
        config_from_dict({"eval": {"nms": 0.5, "iou": 0.6}}, where="x")


@pytest.mark.parametrize("key", OLD_NAMES)
def test_an_override_with_an_old_name_is_refused(key):
    with pytest.raises(ConfigError, match=f"'{key}' is called '(eval|train).* now"):
        load_config("yolox-s", [f"{key}=1"])


@pytest.mark.parametrize("settings", ["adamw", "finetune"])
def test_settings_are_chosen_by_recipe_or_by_name(settings, tmp_path):
    expected = load_config(f"yolox-tiny-{settings}", ["train.batch=8"])
    assert load_config("yolox-tiny", [f"recipe={settings}", "train.batch=8"]) == expected
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: yolox-tiny\ntrain: {batch: 8}\n")
    assert load_config(mine, [f"recipe={settings}"]) == expected
    assert load_config(f"yolox-tiny-{settings}", ["train.batch=8"], from_weights=True) == expected
    # A saved configuration says which it was, and stays what it is.
    mine.write_text(config_to_yaml(expected))
    assert load_config(mine, from_weights=True) == expected
    assert load_config(mine, [f"recipe={settings}"]) == expected


def test_weights_choose_finetuning_unless_told_otherwise(tmp_path):
    official, finetune = load_config("yolox-s"), load_config("yolox-s-finetune")
    assert (official.recipe, finetune.recipe) == ("official", "finetune")
    assert load_config("yolox-s", from_weights=True) == finetune
    assert load_config("yolox-s", ["recipe=official"], from_weights=True) == official
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: yolox-s\noptimizer: {lr: 0.123}\n")
    merged = load_config(mine, from_weights=True)
    assert (merged.optimizer.lr, merged.optimizer.name) == (0.123, finetune.optimizer.name)


@pytest.mark.parametrize(
    ("source", "override", "message"),
    [
        ("yolox-s", "recipe=best", "expected one of official, adamw, finetune"),
        ("yolox-s-adamw", "recipe=finetune", "'yolox-s-adamw' has settings of its own"),
        ("yolox-s-adamw", "recipe=official", "goes with a network's plain recipe"),
        ("full.yaml", "recipe=finetune", "goes with a network's plain recipe"),
    ],
)
def test_settings_that_cannot_be_chosen(source, override, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full.yaml").write_text("train: {batch: 8}\n")
    with pytest.raises(ConfigError, match=message):
        load_config(source, [override])
