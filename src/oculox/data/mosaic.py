"""Mosaic and mixup, drawn with one interpolation for each source image.

The official process (`mosaicdetection.py`) resizes four images, pastes them into a canvas of
twice the input's size and warps that into the input; mixup resizes one more image twice. Here
the same geometry is composed first, then every image is warped straight from its own pixels
into the output: no double-size canvas, one interpolation instead of two, and images that would
fall outside the output are not even read.

Outputs have a fourth channel, which means nothing: OpenCV warps four channels about twice as fast
as three.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from oculox.data.preprocess import clip_boxes, letterbox_geometry
from oculox.data.transforms import Matrix, flip_boxes, keep_boxes
from oculox.types import FloatArray, ImageArray, IntArray


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One image's place in the virtual canvas, which is twice the input in height and width.

    Attributes:
        scale: resized pixels for each source pixel.
        inner_hw: size of the resized image.
        shift_xy: where its top-left pixel lies in the canvas; negative where it is cut off.
        window: the part inside the canvas, xyxy in pixels of the resized image.
    """

    scale: float
    inner_hw: tuple[int, int]
    shift_xy: tuple[int, int]
    window: tuple[int, int, int, int]


def plan_tiles(
    sources_hw: Sequence[tuple[int, int]], center_xy: tuple[int, int], size_hw: tuple[int, int]
) -> tuple[Tile, ...]:
    """Place four images around a centre of the virtual canvas.

    They go top left, top right, bottom left and bottom right, each with one corner at the centre.

    Args:
        sources_hw: sizes of the four images.
        center_xy: where they meet, in canvas pixels.
        size_hw: size of the input; the canvas is twice that.
    """
    tiles = []
    (x, y), (canvas_h, canvas_w) = center_xy, (2 * size_hw[0], 2 * size_hw[1])
    for i, source_hw in enumerate(sources_hw):
        fit = letterbox_geometry(source_hw, size_hw)
        height, width = fit.inner_hw
        left = x if i % 2 else x - width
        top = y if i >= 2 else y - height
        window = (
            max(0, -left),
            max(0, -top),
            min(width, canvas_w - left),
            min(height, canvas_h - top),
        )
        tiles.append(
            Tile(scale=fit.scale, inner_hw=fit.inner_hw, shift_xy=(left, top), window=window)
        )
    return tuple(tiles)


def tile_boxes(
    boxes: FloatArray, labels: IntArray, tile: Tile, size_hw: tuple[int, int]
) -> tuple[FloatArray, IntArray]:
    """The part of a source image's boxes that lies in the canvas, and their labels.

    Objects outside the canvas are left out here: clipped, they would be lines on its edge, to
    which a rotation gives an area again.

    Args:
        boxes: (n, 4) xyxy, in pixels of the source image.
        labels: (n,).
        tile: place of the image.
        size_hw: size of the input; the canvas is twice that.

    Returns:
        (m, 4) xyxy in canvas pixels, each with an area, and (m,), in the same order.
    """
    moved = boxes * np.float32(tile.scale) + np.array(tile.shift_xy * 2, np.float32)
    clipped = clip_boxes(moved, (2 * size_hw[0], 2 * size_hw[1]))
    return keep_boxes(clipped, labels, min_side=0)


def draw_tiles(
    out: ImageArray,
    tiles: Sequence[Tile],
    affine: Matrix,
    *,
    read: Sequence[Callable[[float], ImageArray | None]],
) -> None:
    """Warp the visible tiles into an output; `out` is written in place.

    Args:
        out: (H, W, 4), from `blank`.
        tiles: from `plan_tiles`.
        affine: canvas pixels -> output pixels.
        read: one reader for each tile, called with output pixels for each of its own, only where
            the tile can be seen; None leaves the tile as it is.
    """
    zoom = math.sqrt(abs(np.linalg.det(affine[:, :2])))
    for tile, reader in zip(tiles, read, strict=True):
        x1, y1, x2, y2 = tile.window
        left, top = tile.shift_xy
        if _covered((left + x1, top + y1, left + x2, top + y2), affine, out.shape[:2]) is None:
            continue
        source = reader(tile.scale * zoom)
        if source is None:
            continue
        image = _fine_enough(source, tile.inner_hw, zoom)
        placed = _resize_matrix(image.shape[:2], tile.inner_hw, shift_xy=tile.shift_xy)
        ratio_y, ratio_x = (a / b for a, b in zip(image.shape[:2], tile.inner_hw, strict=True))
        window = x1 * ratio_x, y1 * ratio_y, x2 * ratio_x, y2 * ratio_y
        warp_into(out, image, _chain(affine, placed), window=window)


