"""The one network that every target converts: images in, boxes and scores of all cells out."""

import copy

import torch
from torch import Tensor, nn

from oculox.models.layers import ConvBNAct, Focus
from oculox.models.yolox import YOLOX
from oculox.ops.boxes import cxcywh_to_xyxy
from oculox.ops.points import Cells, decode_boxes, level_sizes_of, make_cells
from oculox.runtime.torch_backend import fuse


class DetectionGraph(nn.Module):
    """A fused network with its decoding, written for converters.

    Decoding is always in float32, at any precision of the network. Boxes and scores are
    separate outputs: pixels go up to a thousand and probabilities up to one, so the scale of a
    quantised tensor of both would round the scores away.

    Args:
        network: folded and fused by `for_export`.
        size_hw: the fixed input size, whose cells become constants; None for any size.
    """

    corners: Tensor
    cell_strides: Tensor

    def __init__(
        self, network: nn.Module, *, strides: tuple[int, ...], size_hw: tuple[int, int] | None
    ) -> None:
        super().__init__()
        self.network = network
        self.strides = strides
        self.static = size_hw is not None
        if size_hw is not None:
            cells = make_cells(level_sizes_of(*size_hw, strides), strides)
            self.register_buffer("corners", cells.corners, persistent=False)
            self.register_buffer("cell_strides", cells.strides, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Letterboxed floats in, predictions of all cells out.

        Args:
            images: float32 (B, 3, H, W), in the colours and pixel range of the weights.

        Returns:
            boxes: float32 (B, N, 4), xyxy pixels of the input, not clipped.
            scores: float32 (B, N, C), objectness times class probability.
        """
        weight = next(self.network.parameters())
        raw = self.network(images.to(weight.dtype))
        if self.static:
            cells = Cells(self.corners, self.cell_strides)
        else:
            cells = make_cells(raw.level_sizes, self.strides, device=images.device)
        boxes = cxcywh_to_xyxy(decode_boxes(raw.deltas.float(), cells))
        objectness = raw.objectness.float().sigmoid()
        return boxes, objectness[..., None] * raw.classes.float().sigmoid()


def for_export(network: YOLOX, *, half: bool = False) -> nn.Module:
    """A copy in evaluation mode: batch norms folded, the focus a plain convolution.

    Args:
        network: not modified.
        half: weights and arithmetic in float16.
    """
    folded = fuse(network)
    stem = getattr(folded.backbone, "stem", None)
    if isinstance(stem, Focus):
        folded.backbone.stem = fold_focus(stem)
    for module in folded.modules():
        if isinstance(module, nn.SiLU | nn.ReLU | nn.LeakyReLU):
            module.inplace = False  # converters prefer values to mutation
    folded.requires_grad_(requires_grad=False)
    return folded.half() if half else folded


def fold_focus(focus: Focus) -> nn.Sequential:
    """The same function as one convolution of 6x6 pixels and stride 2.

    Every second pixel in four shifts, then 3x3 over 12 channels, reads exactly the 6x6 pixels
    around: the weight of shift (dy, dx) and kernel position (i, j) belongs to pixel
    (2i + dy, 2j + dx). Strided slices are slow or unknown in many runtimes, and this one
    convolution replaces four of them and a concatenation.

    Args:
        focus: with its batch norm folded; not modified.
    """
    block: ConvBNAct = focus.conv
    old = block.conv
    outputs, channels = old.out_channels, old.in_channels // 4
    new = nn.Conv2d(channels, outputs, 6, stride=2, padding=2, bias=old.bias is not None)
    weight = torch.zeros_like(new.weight)
    # The order of the corners is that of `Focus.forward`.
    for k, (dy, dx) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
        weight[:, :, dy::2, dx::2] = old.weight.detach()[:, k * channels : (k + 1) * channels]
    new.weight = nn.Parameter(weight)
    if old.bias is not None:
        new.bias = nn.Parameter(old.bias.detach().clone())
    return nn.Sequential(new, copy.deepcopy(block.bn), copy.deepcopy(block.act)).eval()
