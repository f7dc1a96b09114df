"""The CSPDarknet backbone of nano, tiny, s, m, l and x."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from oculox.models.layers import SPP, CSPLayer, Focus, make_conv3x3


class CSPDarknet(nn.Module):
    """Focus stem and four CSP stages; stage k halves the size of stage k-1.

    Args:
        channels: channels of the stem; stages have 2, 4, 8 and 16 times as many.
        blocks: bottlenecks of stages 2 and 5; stages 3 and 4 have three times as many.
        depthwise: depthwise-separable 3x3 convolutions.
        activation: see `make_activation`.
    """

    def __init__(self, *, channels: int, blocks: int, depthwise: bool, activation: str) -> None:
        super().__init__()
        self.out_channels = (channels * 4, channels * 8, channels * 16)
        self.stem = Focus(3, channels, activation=activation)

        down = partial(make_conv3x3, stride=2, depthwise=depthwise, activation=activation)
        csp = partial(CSPLayer, depthwise=depthwise, activation=activation)

        def stage(multiple: int, count: int, *, last: bool = False) -> nn.Sequential:
            out = channels * multiple
            layers = [down(out // 2, out)]
            layers += [SPP(out, out, activation=activation)] if last else []
            return nn.Sequential(*layers, csp(out, out, blocks=count, residual=not last))

        self.stage2 = stage(2, blocks)
        self.stage3 = stage(4, 3 * blocks)
        self.stage4 = stage(8, 3 * blocks)
        self.stage5 = stage(16, blocks, last=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> features at strides 8, 16 and 32."""
        stride8: Tensor = self.stage3(self.stage2(self.stem(x)))
        stride16: Tensor = self.stage4(stride8)
        stride32: Tensor = self.stage5(stride16)
        return stride8, stride16, stride32
