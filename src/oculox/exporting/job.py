"""What is to be exported: the request, and the job that a converter gets."""

import dataclasses

import torch
from torch import Tensor

from oculox.addresses import Location
from oculox.data.image import ImageFile
from oculox.errors import UsageError
from oculox.exporting.graph import DetectionGraph, for_export
from oculox.models.yolox import YOLOX
from oculox.runtime.exported import ExportMetadata, ExportPrecision, InGraphNms
from oculox.version import __version__
from oculox.weights import Weights, build_network

DEFAULT_OPSET = 18
"""ONNX operator set written by default."""
DEFAULT_LICENSE = "Apache-2.0"
"""Of Oculox and of the official weights; weights trained by others have the license they say."""

MOST_IMAGES = 65536
"""Of a batch; a larger number is a slip, and too much for what converters count with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How to export.

    Attributes:
        format: one of `oculox.exporting.targets.TARGETS`.
        size_hw: input height and width; None for the size of the weights.
        dynamic_size: any multiple of the largest stride, with `size_hw` as the default.
        batch: the only batch size; None for any.
        precision: of weights and arithmetic; ``int8`` needs `calibration`.
        calibration: images, or a dataset whose training images are used.
        calibration_images: most images used of it.
        nms: NMS inside the file; None for outputs of every cell.
        preprocess: preprocessing inside the file.
        opset: of ONNX, for the formats that go through it.
        license: written into the file.
    """

    format: str
    size_hw: tuple[int, int] | None = None
    dynamic_size: bool = False
    batch: int | None = 1
    precision: ExportPrecision = "fp32"
    calibration: Location | None = None
    calibration_images: int = 300
    nms: InGraphNms | None = None
    preprocess: bool = False
    opset: int = DEFAULT_OPSET
    license: str = DEFAULT_LICENSE

    def __post_init__(self) -> None:
        """Check what no target can do."""
        if self.batch is not None and not 1 <= self.batch <= MOST_IMAGES:
            raise UsageError(
                f"batch must be at least 1 and at most {MOST_IMAGES}, got {self.batch}"
            )
        if self.precision == "int8" and self.calibration is None:
            raise UsageError(
                "int8 needs images to measure activations on; pass `calib`, a folder of "
                "images or a dataset"
            )
        if self.precision != "int8" and self.calibration is not None:
            raise UsageError("calibration images are for int8; set `precision` to int8 as well")
        if self.calibration_images < 1:
            raise UsageError(f"`calib_images` must be at least 1, got {self.calibration_images}")
        if self.preprocess and self.dynamic_size:
            raise UsageError(
                "with preprocessing inside, images of any size are taken already: the size of "
                "the network itself must be fixed"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What a converter works from.

    Attributes:
        network: in float32, as the weights have it.
        metadata: goes into the file.
        calibration: images for int8; none otherwise.
        opset: of ONNX.
    """

    network: YOLOX
    metadata: ExportMetadata
    calibration: tuple[ImageFile, ...]
    opset: int

    def graph(self, *, half: bool = False) -> DetectionGraph:
        """The network with its decoding, for one size where the size is fixed.

        Args:
            half: weights and arithmetic of the network in float16; the decoding stays in float32.
        """
        spec = self.metadata.spec
        return DetectionGraph(
            for_export(self.network, half=half),
            strides=spec.strides,
            size_hw=None if spec.dynamic_size else spec.input.size,
        ).eval()

    def example(self) -> Tensor:
        """Black images to convert with, float32 (B, 3, H, W), two where the batch is free.

        A batch of 1 would be taken for a constant.
        """
        return torch.zeros(self.metadata.spec.batch or 2, 3, *self.metadata.spec.input.size)

    def traced(self) -> torch.jit.ScriptModule:
        """The graph as TorchScript, traced with `example`."""
        with torch.inference_mode():
            return torch.jit.trace(  # type: ignore[no-any-return, no-untyped-call]
                self.graph(), (self.example(),), check_trace=False
            )


def make_job(
    weights: Weights, options: ExportOptions, *, calibration: tuple[ImageFile, ...] = ()
) -> Job:
    """Put a job together.

    Raises:
        UsageError: when the size is not a multiple of the largest stride.
        CheckpointError: when the weights do not fit their network.
    """
    size = weights.spec.check_size(options.size_hw)
    spec = dataclasses.replace(
        weights.spec,
        input=weights.spec.input.at(size),
        dynamic_size=options.dynamic_size,
        batch=options.batch,
    )
    metadata = ExportMetadata(
        spec=spec,
        format=options.format,
        precision=options.precision,
        nms=options.nms,
        preprocess=options.preprocess,
        oculox=__version__,
        license=options.license,
    )
    return Job(
        network=build_network(weights),
        metadata=metadata,
        calibration=calibration,
        opset=options.opset,
    )
