"""Parameter groups, average, gradients, freezing."""

import pytest
import torch

from oculox.config import load_config, recipe_names
from oculox.models import build_model
from oculox.training.optim import (
    Ema,
    build_optimizer,
    ema_decay,
    freeze_parts,
    parameter_groups,
    scale_gradients,
    set_learning_rate,
    set_train_mode,
)


def nano():
    torch.manual_seed(0)
    return build_model(load_config("yolox-nano").model, num_classes=3)


@pytest.mark.parametrize("recipe", recipe_names())
def test_groups_cover_every_parameter_once_and_decay_convolutions_alone(recipe):
    with torch.device("meta"):
        network = build_model(load_config(recipe).model, num_classes=80)
    groups = parameter_groups(network, weight_decay=5e-4)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters())
    for group in groups:
        decayed = group["weight_decay"] > 0
        assert all((p.dim() == 4) == decayed for p in group["params"])


def test_backbone_and_neck_may_have_a_part_of_the_rate():
    network = nano()
    config = load_config("yolox-nano", ["optimizer.body_lr_ratio=0.2"])
    optimizer = build_optimizer(network, config.optimizer)
    set_learning_rate(optimizer, 0.01)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert len(optimizer.param_groups) == 6
    for name, parameter in network.named_parameters():
        expected = 0.01 if name.startswith("head.") else 0.002
        assert rates[id(parameter)] == pytest.approx(expected)
        assert (decays[id(parameter)] > 0) == (parameter.dim() == 4)


def test_frozen_parts_do_not_move():
    network = nano()
    freeze_parts(network, ("backbone",))
    set_train_mode(network, ("backbone",))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    optimizer = build_optimizer(network, load_config("yolox-nano").optimizer)
    raw = network(torch.rand(2, 3, 64, 64) * 255)
    (raw.deltas.sum() + raw.objectness.sum() + raw.classes.sum()).backward()
    optimizer.step()
    after = network.state_dict()
    moved = {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert moved == {"neck", "head"}


def test_the_first_step_of_adamw_moves_every_weight_by_the_rate_against_its_gradient():
    network = nano()
    config = load_config("yolox-nano", ["optimizer.name=adamw", "optimizer.weight_decay=0.1"])
    optimizer = build_optimizer(network, config.optimizer)
    set_learning_rate(optimizer, 0.01)
    before = {k: p.detach().clone() for k, p in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter).sign()
    optimizer.step()
    for name, parameter in network.named_parameters():
        decayed = before[name] * (1 - 0.01 * 0.1) if parameter.dim() == 4 else before[name]
        expected = decayed - 0.01 * parameter.grad
        torch.testing.assert_close(parameter.detach(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_first_step_that_fp16_skips_leaves_nothing_behind(name):
    config = load_config("yolox-nano", [f"optimizer.name={name}"]).optimizer
    networks = [nano(), nano()]
    for parameter, same in zip(*(n.parameters() for n in networks), strict=True):
        parameter.grad = same.grad = torch.randn_like(parameter)
    # PyTorch fills memory that nobody wrote with NaN then.
    torch.use_deterministic_algorithms(True)
    try:
        skipping, plain = (build_optimizer(network, config) for network in networks)
        skipping.found_inf = torch.tensor(1.0)  # as a gradient scaler says it
        skipping.grad_scale = None
        skipping.step()
        del skipping.found_inf, skipping.grad_scale
        for optimizer in (skipping, plain):
            optimizer.step()
    finally:
        torch.use_deterministic_algorithms(False)
    for ours, expected in zip(*(n.parameters() for n in networks), strict=True):
        assert torch.equal(ours, expected)


def test_average_follows_the_formula():
    network = nano()
    ema = Ema(network, decay=0.9, ramp=2)
    weight = "head.cls_preds.0.weight"
    start = network.state_dict()[weight].clone()
    with torch.no_grad():
        network.head.cls_preds[0].weight.add_(1.0)
    expected = start.clone()
    for updates in (1, 2, 3):
        ema.update(network)
        decay = ema_decay(updates, decay=0.9, ramp=2)
        expected = decay * expected + (1 - decay) * network.state_dict()[weight]
    torch.testing.assert_close(ema.network.state_dict()[weight], expected)
    assert ema.updates == 3
    assert not ema.network.training


def test_average_takes_over_batch_norm_statistics_and_counts():
    network = nano()
    ema = Ema(network, decay=0.9, ramp=2)
    network.train()(torch.rand(2, 3, 64, 64) * 255)
    ema.update(network)
    state, average = network.state_dict(), ema.network.state_dict()
    assert average["backbone.stem.conv.bn.num_batches_tracked"] == 1
    assert not torch.equal(
        average["backbone.stem.conv.bn.running_mean"],
        torch.zeros_like(state["backbone.stem.conv.bn.running_mean"]),
    )


def test_scaled_gradients():
    network = nano()
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    next(network.parameters()).grad = None
    scale_gradients(network.parameters(), torch.tensor(0.5))
    assert all(p.grad is None or p.grad.eq(0.5).all() for p in network.parameters())
