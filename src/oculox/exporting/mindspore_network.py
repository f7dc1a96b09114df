"""YOLOX in MindSpore, for export only: norms folded, the focus one convolution, boxes decoded.

Cells are named as the modules of `oculox.models`, so that fused weights load by name. MindSpore
must be installed; nothing else imports this module.
"""

from __future__ import annotations

from collections.abc import Mapping

import mindspore
from mindspore import nn, ops

from oculox.config.schema import ModelConfig
from oculox.types import FloatArray

_Sizes = tuple[tuple[int, int], tuple[int, int]]


class ConvAct(nn.Cell):
    """Convolution with bias, then the activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        activation: str,
    ) -> None:
        super().__init__()
        self.conv = conv2d(
            inputs,
            outputs,
            kernel=kernel,
            stride=stride,
            padding=(kernel - 1) // 2 if padding is None else padding,
            groups=groups,
        )
        self.activation = activation
        self.leaky = nn.LeakyReLU(0.1)

    def construct(self, x):  # noqa: ANN001, ANN201, D102 - compiled by MindSpore
        x = self.conv(x)
        if self.activation == "silu":
            return x * ops.sigmoid(x)
        if self.activation == "relu":
            return ops.relu(x)
        return self.leaky(x)


def conv2d(
    inputs: int, outputs: int, *, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1
) -> nn.Cell:
    """A convolution with bias and explicit padding."""
    return nn.Conv2d(
        inputs,
        outputs,
        kernel,
        stride=stride,
        pad_mode="pad",
        padding=padding,
        group=groups,
        has_bias=True,
    )


class DepthwiseConv(nn.Cell):
    """A depthwise and a pointwise convolution."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, activation: str) -> None:
        super().__init__()
        self.depthwise = ConvAct(
            inputs, inputs, kernel=3, stride=stride, groups=inputs, activation=activation
        )
        self.pointwise = ConvAct(inputs, outputs, kernel=1, activation=activation)

    def construct(self, x):  # noqa: ANN001, ANN201, D102
        return self.pointwise(self.depthwise(x))


class Parts:
    """The blocks of one network: its activation and whether it is depthwise are given once."""

    def __init__(self, config: ModelConfig) -> None:
        self.activation = config.activation
        self.depthwise = config.depthwise

    def conv(self, inputs: int, outputs: int, kernel: int) -> nn.Cell:
        """A full convolution."""
        return ConvAct(inputs, outputs, kernel=kernel, activation=self.activation)

    def conv3x3(self, inputs: int, outputs: int, *, stride: int = 1) -> nn.Cell:
        """Full, or depthwise-separable in nano."""
        if self.depthwise:
            return DepthwiseConv(inputs, outputs, stride=stride, activation=self.activation)
        return ConvAct(inputs, outputs, kernel=3, stride=stride, activation=self.activation)

    def csp(self, inputs: int, outputs: int, blocks: int, *, residual: bool) -> nn.Cell:
        """A cross-stage partial block."""
        return CSPLayer(self, inputs, outputs, blocks=blocks, residual=residual)


class Bottleneck(nn.Cell):
    """1x1 then 3x3 convolution, with a shortcut where `residual` is set."""

    def __init__(self, parts: Parts, channels: int, hidden: int, *, residual: bool) -> None:
        super().__init__()
        self.conv1 = parts.conv(channels, hidden, 1)
        self.conv2 = parts.conv3x3(hidden, channels)
        self.residual = residual

    def construct(self, x):  # noqa: ANN001, ANN201, D102
        y = self.conv2(self.conv1(x))
        if self.residual:
            return y + x
        return y


class CSPLayer(nn.Cell):
    """Bottlenecks on half of the channels, a shortcut for the rest."""

    def __init__(
        self, parts: Parts, inputs: int, outputs: int, *, blocks: int, residual: bool
    ) -> None:
        super().__init__()
        hidden = outputs // 2
        self.main = parts.conv(inputs, hidden, 1)
        self.skip = parts.conv(inputs, hidden, 1)
        self.merge = parts.conv(2 * hidden, outputs, 1)
        self.blocks = nn.SequentialCell(
            [Bottleneck(parts, hidden, hidden, residual=residual) for _ in range(blocks)]
        )

    def construct(self, x):  # noqa: ANN001, ANN201, D102
        return self.merge(ops.concat((self.blocks(self.main(x)), self.skip(x)), 1))


class SPP(nn.Cell):
    """Max pools of 5, 9 and 13 pixels, as a chain of 5x5 ones."""

    def __init__(self, parts: Parts, inputs: int, outputs: int) -> None:
        super().__init__()
        hidden = inputs // 2
        self.conv1 = parts.conv(inputs, hidden, 1)
        self.conv2 = parts.conv(4 * hidden, outputs, 1)
        self.pool = nn.MaxPool2d(kernel_size=5, stride=1, pad_mode="same")

    def construct(self, x):  # noqa: ANN001, ANN201, D102
        x = self.conv1(x)
        five = self.pool(x)
        nine = self.pool(five)
        return self.conv2(ops.concat((x, five, nine, self.pool(nine)), 1))


