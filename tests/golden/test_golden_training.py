"""Guards the training mathematics of nano: gradients, SGD, average, schedule, multi-scale.

Weights come from the formula; scenes from the committed pixels. The network runs in float64, so
that the values hold on any machine; the criterion stays in float32 as in training.
"""

import functools

import pytest
import torch
from accelerate import Accelerator
from scenes import as_input, small_images, small_scenes
from test_golden_networks import formula_network
from torch import nn

from golden import differences, golden, plain
from oculox.config import load_config
from oculox.config.schema import AugmentConfig, InputConfig
from oculox.losses.criterion import build_criterion
from oculox.training.build import Parts
from oculox.training.optim import Ema, build_optimizer, ema_decay
from oculox.training.schedule import build_learning_rate, input_size_at, plan_epochs
from oculox.training.step import train_step
from oculox.types import Batch, Targets
from oculox.weights.interop.megvii import official_names

TOPIC = "training"
SIZE = (128, 192)
STEPS = 6
L1_FROM = 3
SIZES = [SIZE, SIZE, (96, 160), SIZE, (160, 224), SIZE]
# At the usual rate a rounding error grows a hundredfold in a step of a fresh network. At this one
# it stays where it is, and the decay is large enough to be seen.
CALM = ("optimizer.lr=2e-4", "optimizer.weight_decay=50")
# Settings of a run, and the steps whose rates are kept.
RUNS = {
    "official": ((), 1849, (0, 1, 1000, 9245, 9246, 277350, 400000, 526964, 526965, 554699)),
    "short": (("train.epochs=20", "train.batch=8"), 30, (0, 15, 60, 61, 300, 479, 480, 599)),
    "tail": (("train.aug_epochs=0", "train.tail_epochs=3"), 10, (0, 15, 29)),
}


class Doubled(nn.Module):
    """A network that computes in float64 for any input."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images.double())


def batch():
    scenes = small_scenes()
    slots = max(len(scene["labels"]) for scene in scenes)
    boxes, labels = torch.zeros(len(scenes), slots, 4), torch.zeros(len(scenes), slots).long()
    mask = torch.zeros(len(scenes), slots, dtype=torch.bool)
    for i, scene in enumerate(scenes):
        count = len(scene["labels"])
        boxes[i, :count] = 2 * torch.tensor(scene["boxes"], dtype=torch.float32).reshape(-1, 4)
        labels[i, :count] = torch.tensor(scene["labels"])
        mask[i, :count] = True
    images = as_input(small_images(), repeat=2)
    return Batch(images, Targets(boxes, labels, mask), tuple(range(4)), (SIZE,) * 4)


def make_parts(noise=0.0):
    config = load_config("yolox-nano", list(CALM))
    network = formula_network("yolox-nano", num_classes=6).train()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1 + noise)
    return Parts(
        accelerator=Accelerator(cpu=True),
        network=network,
        model=Doubled(network),
        criterion=build_criterion(config.loss, num_classes=6, strides=network.strides),
        optimizer=build_optimizer(network, config.optimizer),
        ema=Ema(network, decay=0.99, ramp=3),
        input_config=InputConfig(size=SIZE),
        accumulate=1,
        clip_grad_norm=0.0,
    )


def rates():
    config = load_config("yolox-nano", [*CALM, "train.batch=4", "schedule.warmup_lr=2e-5"])
    plan = plan_epochs(config.train.model_copy(update={"epochs": 6}), warmup_epochs=2)
    rate = build_learning_rate(config, plan, steps_per_epoch=1)
    return [rate.at(step) for step in range(STEPS)]


def terms_of(loss):
    names = ("total", "box", "objectness", "classes", "l1", "positives", "gradient_norm")
    return {name: plain(getattr(loss, name)) for name in names}


def in_official_order(network, values):
    """Values by our names, in the order of the official names, which does not change."""
    rename = official_names("csp_darknet")
    return [values[name] for name in sorted(values, key=rename)]


def gradients(*, use_l1):
    parts = make_parts()
    norms = {}

    def keep(optimizer, args, kwargs):
        for name, parameter in parts.network.named_parameters():
            norms[name] = plain(parameter.grad.norm(), digits=6)

    parts.optimizer.register_step_pre_hook(keep)
    loss = train_step(parts, batch(), rate=0.001, size_hw=SIZE, use_l1=use_l1, step=0)
    return {"terms": terms_of(loss), "norms": in_official_order(parts.network, norms)}


@functools.cache
def trajectory(noise=0.0):
    parts, data = make_parts(noise), batch()
    rows = [
        terms_of(
            train_step(parts, data, rate=rate, size_hw=size, use_l1=step >= L1_FROM, step=step)
        )
        for step, (rate, size) in enumerate(zip(rates(), SIZES, strict=True))
    ]
    states = {"parameters": parts.network, "average": parts.ema.network}
    norms = {}
    for key, network in states.items():
        values = {k: plain(v.norm(), digits=6) for k, v in network.state_dict().items() if v.ndim}
        norms[key] = in_official_order(network, values)
    return {"losses": rows, **norms}


def schedule(name):
    settings, steps_per_epoch, steps = RUNS[name]
    config = load_config("yolox-nano", list(settings))
    plan = plan_epochs(config.train, warmup_epochs=config.schedule.warmup_epochs)
    rate = build_learning_rate(config, plan, steps_per_epoch=steps_per_epoch)
    return {
        "epochs": [plan.aug, plan.tail, float(plan.warmup)],
        "rates": plain([rate.at(step) for step in steps], digits=15),
    }


def averages():
    updates = (1, 10, 1000, 2000, 20000, 500000)
    return plain([ema_decay(n, decay=0.9998, ramp=2000) for n in updates], digits=15)


def sizes():
    augment = AugmentConfig(multiscale=(0.5, 1.5))
    steps = range(0, 200, 10)
    return [list(input_size_at(n, seed=3, augment=augment, native=(416, 640))) for n in steps]


def compute_all():
    values = trajectory()
    # An error far above that of float64 must stay far below the tolerance of the test.
    assert differences(trajectory(1e-8), values, rel=2e-5, absolute=1e-6) == []
    return {
        "gradients": {f"l1_{on}": gradients(use_l1=bool(on)) for on in (0, 1)},
        "trajectory": values,
        "schedule": {name: schedule(name) for name in RUNS},
        "averages": averages(),
        "sizes": sizes(),
    }


@pytest.mark.parametrize("use_l1", [0, 1])
def test_losses_and_gradients(use_l1):
    expected = golden(TOPIC)["gradients"][f"l1_{use_l1}"]
    assert differences(gradients(use_l1=bool(use_l1)), expected, rel=1e-4, absolute=1e-6) == []


def test_trajectory():
    assert differences(trajectory(), golden(TOPIC)["trajectory"], rel=1e-4, absolute=1e-5) == []


@pytest.mark.parametrize("name", RUNS)
def test_learning_rate(name):
    assert differences(schedule(name), golden(TOPIC)["schedule"][name], rel=1e-12) == []


def test_decay_of_the_average():
    assert differences(averages(), golden(TOPIC)["averages"], rel=1e-12) == []


def test_input_sizes():
    assert sizes() == golden(TOPIC)["sizes"]
