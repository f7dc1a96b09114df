"""The building blocks of all seven networks (official `network_blocks.py` and `darknet.py`)."""

from collections import OrderedDict
from functools import partial

import torch
from torch import Tensor, nn

BN_EPS = 1e-3
BN_MOMENTUM = 0.03


def make_activation(name: str) -> nn.Module:
    """`silu`, `relu` or `leaky_relu` (slope 0.1), in place where that is the quicker way.

    Raises:
        ValueError: for another name.
    """
    if name == "silu":
        return nn.SiLU()  # its gradient needs the input, which it would copy first
    if name == "relu":
        return nn.ReLU(inplace=True)
    if name == "leaky_relu":
        return nn.LeakyReLU(0.1, inplace=True)
    raise ValueError(f"activation must be silu, relu or leaky_relu, got {name!r}")


class ConvBNAct(nn.Module):
    """Convolution without bias, batch norm, activation; padding keeps the size at stride 1."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        activation: str,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride,
            padding=(kernel - 1) // 2,
            groups=groups,
            bias=False,
        )
        self.bn: nn.Module = nn.BatchNorm2d(out_channels, eps=BN_EPS, momentum=BN_MOMENTUM)
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H / stride, W / stride)."""
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


def make_conv3x3(
    in_channels: int, out_channels: int, *, stride: int = 1, depthwise: bool, activation: str
) -> nn.Module:
    """A 3x3 convolution, or a depthwise and a pointwise one in its place (nano)."""
    conv = partial(ConvBNAct, activation=activation)
    if not depthwise:
        return conv(in_channels, out_channels, kernel=3, stride=stride)
    return nn.Sequential(
        OrderedDict(
            depthwise=conv(in_channels, in_channels, kernel=3, stride=stride, groups=in_channels),
            pointwise=conv(in_channels, out_channels, kernel=1),
        )
    )


class Bottleneck(nn.Module):
    """1x1 then 3x3 convolution, with a residual sum where it is wanted."""

    def __init__(
        self,
        channels: int,
        *,
        hidden: int,
        residual: bool,
        depthwise: bool,
        activation: str,
    ) -> None:
        super().__init__()
        self.conv1 = ConvBNAct(channels, hidden, kernel=1, activation=activation)
        self.conv2 = make_conv3x3(hidden, channels, depthwise=depthwise, activation=activation)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        y: Tensor = self.conv2(self.conv1(x))
        return y + x if self.residual else y


class CSPLayer(nn.Module):
    """Cross-stage partial block: bottlenecks on half of the channels, a shortcut for the rest."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        blocks: int,
        residual: bool = True,
        depthwise: bool,
        activation: str,
    ) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.main = ConvBNAct(in_channels, hidden, kernel=1, activation=activation)
        self.skip = ConvBNAct(in_channels, hidden, kernel=1, activation=activation)
        self.merge = ConvBNAct(2 * hidden, out_channels, kernel=1, activation=activation)
        bottleneck = partial(
            Bottleneck, hidden, hidden=hidden, residual=residual, depthwise=depthwise
        )
        self.blocks = nn.Sequential(*(bottleneck(activation=activation) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        out: Tensor = self.merge(torch.cat((self.blocks(self.main(x)), self.skip(x)), dim=1))
        return out


class SPP(nn.Module):
    """Spatial pyramid pooling: max pools of 5, 9 and 13 beside the identity.

    The pools are chained 5x5 ones: three in a row see 5, 9 and 13 pixels, for the same result
    in a fraction of the time.
    """

    def __init__(self, in_channels: int, out_channels: int, *, activation: str) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.conv1 = ConvBNAct(in_channels, hidden, kernel=1, activation=activation)
        self.conv2 = ConvBNAct(4 * hidden, out_channels, kernel=1, activation=activation)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        x = self.conv1(x)
        five = self.pool(x)
        nine = self.pool(five)
        out: Tensor = self.conv2(torch.cat((x, five, nine, self.pool(nine)), dim=1))
        return out


class Focus(nn.Module):
    """Space to depth (each 2x2 block of pixels becomes channels), then a 3x3 convolution."""

    def __init__(self, in_channels: int, out_channels: int, *, activation: str) -> None:
        super().__init__()
        self.conv = ConvBNAct(4 * in_channels, out_channels, kernel=3, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H / 2, W / 2)."""
        # The order of the four corners is part of the weights: top-left, bottom-left,
        # top-right, bottom-right.
        corners = (
            x[..., ::2, ::2],
            x[..., 1::2, ::2],
            x[..., ::2, 1::2],
            x[..., 1::2, 1::2],
        )
        out: Tensor = self.conv(torch.cat(corners, dim=1))
        return out
