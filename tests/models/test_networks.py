"""The seven networks: sizes, shapes and how they start."""

import math

import pytest
import torch
from torch import nn

from oculox.config import load_config
from oculox.models import build_model
from oculox.models.backbones import Darknet53
from oculox.models.layers import SPP, make_activation
from oculox.ops.points import level_sizes_of

PARAMETERS = {
    "yolox-nano": 912_159,
    "yolox-tiny": 5_055_855,
    "yolox-s": 8_968_255,
    "yolox-m": 25_326_495,
    "yolox-l": 54_208_895,
    "yolox-x": 99_071_455,
    "yolox-darknet53": 63_724_767,
}


def build(name, *, num_classes=80, device="meta"):
    with torch.device(device):
        return build_model(load_config(name).model, num_classes=num_classes)


@pytest.fixture(scope="module")
def nano():
    torch.manual_seed(0)
    return build("yolox-nano", num_classes=3, device="cpu").eval()


@pytest.mark.parametrize(("name", "expected"), PARAMETERS.items())
def test_number_of_parameters(name, expected):
    assert sum(p.numel() for p in build(name).parameters()) == expected


@pytest.mark.parametrize("name", PARAMETERS)
def test_one_more_class_costs_one_filter_a_level(name):
    sizes = [sum(p.numel() for p in build(name, num_classes=c).parameters()) for c in (1, 2, 601)]
    channels = build(name).head.cls_preds[0].in_channels
    assert sizes[1] - sizes[0] == 3 * (channels + 1)
    assert sizes[2] - sizes[0] == 600 * 3 * (channels + 1)
    assert build(name, num_classes=601).num_classes == 601


@pytest.mark.parametrize("name", PARAMETERS)
def test_batch_norms_have_the_official_constants(name):
    norms = [m for m in build(name).modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) > 50
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.03)}


@pytest.mark.parametrize("name", PARAMETERS)
def test_activation_and_kind_of_convolution(name):
    network = build(name)
    modules = [type(m).__name__ for m in network.modules()]
    expected = "LeakyReLU" if name == "yolox-darknet53" else "SiLU"
    assert {m for m in modules if m in {"SiLU", "ReLU", "LeakyReLU"}} == {expected}
    depthwise = [m for n, m in network.named_modules() if n.endswith(".depthwise.conv")]
    assert all(m.groups == m.in_channels for m in depthwise)
    assert bool(depthwise) == (name == "yolox-nano")
    assert ("Darknet53" in modules) == (name == "yolox-darknet53")


@pytest.mark.parametrize("size", [(32, 32), (64, 160), (160, 64)])
def test_shapes_of_predictions(nano, size):
    level_sizes = level_sizes_of(*size, nano.strides)
    n = sum(rows * columns for rows, columns in level_sizes)
    with torch.no_grad():
        raw = nano(torch.zeros(2, 3, *size))
    assert raw.level_sizes == level_sizes
    assert raw.deltas.shape == (2, n, 4)
    assert raw.objectness.shape == (2, n)
    assert raw.classes.shape == (2, n, 3)


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_network_takes_rectangles(name):
    raw = build(name, num_classes=2).eval()(torch.zeros(1, 3, 64, 96, device="meta"))
    assert raw.level_sizes == ((8, 12), (4, 6), (2, 3))
    assert raw.classes.shape == (1, 126, 2)


def test_cells_are_row_major(nano):
    # A change in the lower right corner of a wide image moves the last cells of a level most.
    images = torch.full((1, 3, 64, 256), 114.0)
    changed = images.clone()
    changed[..., 48:, 224:] = 255
    with torch.no_grad():
        move = (nano(images).deltas - nano(changed).deltas).abs().sum(-1)[0]
    stride8 = move[: 8 * 32].reshape(8, 32)
    assert stride8[6:, 28:].mean() > 5 * stride8[:2, :4].mean()


def test_an_image_does_not_see_its_batch(nano):
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        together, alone = nano(images), nano(images[1:2])
    for a, b in zip(together[:3], alone[:3], strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-5)


def test_forward_returns_the_same_kind_in_training(nano):
    shapes = [t.shape for t in nano(torch.zeros(2, 3, 64, 64))[:3]]
    fresh = build("yolox-nano", num_classes=3, device="cpu").train()
    raw = fresh(torch.zeros(2, 3, 64, 64))
    assert [t.shape for t in raw[:3]] == shapes
    sum(t.sum() for t in raw[:3]).backward()
    assert all(p.grad is not None for p in fresh.parameters())


def test_new_networks_expect_one_object_in_a_hundred_cells():
    head = build("yolox-nano", num_classes=7, device="cpu").head
    for pred in (*head.cls_preds, *head.obj_preds):
        torch.testing.assert_close(
            pred.bias.detach().sigmoid(), torch.full_like(pred.bias, 0.01), rtol=1e-4, atol=0
        )
    assert all(pred.bias.abs().max() < 1 for pred in head.reg_preds)


def test_chained_pools_are_the_pools_of_the_paper():
    spp = SPP(8, 8, activation="silu").eval()
    x = torch.randn(1, 8, 20, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        inner = spp.conv1(x)
        pools = [nn.functional.max_pool2d(inner, k, 1, k // 2) for k in (5, 9, 13)]
        assert torch.equal(spp(x), spp.conv2(torch.cat((inner, *pools), 1)))


def test_darknet_channels():
    with torch.device("meta"):
        assert Darknet53(channels=32, activation="silu").out_channels == (256, 512, 512)


@pytest.mark.parametrize(
    ("name", "at_minus_one"), [("silu", -1 / (1 + math.e)), ("relu", 0), ("leaky_relu", -0.1)]
)
def test_activations(name, at_minus_one):
    assert make_activation(name)(torch.tensor([-1.0])).item() == pytest.approx(at_minus_one)


def test_unknown_activation():
    with pytest.raises(ValueError, match="must be silu, relu or leaky_relu, got 'gelu'"):
        make_activation("gelu")
