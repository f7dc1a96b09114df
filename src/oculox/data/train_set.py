"""Training samples as a pure function of (seed, epoch, position)."""

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np

from oculox.config.schema import AugmentConfig, InputConfig
from oculox.data.coco import CocoIndex
from oculox.data.mosaic import (
    Mixup,
    blank,
    draw_mixup_plan,
    draw_tiles,
    mix_boxes,
    mix_image,
    plan_tiles,
    three_channels,
    tile_boxes,
)
from oculox.data.preprocess import (
    Letterbox,
    apply_letterbox,
    boxes_to_input,
    letterbox_geometry,
)
from oculox.data.transforms import (
    flip_boxes,
    flip_image,
    jitter_hsv,
    keep_boxes,
    random_affine,
    transform_boxes,
)
from oculox.errors import DataError
from oculox.types import FloatArray, ImageArray, IntArray, Sample

Images = Callable[[int, float], ImageArray]
"""Image of an index, and the scale it will be drawn at -> uint8 (H, W, 3) BGR, the file's own or a
smaller copy (never change it)."""

_MIXUP_DRAWS = 10
"""Draws of a second image with objects; without a bound an unlabelled set would hang."""

_STAND_INS = 10
"""Images tried in place of one that cannot be read; more in a row are no accident."""


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads the images of one sample; those that cannot be read are None, and noted."""

    images: Images
    faults: dict[int, str] = dataclasses.field(default_factory=dict)

    def __call__(self, i: int, scale: float = 1.0) -> ImageArray | None:
        try:
            return self.images(i, scale)
        except DataError as error:
            self.faults[i] = str(error)
            return None


@dataclasses.dataclass(frozen=True, eq=False)
class TrainSet:
    """Images and labels of a split, augmented as in the official recipe.

    First phase: mosaic (with probability `mosaic_prob`), then perhaps mixup; else the plain
    image. Then in both phases colour jitter, mirror, letterbox, and boxes of at most one pixel
    go. An image left without boxes stays, as background. A tile of a mosaic whose image cannot
    be read stays grey, mixup takes another image, and for a plain one the next stands in.

    Source: official `mosaicdetection.py` and `TrainTransform`.

    Attributes:
        index: the split.
        input_config: size of the samples, placement and grey of the letterbox.
        augment: probabilities and ranges.
        max_labels: most boxes kept in a sample.
        seed: of all randomness.
        images: reader of images, see `oculox.data.cache`.
    """

    index: CocoIndex
    _: dataclasses.KW_ONLY
    input_config: InputConfig
    augment: AugmentConfig
    max_labels: int
    seed: int
    images: Images

    def __len__(self) -> int:
        """Number of images."""
        return len(self.index)

    def sample(self, epoch: int, position: int, index: int, *, mosaic: bool) -> Sample:
        """One augmented, letterboxed sample.

        Args:
            epoch: number of the epoch.
            position: place in the epoch over all processes; with `epoch` and the seed it fixes
                all randomness.
            index: which image.
            mosaic: true in the first phase: mosaic and mixup are allowed.

        Raises:
            DataError: neither the image nor those after it can be read, or they have not the
                sizes that their annotations state.
        """
        rng = self._rng(epoch, position)
        fit: Letterbox | None = None
        read = _Reader(self.images)
        if mosaic and rng.random() < self.augment.mosaic_prob:
            image, boxes, labels = self._mosaic(*self._members(index, rng), rng, read)
            # The official code mixes only mosaics that have labels.
            if len(labels) and rng.random() < self.augment.mixup_prob:
                image, boxes, labels = self._mixup(image, boxes, labels, rng, read)
            width = self.input_config.size[1]
        else:
            index, image = self._first_readable(index, read)
            boxes, labels = self.index.boxes(index), self.index.labels(index)
            source_hw = self.index.source_hw(index)
            fit = letterbox_geometry(source_hw, self.input_config.size, self.input_config.placement)
            width = source_hw[1]
        if rng.random() < self.augment.hsv_prob:
            image = jitter_hsv(image, self.augment.hsv_gain, rng=rng)
        if rng.random() < self.augment.flip_prob:
            image, boxes = flip_image(image), flip_boxes(boxes, width=width)
        if fit is not None:
            image = apply_letterbox(image, fit, pad_value=self.input_config.pad_value)
            boxes = boxes_to_input(boxes, fit)
        boxes, labels = keep_boxes(boxes, labels, max_labels=self.max_labels)
        return Sample(
            image=image,
            boxes=boxes,
            labels=labels,
            image_id=self.index.image_id(index),
            source_hw=self.index.source_hw(index),
            faults=tuple(read.faults.values()),
        )

    def images_of(self, epoch: int, position: int, index: int, *, mosaic: bool) -> list[int]:
        """The images that `sample` reads in any case: all but that of mixup, and stand-ins."""
        rng = self._rng(epoch, position)
        if mosaic and rng.random() < self.augment.mosaic_prob:
            return self._members(index, rng)[0]
        return [index]

    def _rng(self, epoch: int, position: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence((self.seed, 1, epoch, position)))

    def _members(self, index: int, rng: np.random.Generator) -> tuple[list[int], tuple[int, int]]:
        """The four images of a mosaic, and its centre."""
        height, width = self.input_config.size
        center = (
            int(rng.uniform(0.5 * width, 1.5 * width)),
            int(rng.uniform(0.5 * height, 1.5 * height)),
        )
        return [index, *rng.integers(0, len(self.index), 3).tolist()], center

    def _first_readable(self, index: int, read: _Reader) -> tuple[int, ImageArray]:
        """An image, or the next one that can be read."""
        for ahead in range(min(_STAND_INS, len(self))):
            chosen = (index + ahead) % len(self)
            image = read(chosen)
            if image is not None:
                return chosen, image
        raise DataError(read.faults[index])

    def _objects(self, i: int, read: _Reader) -> tuple[FloatArray, IntArray]:
        """Boxes and labels of an image; none where it could not be read."""
        count = 0 if i in read.faults else None
        return self.index.boxes(i)[:count], self.index.labels(i)[:count]

    def _mosaic(
        self,
        members: list[int],
        center: tuple[int, int],
        rng: np.random.Generator,
        read: _Reader,
    ) -> tuple[ImageArray, FloatArray, IntArray]:
        """Four images around a random centre, through one random affine, into the input."""
        size_hw = self.input_config.size
        affine = random_affine(
            size_hw,
            degrees=self.augment.degrees,
            scale=self.augment.mosaic_scale,
            translate=self.augment.translate,
            shear=self.augment.shear,
            rng=rng,
        )
        tiles = plan_tiles([self.index.source_hw(i) for i in members], center, size_hw)
        image = blank(size_hw, self.input_config.pad_value)
        draw_tiles(image, tiles, affine, read=[partial(read, i) for i in members])
        parts = [
            tile_boxes(*self._objects(i, read), tile, size_hw)
            for i, tile in zip(members, tiles, strict=True)
        ]
        boxes, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        return three_channels(image), transform_boxes(boxes, affine, size_hw), labels

    def _mixup_scale(self, i: int, plan: Mixup) -> float:
        fit = letterbox_geometry(self.index.source_hw(i), self.input_config.size)
        return fit.scale * plan.jitter

    def _mixup(
        self,
        image: ImageArray,
        boxes: FloatArray,
        labels: IntArray,
        rng: np.random.Generator,
        read: _Reader,
    ) -> tuple[ImageArray, FloatArray, IntArray]:
        """Mix in one more image that has objects; unchanged where none turns up."""
        size_hw = self.input_config.size
        draws = rng.integers(0, len(self.index), _MIXUP_DRAWS).tolist()
        plan = draw_mixup_plan(size_hw, self.augment.mixup_scale, rng=rng)
        # Lazily: only the images up to the first good one are read.
        labelled = (i for i in draws if self.index.num_objects(i))
        images = ((i, read(i, self._mixup_scale(i, plan))) for i in labelled)
        other, other_image = next(((i, p) for i, p in images if p is not None), (0, None))
        if other_image is None:
            return image, boxes, labels
        other_hw = self.index.source_hw(other)
        mixed = mix_image(
            image,
            other_image,
            plan,
            other_hw=other_hw,
            pad_value=self.input_config.pad_value,
        )
        moved = mix_boxes(self.index.boxes(other), plan, other_hw=other_hw, size_hw=size_hw)
        return (
            mixed,
            np.concatenate((boxes, moved)),
            np.concatenate((labels, self.index.labels(other))),
        )
