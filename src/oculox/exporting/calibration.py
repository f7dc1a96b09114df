"""Images that show a quantiser which activations to expect."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from oculox.config.schema import DataConfig, InputConfig
from oculox.data.coco import load_split
from oculox.data.image import IMAGE_SUFFIXES, read_image
from oculox.data.preprocess import preprocess, to_floats
from oculox.errors import DataError
from oculox.types import FloatArray


def load_calibration(source: Path, input_config: InputConfig, *, limit: int) -> FloatArray:
    """Read images and make network inputs of them.

    Args:
        source: a dataset in COCO layout, whose training images are used, or a folder of
            images.
        input_config: of the network.
        limit: most images, spread evenly over all there are.

    Returns:
        float32 (n, 3, H, W).

    Raises:
        DataError: when there is no image, or one cannot be read.
    """
    paths = _images(source)
    if not paths:
        raise DataError(
            f"{source}: no images to calibrate on (looked for a dataset in COCO layout and for "
            f"{' '.join(sorted(IMAGE_SUFFIXES))})"
        )
    chosen = np.linspace(0, len(paths) - 1, min(limit, len(paths))).astype(int)
    # One at a time: all of them decoded at their own size would not fit into memory.
    batches = (preprocess([read_image(paths[i])], input_config)[0] for i in chosen)
    return np.concatenate([to_floats(batch, input_config).numpy() for batch in batches])


def _images(source: Path) -> list[Path]:
    if not source.is_dir():
        raise DataError(f"{source}: no such folder of images or dataset")
    if (source / "annotations").is_dir():
        index = load_split(DataConfig(root=source), "train")
        return [index.image_path(i) for i in range(len(index))]
    return sorted(p for p in source.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
