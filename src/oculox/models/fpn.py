"""The FPN neck of YOLOX-Darknet53 (official `yolo_fpn.py`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from oculox.models.layers import ConvBNAct


class FPN(nn.Module):
    """Coarse features flow to finer levels; five alternating 1x1 and 3x3 convolutions merge them.

    Args:
        in_channels: channels of levels 3, 4, 5.
        activation: see `make_activation`.
    """

    def __init__(self, in_channels: tuple[int, int, int], *, activation: str) -> None:
        super().__init__()
        c3, c4, c5 = in_channels
        self.out_channels = (c3 // 2, c4 // 2, c5)

        def conv(inputs: int, outputs: int, kernel: int) -> ConvBNAct:
            return ConvBNAct(inputs, outputs, kernel=kernel, activation=activation)

        def merge(inputs: int, narrow: int) -> nn.Sequential:
            wide = narrow * 2
            return nn.Sequential(
                conv(inputs, narrow, 1),
                conv(narrow, wide, 3),
                conv(wide, narrow, 1),
                conv(narrow, wide, 3),
                conv(wide, narrow, 1),
            )

        self.lateral5 = conv(c5, c4 // 2, 1)
        self.out4 = merge(c4 + c4 // 2, c4 // 2)
        self.lateral4 = conv(c4 // 2, c3 // 2, 1)
        self.out3 = merge(c3 + c3 // 2, c3 // 2)

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Features at strides 8, 16, 32 -> merged features of the same sizes."""
        level3, level4, level5 = features
        from5 = interpolate(self.lateral5(level5), scale_factor=2.0, mode="nearest")
        out4: Tensor = self.out4(torch.cat((from5, level4), dim=1))
        from4 = interpolate(self.lateral4(out4), scale_factor=2.0, mode="nearest")
        out3: Tensor = self.out3(torch.cat((from4, level3), dim=1))
        return out3, out4, level5
