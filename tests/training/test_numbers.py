"""Odd sizes and numbers: what a run takes, and what stops it before an update."""

import json
import math
import os

import cv2
import numpy as np
import pytest
import torch

from oculox import load_config, train
from oculox.distributed.devices import open_accelerator
from oculox.errors import TrainingError
from oculox.training.build import build_run
from oculox.training.checkpoints import TrainProgress, save_run
from oculox.training.log import read_log
from oculox.training.step import train_step

STEPS = int(os.environ.get("OCULOX_STEPS", "500"))
NAN = float("nan")


def into_first_weight(run, batch):
    next(run.parts.network.parameters()).data[0, 0, 0, 0] = NAN


def into_a_level(run, batch):
    run.parts.network.head.cls_preds[2].weight.data[0, 0, 0, 0] = NAN


def into_the_input(run, batch):
    hooks = run.parts.network.register_forward_pre_hook
    return hooks(lambda module, inputs: (torch.full_like(inputs[0], NAN),))


def into_a_feature(run, batch):
    norm = next(m for m in run.parts.network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    return norm.register_forward_hook(lambda module, inputs, output: output * NAN)


def into_a_gradient(run, batch):
    last = list(run.parts.network.parameters())[-1]
    return last.register_hook(lambda gradient: torch.full_like(gradient, math.inf))


def into_a_box(run, batch):
    batch.targets.boxes[0, 0, 2] = NAN


def into_statistics(run, batch):
    norm = next(m for m in run.parts.network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    norm.running_var[0] = NAN


def into_the_average(run, batch):
    next(run.parts.ema.network.parameters()).data[0, 0, 0, 0] = NAN


def into_momentum(run, batch):
    state = next(iter(run.parts.optimizer.state.values()))
    state["momentum_buffer"].reshape(-1)[0] = NAN


@pytest.mark.parametrize(
    ("put", "caught"),
    [
        (into_first_weight, "step"),
        (into_a_level, "save"),
        (into_the_input, "step"),
        (into_a_feature, "step"),
        (into_a_gradient, "step"),
        (into_a_box, "step"),
        (into_statistics, "save"),
        (into_the_average, "save"),
        (into_momentum, "save"),
    ],
)
def test_a_number_that_is_not_finite_is_caught(quick, tmp_path, put, caught):
    config = load_config("yolox-nano", [*quick, "train.batch=2", "model.width=0.125"])
    with open_accelerator("cpu") as accelerator:
        run = build_run(config, accelerator, weights=None)
        batches = run.train_loader.iterate(0, mosaic=False)
        options = {"rate": 1e-3, "size_hw": (64, 64), "use_l1": True}
        train_step(run.parts, next(batches), **options, step=1)
        save_run(run, TrainProgress(epoch=1, step=1), folder=tmp_path, best=True)
        left = {path: path.read_bytes() for path in tmp_path.iterdir()}
        batch = next(batches)
        put(run, batch)
        before = {k: v.clone() for k, v in run.parts.network.named_parameters()}
        stop = pytest.raises(TrainingError, match="not finite")
        if caught == "step":
            with stop:
                train_step(run.parts, batch, **options, step=2)
            for key, value in run.parts.network.named_parameters():
                assert torch.equal(value.nan_to_num(7), before[key].nan_to_num(7)), key
        else:
            with stop:
                train_step(run.parts, batch, **options, step=2)
                save_run(run, TrainProgress(epoch=2, step=2), folder=tmp_path, best=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == left


@pytest.fixture
def odd_data(tmp_path):
    """Writes a dataset of images (width, height, xywh boxes), the same for both splits."""

    def write(images, *, classes=1):
        root = tmp_path / "odd"
        tree = {"images": [], "annotations": [], "categories": []}
        tree["categories"] = [{"id": i + 1, "name": f"kind {i}"} for i in range(classes)]
        for split in ("train", "val"):
            (root / f"{split}2017").mkdir(parents=True)
        for number, (width, height, boxes) in enumerate(images):
            picture = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
            name = f"{number}.png"
            for split in ("train", "val"):
                cv2.imwrite(str(root / f"{split}2017" / name), picture)
            entry = {"id": number, "file_name": name, "width": width, "height": height}
            tree["images"].append(entry)
            for box in boxes:
                tree["annotations"].append(
                    {
                        "id": len(tree["annotations"]),
                        "image_id": number,
                        "category_id": len(tree["annotations"]) % classes + 1,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        (root / "annotations").mkdir()
        for split in ("train", "val"):
            text = json.dumps(tree)
            (root / f"annotations/instances_{split}2017.json").write_text(text)
        return root

    return write


def many_boxes(count):
    rng = np.random.default_rng(0)
    return [[*map(float, rng.uniform(0, 80, 2)), 15.0, 12.0] for _ in range(count)]


QUICK_ONES = ("a strip", "background")
ODD = {
    "one pixel": ([(1, 1, [[0, 0, 1, 1]])], 1, 1),
    "a strip": ([(20_000, 50, [[3, 4, 9000, 20], [19_000, 2, 1, 1]])], 2, 1),
    "a column": ([(50, 20_000, [[3, 4, 20, 9000]]), (7, 5, [[2, 2, 1, 1]])], 2, 1),
    "pixels": ([(96, 72, [[i, i, 1, 1] for i in range(60)])] * 3, 2, 3),
    "a thousand": ([(96, 96, many_boxes(1000))] * 3, 2, 1),
    "background": ([(90, 60, [])] * 5, 2, 1),
    "1203 classes": ([(96, 96, many_boxes(40))] * 2, 1, 1203),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK_ONES else pytest.mark.slow) for name in ODD],
)
def test_a_run_takes_odd_data(quick, odd_data, tmp_path, name):
    images, batch, classes = ODD[name]
    root = odd_data(images, classes=classes)
    summary = train(
        "yolox-nano",
        *quick,
        f"data.root={root}",
        f"train.batch={batch}",
        "train.aug_epochs=1",
        "model.width=0.125",
        "data.max_labels=1200",
        output=tmp_path / "out",
    )
    rows = read_log(summary.output)
    assert all(math.isfinite(v) for row in rows for v in row.values() if isinstance(v, float))
    assert summary.steps == 2 * -(-len(images) // batch)
    assert len(summary.metrics) == 12


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["yolox-nano", "yolox-nano-adamw"])
def test_half_the_precision_stays_finite(quick, tmp_path, recipe, record_property):
    words = ("train.precision=bf16", f"train.max_steps={STEPS}", "train.eval_interval=0")
    longer = ("train.aug_epochs=400", "train.checkpoint_interval=50", "augment.multiscale=null")
    summary = train(recipe, *quick, *words, *longer, output=tmp_path / "out")
    losses = [row["loss"] for row in read_log(summary.output) if row["kind"] == "train"]
    assert len(losses) == summary.steps == STEPS
    assert all(map(math.isfinite, losses))
    assert sum(losses[-20:]) < sum(losses[:20])
    record_property("reliability", f"{STEPS} steps, loss {losses[0]:.2f} to {losses[-1]:.2f}")
