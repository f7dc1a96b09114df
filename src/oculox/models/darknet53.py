"""The Darknet-53 backbone with an SPP block (YOLOX-Darknet53, official `darknet.py`)."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from oculox.models.layers import SPP, Bottleneck, ConvBNAct


class Darknet53(nn.Module):
    """Stem and five down-sampling groups of residual blocks (1, 2, 8, 8, 4), then SPP.

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

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> features at strides 8, 16 and 32."""
        stride8: Tensor = self.stage3(self.stage2(self.stem(x)))
        stride16: Tensor = self.stage4(stride8)
        stride32: Tensor = self.stage5(stride16)
        return stride8, stride16, stride32
