"""Whole scenes of the demo dataset: backgrounds, clutter, objects, shadows and light."""

import dataclasses

import cv2
import numpy as np
import numpy.typing as npt

from oculox.datasets.demo.shapes import KINDS, Color, Light, Rng, hsv, make_frame
from oculox.types import FloatArray, ImageArray, IntArray

LEAST_VISIBLE = 0.3
"""An object keeps at least this share of its pixels in view, or it is not placed."""
BACKGROUND_SHARE = 0.05
"""Share of scenes without an object."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """A rendered image and what is to be found in it.

    Attributes:
        image: uint8 (H, W, 3), BGR.
        boxes: float32 (n, 4), xyxy pixels around what is visible of each object.
        labels: int64 (n,), index into `KINDS`.
        areas: int64 (n,), visible pixels of each object.
    """

    image: ImageArray
    boxes: FloatArray
    labels: IntArray
    areas: IntArray


def noise(rng: Rng, hw: tuple[int, int], *, cells: tuple[int, int], octaves: int = 3) -> FloatArray:
    """Smooth noise (H, W), about -1..1; `cells` (rows, columns) is its coarsest grid."""
    total = np.zeros(hw, np.float32)
    for octave in range(octaves):
        grid = (min(cells[0] << octave, hw[0]), min(cells[1] << octave, hw[1]))
        field = rng.uniform(-1, 1, grid).astype(np.float32)
        total += cv2.resize(field, hw[::-1], interpolation=cv2.INTER_CUBIC) / 2**octave
    return np.asarray(total / 1.5, np.float32)


def _tint(color: Color, gain: FloatArray) -> FloatArray:
    return np.asarray(np.asarray(color, np.float32) * gain[..., None], np.float32)


def _planks(rng: Rng, hw: tuple[int, int]) -> FloatArray:
    upright = rng.uniform() < 0.4
    rows, columns = hw[::-1] if upright else hw
    board = int(rows / rng.uniform(3.2, 6.5))
    index = np.arange(rows) // board
    tone = rng.uniform(0.82, 1.12, index.max() + 1).astype(np.float32)[index]
    grain = noise(rng, (rows, columns), cells=(rows // 4, 3), octaves=2)
    gain = tone[:, None] * (1 + 0.12 * grain)
    gain[np.arange(rows) % board < max(1, rows // 160)] *= 0.55
    wood = hsv(rng.uniform(0.06, 0.1), rng.uniform(0.3, 0.6), rng.uniform(0.45, 0.85))
    return _tint(wood, np.ascontiguousarray(gain.T) if upright else gain)


def _tiles(rng: Rng, hw: tuple[int, int]) -> FloatArray:
    side = int(hw[0] / rng.uniform(3, 7))
    y, x = np.mgrid[: hw[0], : hw[1]]
    y, x = y + int(rng.integers(side)), x + int(rng.integers(side))
    tone = rng.uniform(0.88, 1.1, (int(y.max()) // side + 1, int(x.max()) // side + 1))
    gain = tone[y // side, x // side] + 0.05 * noise(rng, hw, cells=(6, 8))
    if rng.uniform() < 0.5:
        gain = gain * np.where((y // side + x // side) % 2, 0.72, 1)
    grout = max(1, hw[0] // 110)
    gain = np.where((y % side < grout) | (x % side < grout), 0.6, gain)
    color = hsv(rng.uniform(), rng.uniform(0.05, 0.35), rng.uniform(0.55, 0.9))
    return _tint(color, gain.astype(np.float32))


def _meadow(rng: Rng, hw: tuple[int, int]) -> FloatArray:
    height, width = hw
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    clouds = np.clip(noise(rng, hw, cells=(3, 4), octaves=4) * 0.9, 0, 1)[..., None]
    high = np.asarray(hsv(0.58, 0.55, 0.85), np.float32)
    low = np.asarray(hsv(0.56, 0.15, 0.97), np.float32)
    sky = (high * (1 - y) + low * y)[:, None, :].reshape(height, 1, 3)
    sky = sky * (1 - clouds) + np.float32(0.97) * clouds
    hill = rng.uniform(0.25, 0.55) + 0.05 * np.sin(
        np.linspace(0, rng.uniform(2, 7), width) + rng.uniform(0, 6)
    )
    blades = noise(rng, hw, cells=(height // 5, width // 2), octaves=1)
    patches = noise(rng, hw, cells=(4, 5))
    gain = (0.85 + 0.14 * blades + 0.14 * patches + 0.25 * (y - 0.5)).astype(np.float32)
    grass = _tint(hsv(rng.uniform(0.2, 0.33), rng.uniform(0.4, 0.7), 0.62), gain)
    ground = np.clip((y - hill[None]) * height / 2 + 0.5, 0, 1).astype(np.float32)[..., None]
    return np.asarray(sky * (1 - ground) + grass * ground, np.float32)


def _cloth(rng: Rng, hw: tuple[int, int]) -> FloatArray:
    y, x = np.mgrid[: hw[0], : hw[1]].astype(np.float32) / hw[0]
    turn = rng.uniform(0, np.pi)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    first, second = rng.uniform(15, 60, 2)
    stripes = 0.5 * np.tanh(3 * np.sin(first * along)) + 0.5 * np.tanh(3 * np.sin(second * across))
    weave = rng.normal(0, 0.05, hw)
    folds = noise(rng, hw, cells=(2, 3), octaves=2)
    gain = 0.9 + rng.uniform(0.03, 0.16) * stripes + weave + 0.12 * folds
    color = hsv(rng.uniform(), rng.uniform(0.1, 0.55), rng.uniform(0.5, 0.9))
    return _tint(color, gain.astype(np.float32))


def _plaster(rng: Rng, hw: tuple[int, int]) -> FloatArray:
    y, x = np.mgrid[: hw[0], : hw[1]].astype(np.float32) / hw[0]
    slope = rng.uniform(-0.3, 0.3, 2)
    gain = 0.9 + slope[0] * (y - 0.5) + slope[1] * (x - 0.6)
    gain = gain + 0.14 * noise(rng, hw, cells=(4, 5), octaves=5) + rng.normal(0, 0.02, hw)
    color = hsv(rng.uniform(), rng.uniform(0.03, 0.4), rng.uniform(0.4, 0.95))
    return _tint(color, gain.astype(np.float32))


_CORNERS = np.array(((-1, -1), (1, -1), (1, 1), (-1, 1)))
_BACKGROUNDS = (_planks, _tiles, _meadow, _cloth, _plaster)


def _scatter(canvas: FloatArray, rng: Rng) -> FloatArray:
    """Pebbles, sticks and scraps of paper on the background: things that are not labelled."""
    height, width = canvas.shape[:2]
    canvas = canvas.copy()
    for _ in range(int(rng.integers(2, 9))):
        center = rng.uniform((0, 0), (width, height))
        size = height * rng.uniform(0.015, 0.055)
        what = rng.integers(3)
        if what == 0:
            angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
            radius = size * rng.uniform(0.7, 1.1, 14)
            outline = np.stack((np.cos(angles), 0.75 * np.sin(angles)), 1) * radius[:, None]
            color = hsv(0.1, rng.uniform(0, 0.2), rng.uniform(0.3, 0.8))
        elif what == 1:
            turn = rng.uniform(0, np.pi)
            way = np.array((np.cos(turn), np.sin(turn)))
            side = np.array((-way[1], way[0])) * size * 0.14
            outline = _CORNERS[:, :1] * way * 2 * size + _CORNERS[:, 1:] * side
            color = hsv(0.08, rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.7))
        else:
            outline = _CORNERS * size + rng.uniform(-0.6, 0.6, (4, 2)) * size
            color = hsv(rng.uniform(), rng.uniform(0, 0.6), rng.uniform(0.6, 1))
        _blot(canvas, outline + center, color, shift=size * 0.18)
    return canvas


def _blot(
    canvas: FloatArray, outline: npt.NDArray[np.float64], color: Color, *, shift: float
) -> None:
    """Fill an outline (in place, on a canvas of the caller's own) over a soft shadow."""
    mask, shadow = np.zeros((2, *canvas.shape[:2]), np.uint8)
    cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    cv2.fillPoly(shadow, [np.round((outline + shift) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    shadow = cv2.GaussianBlur(shadow, (0, 0), max(0.6, shift))
    # Only where it changes something: most outlines are small.
    left, top, width, height = cv2.boundingRect(mask | shadow)
    part = np.s_[top : top + height, left : left + width]
    canvas[part] *= 1 - 0.4 * shadow[part][..., None].astype(np.float32) / 255
    weight = mask[part][..., None].astype(np.float32) / 255
    canvas[part] *= 1 - weight
    canvas[part] += weight * np.asarray(color, np.float32)


class _Stage:
    """A canvas and the visible masks of the objects on it, nearest last."""

    def __init__(self, canvas: FloatArray) -> None:
        self.canvas = canvas
        self.masks: list[npt.NDArray[np.bool_]] = []
        self.totals: list[int] = []
        self.labels: list[int] = []

    def place(self, rng: Rng, label: int, light: Light) -> bool:
        """Try to put an object of a class somewhere; false when it would hide too much."""
        height, width = self.canvas.shape[:2]
        size = int(height * np.exp(rng.uniform(np.log(0.21), np.log(0.56))))
        tilt = np.radians(rng.uniform(-1, 1) * KINDS[label].tilt)
        frame = make_frame(size, angle=float(tilt), flip=bool(rng.uniform() < 0.5))
        sketch = KINDS[label].paint(frame, rng, light)
        margin = size // 4
        left = int(rng.integers(-margin, width - size + margin + 1))
        top = int(rng.integers(-margin, height - size + margin + 1))
        inside = (
            slice(max(0, top), min(height, top + size)),
            slice(max(0, left), min(width, left + size)),
        )
        part = (
            slice(inside[0].start - top, inside[0].stop - top),
            slice(inside[1].start - left, inside[1].stop - left),
        )
        mask = np.zeros((height, width), np.bool_)
        mask[inside] = sketch.alpha[part] > 0.5
        total = int((sketch.alpha > 0.5).sum())
        rest = [m & ~mask for m in self.masks]
        shown = zip([*rest, mask], [*self.totals, total], strict=True)
        if any(m.sum() < LEAST_VISIBLE * t for m, t in shown):
            return False
        if rng.uniform() < 0.7 and any((m & mask).any() for m in self.masks):
            return False
        self._paint(sketch.color[part], sketch.alpha[part], inside, light=light, size=size)
        self.masks = [*rest, mask]
        self.totals.append(total)
        self.labels.append(label)
        return True

    def _paint(
        self,
        color: FloatArray,
        alpha: FloatArray,
        where: tuple[slice, slice],
        *,
        light: Light,
        size: int,
    ) -> None:
        shade: FloatArray = np.zeros(self.canvas.shape[:2], np.float32)
        shade[where] = alpha
        reach = 0.07 * size
        shift = np.asarray(
            [[1, 0, -light[0] * reach], [0, 1, reach * max(0.4, -light[1])]], np.float32
        )
        moved = cv2.warpAffine(shade, shift, shade.shape[::-1])
        soft = cv2.GaussianBlur(moved, (0, 0), max(1.0, 0.035 * size))
        self.canvas *= 1 - 0.45 * soft[..., None].astype(np.float32)
        weight = alpha[..., None]
        self.canvas[where] = self.canvas[where] * (1 - weight) + color * weight


def _expose(canvas: FloatArray, rng: Rng, light: Light) -> ImageArray:
    """Light that falls off over the image, exposure, white balance, blur and sensor noise."""
    height, width = canvas.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    toward = (x / width - 0.5) * light[0] + (y / height - 0.5) * light[1]
    corner = (x / width - 0.5) ** 2 + (y / height - 0.5) ** 2
    gain = rng.uniform(0.82, 1.22) * (1 + 0.4 * toward - rng.uniform(0, 0.5) * corner)
    warmth = rng.uniform(-0.07, 0.07)
    balance = np.asarray((1 - warmth, 1, 1 + warmth), np.float32)
    lit = np.clip(canvas * gain[..., None] * balance, 0, 1) ** np.float32(rng.uniform(0.85, 1.2))
    if rng.uniform() < 0.2:
        lit = cv2.GaussianBlur(lit, (0, 0), height / 240 * rng.uniform(0.4, 1.0))
    lit = lit + rng.normal(0, rng.uniform(0.004, 0.025), (height, width, 1))
    return np.asarray(np.clip(lit * 255 + 0.5, 0, 255), np.uint8)


def render_scene(rng: Rng, hw: tuple[int, int]) -> Scene:
    """Render one scene of `hw` (height, width) pixels; everything random comes from `rng`."""
    turn = rng.uniform(0.15, 0.85) * np.pi
    light = (0.68 * float(np.cos(turn)), -0.68 * float(np.sin(turn)), 0.73)
    background = _BACKGROUNDS[int(rng.integers(len(_BACKGROUNDS)))](rng, hw)
    stage = _Stage(_scatter(background, rng))
    if rng.uniform() >= BACKGROUND_SHARE:
        for _ in range(int(rng.integers(1, 6))):
            label = int(rng.integers(len(KINDS)))
            for _attempt in range(4):
                if stage.place(rng, label, light):
                    break
    boxes = []
    for mask in stage.masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return Scene(
        image=_expose(stage.canvas, rng, light),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(stage.labels, np.int64),
        areas=np.array([m.sum() for m in stage.masks], np.int64),
    )
