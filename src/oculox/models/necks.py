"""The two necks: features at strides 8, 16 and 32 -> merged features of the same sizes."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from oculox.models.layers import ConvBNAct, CSPLayer, make_conv3x3


class PAFPN(nn.Module):
    """Features flow from coarse to fine and back (official `yolo_pafpn.py`).

    Numbers in the attributes are feature levels: 3, 4, 5 for strides 8, 16, 32.

    Args:
        in_channels: channels of levels 3, 4, 5; also those of the outputs.
        blocks: bottlenecks in each CSP layer.
        depthwise: depthwise-separable 3x3 convolutions.
        activation: see `make_activation`.
    """

    def __init__(
        self, in_channels: tuple[int, int, int], *, blocks: int, depthwise: bool, activation: str
    ) -> None:
        super().__init__()
        c3, c4, c5 = in_channels
        self.out_channels = in_channels

        lateral = partial(ConvBNAct, kernel=1, activation=activation)
        merge = partial(CSPLayer, blocks=blocks, depthwise=depthwise, activation=activation)
        down = partial(make_conv3x3, stride=2, depthwise=depthwise, activation=activation)
        self.lateral5 = lateral(c5, c4)
        self.up4 = merge(2 * c4, c4, residual=False)
        self.lateral4 = lateral(c4, c3)
        self.up3 = merge(2 * c3, c3, residual=False)
        self.down3 = down(c3, c3)
        self.out4 = merge(2 * c3, c4, residual=False)
        self.down4 = down(c4, c4)
        self.out5 = merge(2 * c4, c5, residual=False)

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Features at strides 8, 16, 32 -> merged features of the same shapes."""
        level3, level4, level5 = features
        top5 = self.lateral5(level5)
        top4 = self.lateral4(self.up4(torch.cat((_double(top5), level4), dim=1)))
        out3: Tensor = self.up3(torch.cat((_double(top4), level3), dim=1))
        out4: Tensor = self.out4(torch.cat((self.down3(out3), top4), dim=1))
        out5: Tensor = self.out5(torch.cat((self.down4(out4), top5), dim=1))
        return out3, out4, out5


class FPN(nn.Module):
    """That of YOLOX-Darknet53 (official `yolo_fpn.py`): features flow from coarse to fine.

    Five alternating 1x1 and 3x3 convolutions merge them.

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
        from5 = _double(self.lateral5(level5))
        out4: Tensor = self.out4(torch.cat((from5, level4), dim=1))
        from4 = _double(self.lateral4(out4))
        out3: Tensor = self.out3(torch.cat((from4, level3), dim=1))
        return out3, out4, level5


def _double(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2.0, mode="nearest")
