"""Images that show a quantiser which activations to expect."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from oculox.addresses import Address, Location, list_files
from oculox.data.image import IMAGE_SUFFIXES, ImageFile, read_image
from oculox.data.preprocess import preprocess, to_floats
from oculox.datasets.splits import open_split, recognise
from oculox.errors import DataError
from oculox.exporting.job import Job
from oculox.runtime.exported import Array


def find_calibration(source: Location, *, limit: int) -> tuple[ImageFile, ...]:
    """The images to calibrate on, spread evenly over all there are.

    Args:
        source: a dataset in any format that is read, whose training images are used, or a folder of
            images.
        limit: most images.

    Raises:
        DataError: when there is no image.
    """
    paths = _images(source)
    if not paths:
        raise DataError(
            f"{source}: no images to calibrate on (looked for a dataset and for "
            f"{' '.join(sorted(IMAGE_SUFFIXES))})"
        )
    chosen = np.linspace(0, len(paths) - 1, min(limit, len(paths))).astype(int)
    return tuple(paths[i] for i in chosen)


@dataclasses.dataclass(frozen=True)
class CalibrationFeeds:
    """A job's calibration images as the file's own input, read one batch at a time.

    Iterating again reads them again: at 640 pixels 300 images are 1.5 GB of floats. A fixed batch
    is filled up by starting again at the first image. Files with the letterbox inside take bytes;
    letterboxed ones pass their letterbox unchanged.

    Raises:
        DataError: while iterating, when an image cannot be read.
    """

    job: Job

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.job.calibration) // self._batch)

    def __iter__(self) -> Iterator[Array]:
        """Float32 (B, 3, H, W); uint8 (B, H, W, 3), BGR, with the letterbox inside."""
        metadata, paths = self.job.metadata, self.job.calibration
        for start in range(0, len(self) * self._batch, self._batch):
            rows = [(start + i) % len(paths) for i in range(self._batch)]
            images, _ = preprocess(
                [read_image(paths[row]) for row in rows], metadata.fed_spec.input
            )
            if metadata.preprocess:
                yield np.ascontiguousarray(images.transpose(0, 2, 3, 1))
            else:
                yield to_floats(images, metadata.spec.input).contiguous().numpy()

    @property
    def _batch(self) -> int:
        return self.job.metadata.spec.batch or 1


def _images(source: Location) -> Sequence[ImageFile]:
    if recognise(source) is not None:
        index = open_split(source, "train")
        return [index.image_file(i) for i in range(len(index))]
    if not source.is_dir():
        raise DataError(f"{source}: no such folder of images or dataset")
    found: Iterable[Location] = (
        (file.address for file in list_files(source))
        if isinstance(source, Address)
        else source.iterdir()
    )
    return sorted((p for p in found if p.suffix.lower() in IMAGE_SUFFIXES), key=str)