class Backbone(nn.Cell):
    """CSPDarknet or Darknet-53."""

    def __init__(self, parts: Parts, config: ModelConfig) -> None:
        super().__init__()
        if config.backbone == "darknet53":
            c = int(32 * config.width)
            self.stem = nn.SequentialCell([parts.conv(3, c, 3), *_group(parts, c, 1)])
            self.stage2 = nn.SequentialCell(_group(parts, 2 * c, 2))
            self.stage3 = nn.SequentialCell(_group(parts, 4 * c, 8))
            self.stage4 = nn.SequentialCell(_group(parts, 8 * c, 8))
            self.stage5 = nn.SequentialCell(
                [
                    *_group(parts, 16 * c, 4),
                    parts.conv(32 * c, 16 * c, 1),
                    parts.conv(16 * c, 32 * c, 3),
                    SPP(parts, 32 * c, 16 * c),
                    parts.conv(16 * c, 32 * c, 3),
                    parts.conv(32 * c, 16 * c, 1),
                ]
            )
            return
        c, blocks = int(64 * config.width), max(round(3 * config.depth), 1)
        self.stem = ConvAct(3, c, kernel=6, stride=2, padding=2, activation=parts.activation)
        self.stage2 = _stage(parts, 2 * c, blocks)
        self.stage3 = _stage(parts, 4 * c, 3 * blocks)
        self.stage4 = _stage(parts, 8 * c, 3 * blocks)
        self.stage5 = _stage(parts, 16 * c, blocks, last=True)

    def construct(self, x):  # noqa: ANN001, ANN201, D102
        level3 = self.stage3(self.stage2(self.stem(x)))
        level4 = self.stage4(level3)
        return level3, level4, self.stage5(level4)


def _group(parts: Parts, inputs: int, blocks: int) -> list[nn.Cell]:
    outputs = 2 * inputs
    down = ConvAct(inputs, outputs, kernel=3, stride=2, activation=parts.activation)
    return [down, *(Bottleneck(parts, outputs, inputs, residual=True) for _ in range(blocks))]


