"""The whole network: backbone, neck and head, and the builder that reads a configuration."""

from typing import TypedDict

from torch import Tensor, nn

from oculox.config.schema import ModelConfig
from oculox.models.backbones import Backbone, CSPDarknet, Darknet53
from oculox.models.head import DecoupledHead
from oculox.models.necks import FPN, PAFPN
from oculox.types import RawPredictions


class YOLOX(nn.Module):
    """An anchor-free detector.

    The input is float (B, 3, H, W) with H and W multiples of 32, in the colour order and pixel
    range that the weights were trained with (see `InputConfig`).
    """

    def __init__(
        self,
        backbone: Backbone,
        neck: PAFPN | FPN,
        head: DecoupledHead,
        *,
        strides: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.strides = strides

    @property
    def num_classes(self) -> int:
        """Number of classes the head predicts."""
        return self.head.num_classes

    def forward(self, images: Tensor) -> RawPredictions:
        """(B, 3, H, W) -> raw predictions at all cells; the same in training and evaluation."""
        predictions: RawPredictions = self.head(self.neck(self.backbone(images)))
        return predictions


class _Style(TypedDict):
    depthwise: bool
    activation: str


def build_model(config: ModelConfig, *, num_classes: int) -> YOLOX:
    """A freshly initialised network of the configured shape.

    Args:
        config: the network's shape; its own `num_classes` is not read here.
        num_classes: classes to predict, resolved by the caller from config or data.
    """
    style: _Style = {"depthwise": config.depthwise, "activation": config.activation}
    backbone: Backbone
    neck: PAFPN | FPN
    if config.backbone == "darknet53":
        backbone = Darknet53(channels=int(32 * config.width), activation=config.activation)
        neck = FPN(backbone.out_channels, activation=config.activation)
    else:
        blocks = max(round(3 * config.depth), 1)
        backbone = CSPDarknet(channels=int(64 * config.width), blocks=blocks, **style)
        neck = PAFPN(backbone.out_channels, blocks=blocks, **style)
    channels = int(256 * config.width)
    head = DecoupledHead(neck.out_channels, channels=channels, num_classes=num_classes, **style)
    return YOLOX(backbone, neck, head, strides=config.strides)