def blank(size_hw: tuple[int, int], pad_value: int) -> ImageArray:
    """An output (H, W, 4) of one grey, to draw images into."""
    return np.full((*size_hw, 4), pad_value, np.uint8)


def three_channels(image: ImageArray) -> ImageArray:
    """The image (H, W, 3) of an output (H, W, 4)."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGRA2BGR), np.uint8)


def warp_into(
    out: ImageArray, image: ImageArray, matrix: Matrix, *, window: Sequence[float] | None = None
) -> None:
    """Draw a window of an image into an output through an affine; `out` is written in place.

    Args:
        out: (H, W, 4); pixels that the window does not cover stay as they are.
        image: (h, w, 3).
        matrix: pixels of `image` -> pixels of `out`, in pixel centres.
        window: xyxy, part of `image` to draw; None for all of it.
    """
    height, width = image.shape[:2]
    low_x, low_y, high_x, high_y = window or (0, 0, width, height)
    # Only source pixels that reach the output matter: the output's outline, taken back.
    back = np.asarray(cv2.invertAffineTransform(matrix), np.float64)
    x1, y1, x2, y2 = _bounds((-1, -1, out.shape[1], out.shape[0]), back)
    left = max(0, math.floor(low_x), math.floor(x1) - 1)
    top = max(0, math.floor(low_y), math.floor(y1) - 1)
    right = min(width, math.ceil(high_x), math.ceil(x2) + 2)
    bottom = min(height, math.ceil(high_y), math.ceil(y2) + 2)
    if right <= left or bottom <= top:
        return
    covered = _covered((left - 1, top - 1, right, bottom), matrix, out.shape[:2])
    if covered is None:
        return
    out_x1, out_y1, out_x2, out_y2 = covered
    local = matrix.copy()
    local[:, 2] += matrix[:, :2] @ (left - 1, top - 1) - (out_x1, out_y1)
    cv2.warpAffine(
        _with_border(image[top:bottom, left:right]),
        local,
        (out_x2 - out_x1, out_y2 - out_y1),
        dst=out[out_y1:out_y2, out_x1:out_x2],
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_TRANSPARENT,
    )


def _with_border(image: ImageArray) -> ImageArray:
    """A copy (h + 2, w + 2, 4) with one more row and column on each side, which repeat the last.

    OpenCV leaves untouched every pixel whose four neighbours are not all in the image; the border
    lets tiles meet without a grey seam.
    """
    height, width = image.shape[:2]
    copy = np.empty((height + 2, width + 2, 4), np.uint8)
    cv2.cvtColor(image, cv2.COLOR_BGR2BGRA, dst=copy[1:-1, 1:-1])
    copy[1:-1, 0], copy[1:-1, -1] = copy[1:-1, 1], copy[1:-1, -2]
    copy[0], copy[-1] = copy[1], copy[-2]
    return copy


@dataclass(frozen=True, kw_only=True)
class Mixup:
    """How a second image is laid over a mosaic.

    Attributes:
        jitter: scale on top of the letterbox.
        flip: mirrored or not.
        offset_xy: crop of the jittered image where it is larger than the output.
        canvas_hw: size of the jittered letterbox.
    """

    jitter: float
    flip: bool
    offset_xy: tuple[int, int]
    canvas_hw: tuple[int, int]


def draw_mixup_plan(
    size_hw: tuple[int, int], scale: tuple[float, float], *, rng: np.random.Generator
) -> Mixup:
    """Draw the jitter (uniform over `scale`), the flip (one half) and the crop."""
    jitter = rng.uniform(*scale)
    flip = bool(rng.random() > 0.5)
    height, width = (max(1, int(side * jitter)) for side in size_hw)
    y, x = (
        int(rng.integers(0, side - full)) if side > full else 0
        for side, full in ((height, size_hw[0]), (width, size_hw[1]))
    )
    return Mixup(jitter=jitter, flip=flip, offset_xy=(x, y), canvas_hw=(height, width))


def mix_image(
    image: ImageArray, other: ImageArray, plan: Mixup, *, other_hw: tuple[int, int], pad_value: int
) -> ImageArray:
    """The mean of an image and a jittered other one.

    Args:
        image: (H, W, 3).
        other: (h, w, 3), the second image, or a smaller copy of it.
        plan: from `draw_mixup_plan`, for an output of H x W.
        other_hw: size of the second image's file.
        pad_value: grey of the letterbox; beyond the jittered letterbox it is black (official).
    """
    size_hw = image.shape[0], image.shape[1]
    (x, y), (canvas_h, canvas_w) = plan.offset_xy, plan.canvas_hw
    inner_hw = letterbox_geometry(other_hw, size_hw).inner_hw
    fy, fx = (
        max(inner * canvas / (full * side), 1 / side)
        for inner, canvas, full, side in zip(
            inner_hw, plan.canvas_hw, size_hw, other.shape, strict=False
        )
    )
    # Columns that are seen, before the image is mirrored; the rows are those from y on.
    last_x = canvas_w - x if plan.flip else x + size_hw[1]
    first_x, last_y = max(0, last_x - size_hw[1]), y + size_hw[0]
    # With factors in place of a size OpenCV does not stretch the image to whole pixels.
    resized = cv2.resize(
        other[: math.ceil(last_y / fy) + 1, : math.ceil(last_x / fx) + 1], None, fx=fx, fy=fy
    )
    seen = resized[y:last_y, first_x:last_x]
    left = max(0, last_x - resized.shape[1]) if plan.flip else 0
    layer = np.zeros_like(image)
    layer[: max(0, canvas_h - y), : max(0, canvas_w - x)] = pad_value
    if seen.size:  # the crop may show padding alone
        shown = cv2.flip(seen, 1) if plan.flip else seen
        layer[: seen.shape[0], left : left + seen.shape[1]] = shown
    return np.asarray(cv2.addWeighted(image, 0.5, layer, 0.5, 0, dst=layer), np.uint8)


def mix_boxes(
    boxes: FloatArray, plan: Mixup, *, other_hw: tuple[int, int], size_hw: tuple[int, int]
) -> FloatArray:
    """Boxes (n, 4) of the second image in output pixels, clipped to the output."""
    fit = letterbox_geometry(other_hw, size_hw)
    moved = clip_boxes(boxes * np.float32(fit.scale * plan.jitter), plan.canvas_hw)
    if plan.flip:
        moved = flip_boxes(moved, width=plan.canvas_hw[1])
    return clip_boxes(moved - np.array(plan.offset_xy * 2, np.float32), size_hw)


def _fine_enough(image: ImageArray, inner_hw: tuple[int, int], zoom: float) -> ImageArray:
    """The image, enlarged to its letterbox first where it is tiny.

    The border that `warp_into` repeats reaches half a source pixel past the image, which shows
    where a source pixel becomes many.
    """
    enough = min(zoom, 1) / 2
    if all(side >= full * enough for side, full in zip(image.shape[:2], inner_hw, strict=True)):
        return image
    return np.asarray(cv2.resize(image, inner_hw[::-1], interpolation=cv2.INTER_LINEAR))


def _resize_matrix(
    from_hw: Sequence[int], to_hw: Sequence[int], *, shift_xy: tuple[int, int] = (0, 0)
) -> Matrix:
    """Where `cv2.resize` puts pixel centres: both images' outlines coincide."""
    sy, sx = to_hw[0] / from_hw[0], to_hw[1] / from_hw[1]
    x, y = shift_xy
    return np.array([[sx, 0, sx / 2 - 0.5 + x], [0, sy, sy / 2 - 0.5 + y]])


