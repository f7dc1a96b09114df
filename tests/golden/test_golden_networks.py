"""Guards the seven networks: layers, channels, activations, order and decoding of predictions.

The weights come from the formula of the official names, batch norms take the statistics of four
scenes, and one goes through in evaluation mode. All in float64: the deepest
two networks amplify the rounding of float32 to about a percent, that of float64 to nothing.
"""

import pytest
import torch
from scenes import as_input, small_images
from torch import nn

from formula import official_formula
from golden import differences, golden, sampled
from oculox.config import load_config, recipe_names
from oculox.models import build_model
from oculox.postprocess import decode
from oculox.weights.interop.megvii import official_names

TOPIC = "networks"


def formula_network(recipe, *, num_classes):
    """A recipe's network with the formula's weights, in float64 and evaluation mode."""
    config = load_config(recipe).model
    with torch.device("meta"):
        network = build_model(config, num_classes=num_classes)
    network = network.double().to_empty(device="cpu").eval()
    to_official = official_names(config.backbone)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            tensor.copy_(official_formula(to_official(name), tensor.shape))
    return network


@torch.no_grad()
def compute(recipe):
    network = formula_network(recipe, num_classes=80)
    images = as_input(small_images()).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(images)
    raw = network.eval()(images[:1])
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "level_sizes": [list(size) for size in raw.level_sizes],
        "deltas": sampled(raw.deltas),
        "objectness": sampled(raw.objectness),
        "classes": sampled(raw.classes),
        "boxes": sampled(decode(raw, network.strides).boxes),
    }


def compute_all():
    return {recipe: compute(recipe) for recipe in recipe_names()}


@pytest.mark.parametrize("recipe", recipe_names())
def test_forward(recipe):
    # Decoded boxes are float32; everything else agrees to ten digits.
    assert differences(compute(recipe), golden(TOPIC)[recipe], rel=2e-6, absolute=1e-6) == []
