"""The values that flow between the parts of Oculox, and the legend of shapes.

Legend used in every docstring and in shape-suffixed names:

- ``B`` images in a batch, ``H``/``W`` height and width in pixels, ``C`` classes
- ``N`` prediction cells of an input: all cells of strides 8, 16, 32, in that order, row-major
- ``M`` label slots an image (padded), ``K`` candidate cells an image, ``D`` detections

Boxes are float32 ``xyxy`` pixels everywhere outside `oculox.ops` and `oculox.losses`.
"""

from oculox.types.arrays import (
    FloatArray,
    ImageArray,
    ImageId,
    ImageSize,
    IntArray,
    Progress,
    counted,
    height_width,
)
from oculox.types.batches import (
    Batch,
    DecodedPredictions,
    LossTerms,
    RawPredictions,
    Sample,
    Targets,
)
from oculox.types.detections import Detection, Detections
from oculox.types.spec import ModelSpec

__all__ = [
    "Batch",
    "DecodedPredictions",
    "Detection",
    "Detections",
    "FloatArray",
    "ImageArray",
    "ImageId",
    "ImageSize",
    "IntArray",
    "LossTerms",
    "ModelSpec",
    "Progress",
    "RawPredictions",
    "Sample",
    "Targets",
    "counted",
    "height_width",
]