def _stage(parts: Parts, outputs: int, blocks: int, *, last: bool = False) -> nn.Cell:
    pooling = [SPP(parts, outputs, outputs)] if last else []
    return nn.SequentialCell(
        [
            parts.conv3x3(outputs // 2, outputs, stride=2),
            *pooling,
            parts.csp(outputs, outputs, blocks, residual=not last),
        ]
    )


class PAFPN(nn.Cell):
    """The neck of all but Darknet-53; `sizes` are those of levels 3 and 4."""

    def __init__(
        self, parts: Parts, channels: tuple[int, int, int], *, blocks: int, sizes: _Sizes
    ) -> None:
        super().__init__()
        c3, c4, c5 = channels
        self.lateral5 = parts.conv(c5, c4, 1)
        self.up4 = parts.csp(2 * c4, c4, blocks, residual=False)
        self.lateral4 = parts.conv(c4, c3, 1)
        self.up3 = parts.csp(2 * c3, c3, blocks, residual=False)
        self.down3 = parts.conv3x3(c3, c3, stride=2)
        self.out4 = parts.csp(2 * c3, c4, blocks, residual=False)
        self.down4 = parts.conv3x3(c4, c4, stride=2)
        self.out5 = parts.csp(2 * c4, c5, blocks, residual=False)
        self.to3 = ops.ResizeNearestNeighbor(sizes[0])
        self.to4 = ops.ResizeNearestNeighbor(sizes[1])

    def construct(self, features):  # noqa: ANN001, ANN201, D102
        level3, level4, level5 = features
        top5 = self.lateral5(level5)
        top4 = self.lateral4(self.up4(ops.concat((self.to4(top5), level4), 1)))
        out3 = self.up3(ops.concat((self.to3(top4), level3), 1))
        out4 = self.out4(ops.concat((self.down3(out3), top4), 1))
        return out3, out4, self.out5(ops.concat((self.down4(out4), top5), 1))


class FPN(nn.Cell):
    """The neck of Darknet-53."""

    def __init__(self, parts: Parts, channels: tuple[int, int, int], *, sizes: _Sizes) -> None:
        super().__init__()
        c3, c4, c5 = channels
        self.lateral5 = parts.conv(c5, c4 // 2, 1)
        self.out4 = self._merge(parts, c4 + c4 // 2, c4 // 2)
        self.lateral4 = parts.conv(c4 // 2, c3 // 2, 1)
        self.out3 = self._merge(parts, c3 + c3 // 2, c3 // 2)
        self.to3 = ops.ResizeNearestNeighbor(sizes[0])
        self.to4 = ops.ResizeNearestNeighbor(sizes[1])

    @staticmethod
    def _merge(parts: Parts, inputs: int, narrow: int) -> nn.Cell:
        wide = 2 * narrow
        widths = ((inputs, narrow, 1), (narrow, wide, 3), (wide, narrow, 1))
        return nn.SequentialCell(
            [parts.conv(*w) for w in (*widths, (narrow, wide, 3), (wide, narrow, 1))]
        )

    def construct(self, features):  # noqa: ANN001, ANN201, D102
        level3, level4, level5 = features
        out4 = self.out4(ops.concat((self.to4(self.lateral5(level5)), level4), 1))
        out3 = self.out3(ops.concat((self.to3(self.lateral4(out4)), level3), 1))
        return out3, out4, level5


class Head(nn.Cell):
    """Deltas, objectness and classes of all cells: (B, N, 4), (B, N, 1), (B, N, C)."""

    def __init__(
        self, parts: Parts, inputs: tuple[int, ...], *, channels: int, classes: int
    ) -> None:
        super().__init__()

        def towers() -> nn.Cell:
            pair = range(2)
            return nn.CellList(
                [
                    nn.SequentialCell([parts.conv3x3(channels, channels) for _ in pair])
                    for _ in inputs
                ]
            )

        def predictors(outputs: int) -> nn.Cell:
            return nn.CellList([conv2d(channels, outputs, kernel=1) for _ in inputs])

        self.stems = nn.CellList([parts.conv(c, channels, 1) for c in inputs])
        self.cls_convs, self.reg_convs = towers(), towers()
        self.cls_preds, self.reg_preds = predictors(classes), predictors(4)
        self.obj_preds = predictors(1)

    def construct(self, features):  # noqa: ANN001, ANN201, D102
        deltas, objectness, classes = [], [], []
        for i in range(3):
            x = self.stems[i](features[i])
            regions = self.reg_convs[i](x)
            deltas.append(ops.flatten(self.reg_preds[i](regions), start_dim=2))
            objectness.append(ops.flatten(self.obj_preds[i](regions), start_dim=2))
            labels = self.cls_preds[i](self.cls_convs[i](x))
            classes.append(ops.flatten(labels, start_dim=2))
        return (
            ops.transpose(ops.concat(deltas, 2), (0, 2, 1)),
            ops.transpose(ops.concat(objectness, 2), (0, 2, 1)),
            ops.transpose(ops.concat(classes, 2), (0, 2, 1)),
        )


class DetectionNetwork(nn.Cell):
    """Letterboxed floats (B, 3, H, W) in, (B, N, 4) boxes and (B, N, C) scores of all cells out.

    Args:
        config: the network's shape.
        classes: number of classes.
        sizes: (rows, columns) of levels 3 and 4.
        corners: (N, 2) of the cells, in strides.
        strides: (N,) of the cells, in pixels.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        classes: int,
        sizes: _Sizes,
        corners: FloatArray,
        strides: FloatArray,
    ) -> None:
        super().__init__()
        parts = Parts(config)
        self.backbone = Backbone(parts, config)
        if config.backbone == "darknet53":
            c = int(32 * config.width)
            self.neck = FPN(parts, (8 * c, 16 * c, 16 * c), sizes=sizes)
            levels = (4 * c, 8 * c, 16 * c)
        else:
            c = int(64 * config.width)
            levels = (4 * c, 8 * c, 16 * c)
            blocks = max(round(3 * config.depth), 1)
            self.neck = PAFPN(parts, levels, blocks=blocks, sizes=sizes)
        channels = int(256 * config.width)
        self.head = Head(parts, levels, channels=channels, classes=classes)
        self.corners = mindspore.Tensor(corners)
        self.strides = mindspore.Tensor(strides[:, None])

    def construct(self, images):  # noqa: ANN001, ANN201, D102
        deltas, objectness, classes = self.head(self.neck(self.backbone(images)))
        centers = (deltas[..., :2] + self.corners) * self.strides
        half = ops.exp(deltas[..., 2:]) * self.strides / 2
        boxes = ops.concat((centers - half, centers + half), -1)
        return boxes, ops.sigmoid(objectness) * ops.sigmoid(classes)


def load_arrays(network: nn.Cell, arrays: Mapping[str, FloatArray]) -> None:
    """Put weights into a network by name.

    Raises:
        ValueError: when names or shapes differ.
    """
    parameters = dict(network.parameters_and_names())
    if parameters.keys() != arrays.keys():
        raise ValueError(f"names differ: {sorted(parameters.keys() ^ arrays.keys())[:3]}")
    for name, parameter in parameters.items():
        if parameter.shape != arrays[name].shape:
            raise ValueError(f"{name}: expected {parameter.shape}, got {arrays[name].shape}")
        parameter.set_data(mindspore.Tensor(arrays[name]))
