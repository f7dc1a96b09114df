"""Phases, short runs and input sizes."""

import pytest

from oculox.config import load_config
from oculox.training.schedule import (
    LearningRate,
    build_learning_rate,
    input_size_at,
    l1_is_on,
    plan_epochs,
)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], (285, 15, 5)),
        (["train.epochs=300"], (285, 15, 5)),
        (["train.epochs=20"], (16, 4, 2)),
        (["train.epochs=3"], (2, 1, 1)),
        (["train.epochs=2"], (1, 1, 0.5)),
        (["train.epochs=1"], (1, 0, 0.5)),
        (["train.epochs=1", "train.aug_epochs=0"], (0, 1, 0)),
        (["train.aug_epochs=0", "train.tail_epochs=15"], (0, 15, 0)),
        (["train.aug_epochs=10", "train.tail_epochs=0"], (10, 0, 1)),
        (["train.aug_epochs=16", "train.tail_epochs=4", "schedule.warmup_epochs=1"], (16, 4, 1)),
        (["train.epochs=8", "train.aug_epochs=0"], (0, 8, 0)),
    ],
)
def test_plan(overrides, expected):
    config = load_config("yolox-s", overrides)
    plan = plan_epochs(config.train, warmup_epochs=config.schedule.warmup_epochs)
    assert (plan.aug, plan.tail, plan.warmup) == expected


def test_a_shortened_plan_says_so():
    config = load_config("yolox-s", ["train.epochs=20"])
    notes = plan_epochs(config.train, warmup_epochs=5).notes
    assert len(notes) == 2
    assert "tail" in notes[0]
    assert notes[1] == "short run: warm-up takes 2 of 20 epochs instead of 5"
    one = load_config("yolox-s", ["train.epochs=1"])
    assert "takes 0.5 of 1 epoch instead" in plan_epochs(one.train, warmup_epochs=5).notes[-1]


def test_the_tail_is_exactly_as_long_as_configured():
    plan = plan_epochs(load_config("yolox-s").train, warmup_epochs=5)
    assert [plan.in_tail(e) for e in (284, 285, 299)] == [False, True, True]


def test_rate_scales_with_the_batch():
    config = load_config("yolox-s", ["train.batch=8"])
    plan = plan_epochs(config.train, warmup_epochs=5)
    rate = build_learning_rate(config, plan, steps_per_epoch=10)
    assert rate.peak == pytest.approx(0.01 / 8)
    assert rate.floor == pytest.approx(0.01 / 8 * 0.05)


@pytest.mark.parametrize(("batch", "factor"), [(16, 0.5), (64, 1), (256, 2)])
def test_rate_may_follow_the_square_root_of_the_batch(batch, factor):
    words = [f"train.batch={batch}", "optimizer.lr_scaling=root", "schedule.warmup_lr=0.001"]
    config = load_config("yolox-s", words)
    plan = plan_epochs(config.train, warmup_epochs=5)
    rate = build_learning_rate(config, plan, steps_per_epoch=1)
    assert rate.peak == pytest.approx(0.01 * factor)
    assert rate.start == pytest.approx(0.001 * factor)


def test_rate_is_flat_where_the_run_is_all_tail():
    rate = LearningRate(
        peak=1.0, start=0.0, floor=0.05, warmup_steps=0, flat_steps=10, total_steps=10
    )
    assert {rate.at(step) for step in range(10)} == {0.05}


def test_rate_that_falls_in_the_tail_too():
    config = load_config("yolox-s", ["train.epochs=10", "schedule.tail_lr=falling"])
    plan = plan_epochs(config.train, warmup_epochs=0)
    rate = build_learning_rate(config, plan, steps_per_epoch=10)
    assert plan.tail == 2
    assert all(rate.at(s) > rate.at(s + 1) for s in range(99))
    assert rate.at(50) == pytest.approx((rate.peak + rate.floor) / 2)
    assert rate.at(100) == pytest.approx(rate.floor)


def test_a_run_of_the_tail_alone_has_the_lowest_rate():
    words = ["train.aug_epochs=0", "train.tail_epochs=2", "schedule.tail_lr=falling"]
    config = load_config("yolox-s", words)
    plan = plan_epochs(config.train, warmup_epochs=5)
    rate = build_learning_rate(config, plan, steps_per_epoch=10)
    assert {rate.at(step) for step in range(20)} == {rate.floor}


def test_rate_without_warmup_starts_at_the_peak():
    rate = LearningRate(
        peak=1.0, start=0.0, floor=0.1, warmup_steps=0, flat_steps=2, total_steps=10
    )
    assert rate.at(0) == 1.0
    assert all(rate.at(s) >= rate.at(s + 1) for s in range(9))


@pytest.mark.parametrize(
    ("when", "in_tail", "on"),
    [("tail", False, False), ("tail", True, True), ("always", False, True), ("never", True, False)],
)
def test_l1(when, in_tail, on):
    loss = load_config("yolox-s", [f"loss.l1={when}"]).loss
    assert l1_is_on(loss, in_tail=in_tail) is on


def test_input_sizes_cover_the_range_and_change_every_interval():
    augment = load_config("yolox-nano").augment
    sizes = [input_size_at(s, seed=0, augment=augment, native=(416, 416)) for s in range(4000)]
    assert sizes[:10] == [(416, 416)] * 10
    assert {h for h, _ in sizes[10:]} == set(range(320, 641, 32))
    assert all(len(set(sizes[i : i + 10])) == 1 for i in range(0, 4000, 10))
    again = [input_size_at(s, seed=0, augment=augment, native=(416, 416)) for s in range(4000)]
    other = [input_size_at(s, seed=1, augment=augment, native=(416, 416)) for s in range(4000)]
    assert sizes == again
    assert sizes != other


def test_input_sizes_keep_the_shape_of_a_rectangle():
    augment = load_config("yolox-s").augment
    for step in range(0, 500, 10):
        height, width = input_size_at(step, seed=0, augment=augment, native=(320, 640))
        assert height % 32 == 0
        assert width == 2 * height


def test_no_multiscale():
    augment = load_config("yolox-s", ["augment.multiscale=null"]).augment
    assert input_size_at(999, seed=0, augment=augment, native=(640, 640)) == (640, 640)
