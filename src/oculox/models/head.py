"""The decoupled head: classes on one branch, box and objectness on the other (paper, 2.1)."""

import math
from functools import partial

import torch
from torch import Tensor, nn

from oculox.models.layers import ConvBNAct, make_conv3x3
from oculox.types import RawPredictions

PRIOR_PROBABILITY = 0.01


class DecoupledHead(nn.Module):
    """Predicts deltas, objectness and classes at every cell of every level.

    Args:
        in_channels: channels of each level.
        channels: channels inside the head.
        num_classes: number of classes.
        depthwise: depthwise-separable 3x3 convolutions.
        activation: see `make_activation`.
    """

    def __init__(
        self,
        in_channels: tuple[int, ...],
        *,
        channels: int,
        num_classes: int,
        depthwise: bool,
        activation: str,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes

        conv = partial(make_conv3x3, channels, channels, depthwise=depthwise, activation=activation)
        levels = range(len(in_channels))
        self.stems = nn.ModuleList(
            ConvBNAct(c, channels, kernel=1, activation=activation) for c in in_channels
        )
        self.cls_convs = nn.ModuleList(nn.Sequential(conv(), conv()) for _ in levels)
        self.reg_convs = nn.ModuleList(nn.Sequential(conv(), conv()) for _ in levels)
        self.cls_preds = nn.ModuleList(nn.Conv2d(channels, num_classes, 1) for _ in levels)
        self.reg_preds = nn.ModuleList(nn.Conv2d(channels, 4, 1) for _ in levels)
        self.obj_preds = nn.ModuleList(nn.Conv2d(channels, 1, 1) for _ in levels)
        for pred in (*self.cls_preds, *self.obj_preds):
            nn.init.constant_(pred.bias, -math.log(1 / PRIOR_PROBABILITY - 1))

    def forward(self, features: tuple[Tensor, ...]) -> RawPredictions:
        """Features at strides 8, 16, 32 -> predictions at all N cells."""
        deltas, objectness, classes, sizes = [], [], [], []
        for i, x in enumerate(features):
            x = self.stems[i](x)
            cls_features = self.cls_convs[i](x)
            reg_features = self.reg_convs[i](x)
            classes.append(self.cls_preds[i](cls_features).flatten(2))
            deltas.append(self.reg_preds[i](reg_features).flatten(2))
            objectness.append(self.obj_preds[i](reg_features).flatten(2))
            sizes.append((x.shape[-2], x.shape[-1]))
        return RawPredictions(
            deltas=torch.cat(deltas, dim=2).transpose(1, 2),
            objectness=torch.cat(objectness, dim=2).squeeze(1),
            classes=torch.cat(classes, dim=2).transpose(1, 2),
            level_sizes=tuple(sizes),
        )
