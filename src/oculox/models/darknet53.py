"""The Darknet-53 backbone with an SPP block (YOLOX-Darknet53, official `darknet.py`)."""

from __future__ import annotations

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

        def group(in_channels: int, blocks: int) -> list[nn.Module]:
            out = in_channels * 2
            down = ConvBNAct(in_channels, out, kernel=3, stride=2, activation=activation)
            residuals = (
                Bottleneck(
                    out,
                    out,
                    hidden_channels=in_channels,
                    residual=True,
                    depthwise=False,
                    activation=activation,
                )
                for _ in range(blocks)
            )
            return [down, *residuals]

        self.stem = nn.Sequential(
            ConvBNAct(3, channels, kernel=3, activation=activation), *group(channels, 1)
        )
        self.stage2 = nn.Sequential(*group(channels * 2, 2))
        self.stage3 = nn.Sequential(*group(channels * 4, 8))
        self.stage4 = nn.Sequential(*group(channels * 8, 8))
        narrow, wide = channels * 16, channels * 32
        self.stage5 = nn.Sequential(
            *group(channels * 16, 4),
            ConvBNAct(wide, narrow, kernel=1, activation=activation),
            ConvBNAct(narrow, wide, kernel=3, activation=activation),
            SPP(wide, narrow, activation=activation),
            ConvBNAct(narrow, wide, kernel=3, activation=activation),
            ConvBNAct(wide, narrow, kernel=1, activation=activation),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> features at strides 8, 16 and 32."""
        stride8: Tensor = self.stage3(self.stage2(self.stem(x)))
        stride16: Tensor = self.stage4(stride8)
        stride32: Tensor = self.stage5(stride16)
        return stride8, stride16, stride32
