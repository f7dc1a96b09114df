"""Folding of batch norms into the convolutions before them, for inference."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from oculox.models.layers import ConvBNAct
from oculox.models.yolox import YOLOX


def fuse(network: YOLOX) -> YOLOX:
    """A copy in evaluation mode whose batch norms are folded into their convolutions.

    The outputs agree with the original's up to float rounding. `network` is not modified.
    """
    fused = copy.deepcopy(network).eval()
    for module in fused.modules():
        if isinstance(module, ConvBNAct) and isinstance(module.bn, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
    return fused