def _chain(second: Matrix, first: Matrix) -> Matrix:
    """The affine that applies `first`, then `second`."""
    matrix: Matrix = second[:, :2] @ first
    matrix[:, 2] += second[:, 2]
    return matrix


def _bounds(box: Sequence[float], matrix: Matrix) -> tuple[float, float, float, float]:
    """The upright box (xyxy) around a moved one; without NumPy, whose calls cost more than this."""
    x1, y1, x2, y2 = box
    (a, b, x), (c, d, y) = matrix.tolist()
    xs, ys = sorted((a * x1, a * x2)), sorted((c * x1, c * x2))
    more_xs, more_ys = sorted((b * y1, b * y2)), sorted((d * y1, d * y2))
    return (
        *(xs[0] + more_xs[0] + x, ys[0] + more_ys[0] + y),
        *(xs[1] + more_xs[1] + x, ys[1] + more_ys[1] + y),
    )


def _covered(
    box: Sequence[float], matrix: Matrix, size_hw: Sequence[int]
) -> tuple[int, int, int, int] | None:
    """Whole output pixels (xyxy) around a moved box; None where it misses the output."""
    low_x, low_y, high_x, high_y = _bounds(box, matrix)
    x1, y1 = max(math.floor(low_x), 0), max(math.floor(low_y), 0)
    x2, y2 = min(math.ceil(high_x) + 1, size_hw[1]), min(math.ceil(high_y) + 1, size_hw[0])
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
