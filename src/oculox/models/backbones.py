"""The two backbones: images -> features at strides 8, 16 and 32."""

from functools import partial

from torch import Tensor, nn

from oculox.models.layers import SPP, Bottleneck, ConvBNAct, CSPLayer, Focus, make_conv3x3


class Backbone(nn.Module):
    """A stem and four stages; stage k halves the size of stage k-1."""

    out_channels: tuple[int, int, int]
    stem: nn.Module
    stage2: nn.Sequential
    stage3: nn.Sequential
    stage4: nn.Sequential
    stage5: nn.Sequential

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> features at strides 8, 16 and 32."""
        stride8: Tensor = self.stage3(self.stage2(self.stem(x)))
        stride16: Tensor = self.stage4(stride8)
        stride32: Tensor = self.stage5(stride16)
        return stride8, stride16, stride32


class CSPDarknet(Backbone):
    """That of nano, tiny, s, m, l and x: focus stem and CSP stages.

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


class Darknet53(Backbone):
    """That of YOLOX-Darknet53 (official `darknet.py`): residual blocks (1, 2, 8, 8, 4), then SPP.

    Args:
        channels: channels of the stem (32 in the paper's network).
        activation: see `make_activation`.
    """

    def __init__(self, *, channels: int, activation: str) -> None:
        super().__init__()
        # The SPP block at the end halves the channels of stage 5.
        self.out_channels = (channels * 8, channels * 16, channels * 16)

        conv = partial(ConvBNAct, activation=activation)
        residual = partial(Bottleneck, residual=True, depthwise=False, activation=activation)

        def group(inputs: int, blocks: int) -> list[nn.Module]:
            down = conv(inputs, 2 * inputs, kernel=3, stride=2)
            return [down, *(residual(2 * inputs, hidden=inputs) for _ in range(blocks))]

        self.stem = nn.Sequential(conv(3, channels, kernel=3), *group(channels, 1))
        self.stage2 = nn.Sequential(*group(channels * 2, 2))
        self.stage3 = nn.Sequential(*group(channels * 4, 8))
        self.stage4 = nn.Sequential(*group(channels * 8, 8))
        narrow, wide = channels * 16, channels * 32
        self.stage5 = nn.Sequential(
            *group(channels * 16, 4),
            conv(wide, narrow, kernel=1),
            conv(narrow, wide, kernel=3),
            SPP(wide, narrow, activation=activation),
            conv(narrow, wide, kernel=3),
            conv(wide, narrow, kernel=1),
        )
