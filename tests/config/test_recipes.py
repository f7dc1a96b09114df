"""The built-in recipes: complete, and the official values."""

import pytest

from oculox.config import Config, config_to_dict, known_recipes, load_config, recipe_names
from oculox.errors import ConfigError
from oculox.models import build_model
from oculox.training.schedule import build_learning_rate, plan_epochs

# depth, width, input, mosaic scale, mixup, multiscale: the official experiment files.
OFFICIAL = {
    "yolox-nano": (0.33, 0.25, 416, (0.5, 1.5), 0.0, (0.77, 1.54)),
    "yolox-tiny": (0.33, 0.375, 416, (0.5, 1.5), 0.0, (0.77, 1.54)),
    "yolox-s": (0.33, 0.50, 640, (0.1, 2.0), 1.0, (0.75, 1.25)),
    "yolox-m": (0.67, 0.75, 640, (0.1, 2.0), 1.0, (0.75, 1.25)),
    "yolox-l": (1.0, 1.0, 640, (0.1, 2.0), 1.0, (0.75, 1.25)),
    "yolox-x": (1.33, 1.25, 640, (0.1, 2.0), 1.0, (0.75, 1.25)),
    "yolox-darknet53": (1.0, 1.0, 640, (0.1, 2.0), 1.0, (0.75, 1.25)),
}


def test_base_says_what_the_defaults_are():
    assert load_config("base") == Config()


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_holds_the_official_values(name):
    config = load_config(name)
    assert config.model.name == name
    assert OFFICIAL[name] == (
        config.model.depth,
        config.model.width,
        config.input.size[0],
        config.augment.mosaic_scale,
        config.augment.mixup_prob,
        config.augment.multiscale,
    )
    assert config.input.size[0] == config.input.size[1]
    assert config.augment.mosaic_prob == (0.5 if name == "yolox-nano" else 1.0)
    assert config.model.depthwise is (name == "yolox-nano")
    assert config.model.backbone == ("darknet53" if "darknet" in name else "csp_darknet")
    assert config.model.activation == ("leaky_relu" if "darknet" in name else "silu")


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_differ_from_base_in_nothing_else(name):
    recipe, base = load_config(name), load_config("base")
    for section in ("data", "loss", "optimizer", "schedule", "ema", "train", "eval"):
        assert getattr(recipe, section) == getattr(base, section)


@pytest.mark.parametrize("name", recipe_names())
def test_adamw_goes_with_every_network(name):
    config, plain = load_config(f"{name}-adamw"), load_config(name)
    rate = build_learning_rate(
        config, plan_epochs(config.train, warmup_epochs=5), steps_per_epoch=10
    )
    # MMYOLO's `yolox_*_fast_8xb32-300e-rtmdet-hyp_coco`
    assert (config.optimizer.name, config.optimizer.weight_decay) == ("adamw", 0.05)
    assert (config.train.batch, rate.peak, rate.floor) == (256, 0.004, pytest.approx(0.0002))
    assert (rate.warmup_steps, rate.flat_steps, rate.total_steps) == (50, 200, 3000)
    assert (config.augment.multiscale_interval, config.augment.mixup_scale) == (1, (0.8, 1.6))
    assert (config.ema.decay, config.ema.ramp) == (1 - 0.0002, 2000)
    kept = ("model", "input", "data", "loss", "schedule", "ema", "eval")
    assert [getattr(config, section) for section in kept] == [getattr(plain, s) for s in kept]
    assert config.augment.mosaic_scale == plain.augment.mosaic_scale


def test_every_known_recipe_is_there_and_differs_from_the_others():
    names = known_recipes()
    assert names[:7] == recipe_names()
    assert {"yolox-s-adamw", "yolox-darknet53-adamw"} < set(names)
    assert len({str(config_to_dict(load_config(name))) for name in names}) == len(names)


@pytest.mark.parametrize("source", ["base-adamw", "yolox-s-adamw-adamw", "-adamw", "yolox-adamw"])
def test_other_names_with_adamw_are_no_recipes(source):
    with pytest.raises(ConfigError, match="each also with -adamw or -finetune"):
        load_config(source)


def test_a_recipe_builds_its_network():
    config = load_config("yolox-nano")
    assert build_model(config.model, num_classes=3).num_classes == 3


def test_the_official_schedule():
    config = Config()
    assert (config.train.batch, config.train.aug_epochs, config.train.tail_epochs) == (
        64,
        285,
        15,
    )
    assert (config.optimizer.lr, config.optimizer.momentum) == (0.01, 0.9)
    assert config.optimizer.weight_decay == 5e-4
    assert (config.schedule.warmup_epochs, config.schedule.min_lr_ratio) == (5, 0.05)
    assert (config.ema.decay, config.ema.ramp) == (0.9998, 2000)
    assert (config.eval.conf, config.eval.iou) == (0.01, 0.65)
