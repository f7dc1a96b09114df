"""The six objects of the demo dataset, each a short formula over a patch of coordinates.

Every outline is a signed distance (negative inside), so edges are smooth at any size and a
rotation or flip is a change of coordinates. Colours are BGR, 0-1.
"""

import colorsys
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from oculox.types import FloatArray

Color = tuple[float, float, float]
Light = tuple[float, float, float]
Rng = np.random.Generator


@dataclasses.dataclass(frozen=True)
class Frame:
    """Coordinates of a patch's pixels, float32 (S, S); the object lies within -1..1.

    Attributes:
        u, v: right and down in the object's own frame, after rotation and flip.
        x, y: right and down in the image; light is given in these.
        pixel: the width of a pixel in these units.
    """

    u: FloatArray
    v: FloatArray
    x: FloatArray
    y: FloatArray
    pixel: float


class Sketch:
    """A patch being painted: colours (S, S, 3) and how much of each pixel is covered (S, S)."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.color = np.zeros((*frame.u.shape, 3), np.float32)
        self.alpha = np.zeros(frame.u.shape, np.float32)

    def fill(
        self, distance: FloatArray, color: Color | FloatArray, *, extend: bool = True
    ) -> FloatArray:
        """Paint where `distance` is negative; with `extend` false only on what is painted.

        Returns:
            float32 (S, S), the share of each pixel that was painted.
        """
        share = np.clip(0.5 - distance / self.frame.pixel, 0, 1)
        cover: FloatArray = share.astype(np.float32)
        weight = cover[..., None]
        self.color = self.color * (1 - weight) + np.asarray(color, np.float32) * weight
        if extend:
            self.alpha = np.maximum(self.alpha, cover)
        return cover

    def shade(self, gain: FloatArray) -> None:
        """Multiply the colours by `gain` (S, S)."""
        self.color = self.color * gain[..., None]


def make_frame(size: int, *, angle: float, flip: bool) -> Frame:
    """Coordinates of a patch of `size` pixels for an object turned by `angle` (radians)."""
    cells = np.arange(size, dtype=np.float32)
    line: FloatArray = (((cells + 0.5) / size * 2 - 1) * 1.08).astype(np.float32)
    x, y = np.meshgrid(line, line)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = cos * x + sin * y, cos * y - sin * x
    return Frame(-u if flip else u, v, x, y, 2.16 / size)


def hsv(hue: float, saturation: float, value: float) -> Color:
    """BGR of a hue (0-1, cyclic), saturation and value."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return blue, green, red


def circle(f: Frame, cx: float, cy: float, r: float) -> FloatArray:
    """Signed distance of a disc."""
    return np.asarray(np.hypot(f.u - cx, f.v - cy) - r, np.float32)


def ellipse(f: Frame, cx: float, cy: float, rx: float, ry: float) -> FloatArray:
    """Signed distance (near the edge) of an ellipse."""
    u, v = f.u - cx, f.v - cy
    k = np.hypot(u / rx, v / ry)
    slope = np.hypot(u / rx**2, v / ry**2)
    return np.asarray(k * (k - 1) / np.maximum(slope, 1e-3), np.float32)


def box(f: Frame, cx: float, cy: float, half: tuple[float, float], corner: float = 0) -> FloatArray:
    """Signed distance of a rectangle with rounded corners."""
    du, dv = np.abs(f.u - cx) - half[0] + corner, np.abs(f.v - cy) - half[1] + corner
    outside = np.hypot(np.maximum(du, 0), np.maximum(dv, 0))
    return np.asarray(outside + np.minimum(np.maximum(du, dv), 0) - corner, np.float32)


def convex(f: Frame, corners: Sequence[tuple[float, float]]) -> FloatArray:
    """Signed distance (bound) of a convex polygon, corners clockwise as seen."""
    distance = np.full(f.u.shape, -np.inf, np.float32)
    for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True):
        length = float(np.hypot(bx - ax, by - ay))
        edge = ((f.u - ax) * (by - ay) - (f.v - ay) * (bx - ax)) / length
        distance = np.maximum(distance, edge.astype(np.float32))
    return distance


def _mix(a: Color, b: Color, weight: FloatArray) -> FloatArray:
    w = np.clip(weight, 0, 1)[..., None]
    return np.asarray(
        np.asarray(a, np.float32) * (1 - w) + np.asarray(b, np.float32) * w, np.float32
    )


def _relief(f: Frame, light: Light, *, base: float = 0.9, depth: float = 0.22) -> FloatArray:
    return np.asarray(base + depth * (f.x * light[0] + f.y * light[1]), np.float32)


def ball(f: Frame, rng: Rng, light: Light) -> Sketch:
    """A beach ball, a banded ball or a dotted one, lit as a sphere."""
    sketch = Sketch(f)
    radius = 0.95
    x, y = f.x / radius, f.y / radius
    z = np.sqrt(np.maximum(1 - x**2 - y**2, 0))
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    p, q, r = (axes @ np.stack((x, y, z)).reshape(3, -1)).reshape(3, *x.shape)
    hue = rng.uniform()
    first = hsv(hue, rng.uniform(0.7, 0.95), rng.uniform(0.75, 1))
    second = hsv(hue + rng.uniform(0.3, 0.7), rng.uniform(0, 0.8), 0.97)
    pattern = rng.integers(3)
    if pattern == 0:
        wave = np.sin(3 * np.arctan2(q, p))
    elif pattern == 1:
        wave = 0.3 - np.abs(r)
    else:
        wave = np.sin(6 * p) * np.sin(6 * q) - 0.25
    color = _mix(first, second, (0.5 + wave / (5 * f.pixel)).astype(np.float32))
    normal_light = x * light[0] + y * light[1] + z * light[2]
    sketch.fill(circle(f, 0, 0, radius), color)
    sketch.shade((0.38 + 0.75 * np.clip(normal_light, 0, 1)).astype(np.float32))
    glint = np.clip(2 * normal_light * z - light[2], 0, 1) ** 30
    sketch.color += (0.75 * glint[..., None]).astype(np.float32)
    return sketch


def cup(f: Frame, rng: Rng, light: Light) -> Sketch:
    """A mug with a handle, a painted pattern and something to drink."""
    sketch = Sketch(f)
    hue, value = rng.uniform(), rng.uniform(0.75, 1)
    glaze = hsv(hue, rng.choice([0.08, 0.55, 0.8]), value)
    accent = hsv(hue + rng.uniform(0.25, 0.75), 0.75, rng.uniform(0.5, 0.9))
    dark: Color = (glaze[0] * 0.8, glaze[1] * 0.8, glaze[2] * 0.8)
    handle = np.abs(ellipse(f, 0.5, 0.08, 0.3, 0.36)) - np.float32(0.085)
    sketch.fill(handle.astype(np.float32), dark)
    width = 0.62 - 0.1 * (f.v + 0.6)
    turn = np.clip((f.u + 0.12) / np.maximum(width, 0.1), -1, 1)
    sides = np.abs(f.u + 0.12) - width
    body = np.maximum(np.maximum(sides, -0.62 - f.v), f.v - 0.72)
    body = np.minimum(body, ellipse(f, -0.12, 0.72, 0.48, 0.16))
    pattern = rng.integers(4)
    if pattern == 0:
        wave = 0.13 - np.abs(f.v - 0.05)
    elif pattern == 1:
        wave = np.sin(15 * f.v) - 0.1
    elif pattern == 2:
        wave = np.sin(9 * np.arcsin(turn)) * np.sin(9 * f.v) - 0.3
    else:
        wave = np.full_like(f.u, -9)
    sketch.fill(body, _mix(glaze, accent, (0.5 + wave / (4 * f.pixel)).astype(np.float32)))
    facing = turn * light[0] + np.sqrt(1 - turn**2) * light[2]
    inside = np.clip(0.5 - body / f.pixel, 0, 1)
    sketch.shade((1 - inside * (0.52 - 0.6 * np.clip(facing, 0, 1))).astype(np.float32))
    sketch.fill(ellipse(f, -0.12, -0.62, 0.62, 0.2), hsv(hue, 0.1, min(1.0, value * 1.05)))
    sketch.fill(ellipse(f, -0.12, -0.61, 0.54, 0.15), dark)
    drink = hsv(rng.choice([0.07, 0.1, 0.02]), 0.7, rng.uniform(0.25, 0.55))
    sketch.fill(
        np.maximum(ellipse(f, -0.12, -0.54, 0.5, 0.13), ellipse(f, -0.12, -0.61, 0.54, 0.15)), drink
    )
    return sketch


def leaf(f: Frame, rng: Rng, light: Light) -> Sketch:
    """A leaf with a stem, veins and a toothed edge, from green to autumn red."""
    sketch = Sketch(f)
    hue = rng.choice([0.3, 0.26, 0.13, 0.07, 0.02]) + rng.uniform(-0.02, 0.02)
    deep, bright = hsv(hue, 0.85, 0.5), hsv(hue + 0.03, 0.75, 0.88)
    bend = f.v - rng.uniform(-0.18, 0.18) * (1 - f.u**2)
    sketch.fill(np.maximum(np.abs(bend) - 0.035, np.maximum(-0.98 - f.u, f.u)), hsv(0.09, 0.6, 0.4))
    along = np.clip((f.u + 0.72) / 1.66, 0, 1)
    swell = rng.uniform(0.85, 1.15)
    width = swell * 1.25 * along**0.7 * (1 - along) ** 0.85
    teeth = 0.035 * np.abs(np.sin(rng.integers(9, 15) * f.u)) * (along > 0) * (along < 1)
    edge = 0.8 * (np.abs(bend) - width - teeth) + 0.4 * ((along <= 0) | (along >= 1))
    mottle = 0.5 + 0.5 * np.sin(7 * f.u + 5 * bend) * np.sin(6 * bend - 3 * f.u)
    sketch.fill(edge.astype(np.float32), _mix(deep, bright, 0.25 + 0.6 * mottle))
    veins = np.abs((f.u - 0.75 * np.abs(bend) + 2) % 0.24 - 0.12) - 0.014
    rib: Color = hsv(hue + 0.02, 0.45, 0.95)
    inner = edge.astype(np.float32) + 0.06
    sketch.fill(np.maximum(veins, inner), rib, extend=False)
    sketch.fill(np.maximum(np.abs(bend) - 0.028, inner), rib, extend=False)
    fold = np.where(bend < 0, 1.08, 0.88) if light[1] < 0 else np.where(bend < 0, 0.88, 1.08)
    sketch.shade((fold * _relief(f, light)).astype(np.float32))
    return sketch


def house(f: Frame, rng: Rng, light: Light) -> Sketch:
    """A house with a tiled roof, brick or boarded walls, door, windows and chimney."""
    sketch = Sketch(f)
    wall = hsv(rng.choice([0.09, 0.03, 0.55, 0.13]), rng.uniform(0.15, 0.5), rng.uniform(0.75, 1))
    roof = hsv(rng.choice([0.01, 0.04, 0.6, 0.08]), rng.uniform(0.5, 0.8), rng.uniform(0.45, 0.75))
    side = rng.choice([-1, 1])
    sketch.fill(box(f, 0.4 * side, -0.62, (0.1, 0.28)), hsv(0.03, 0.5, 0.5))
    sketch.fill(box(f, 0, 0.36, (0.68, 0.56)), wall)
    row = np.abs((f.v + 2) % 0.16 - 0.08) - 0.016
    joint = np.abs((f.u + 0.1 * np.floor((f.v + 2.08) / 0.16)) % 0.28 - 0.14) - 0.014
    lines = np.minimum(row, joint) if rng.uniform() < 0.5 else row
    mortar: Color = (wall[0] * 0.8, wall[1] * 0.8, wall[2] * 0.8)
    sketch.fill(np.maximum(lines, box(f, 0, 0.36, (0.66, 0.54))), mortar, extend=False)
    glass = hsv(0.14, 0.55, 1.0) if rng.uniform() < 0.5 else hsv(0.56, 0.4, 0.85)
    for center in (-0.36 * side, 0.0) if rng.uniform() < 0.5 else (-0.36 * side,):
        sketch.fill(box(f, center, 0.22, (0.15, 0.18)), (0.95, 0.97, 0.97))
        panes = np.maximum(
            box(f, center, 0.22, (0.12, 0.15)),
            0.018 - np.minimum(np.abs(f.u - center), np.abs(f.v - 0.22)),
        )
        sketch.fill(panes, glass)
    door = hsv(rng.uniform(), 0.6, 0.5)
    sketch.fill(box(f, 0.38 * side, 0.58, (0.16, 0.34), 0.03), door)
    sketch.fill(circle(f, 0.29 * side, 0.6, 0.035), (0.5, 0.85, 0.95))
    gable = convex(f, ((-0.92, -0.16), (0.0, -0.92), (0.92, -0.16)))
    tiles = 0.5 + 0.5 * np.sign(np.sin(38 * f.v) * 0.6 + np.sin(30 * f.u) * 0.4)
    darker: Color = (roof[0] * 0.78, roof[1] * 0.78, roof[2] * 0.78)
    sketch.fill(gable, _mix(darker, roof, tiles.astype(np.float32)))
    below = np.maximum(np.maximum(-0.16 - f.v, f.v + 0.06), np.abs(f.u) - 0.68)
    sketch.shade((_relief(f, light) - 0.25 * (below < 0)).astype(np.float32))
    return sketch


def fish(f: Frame, rng: Rng, light: Light) -> Sketch:
    """A fish with scales or stripes, fins, an eye and a pale belly."""
    sketch = Sketch(f)
    hue = rng.choice([0.05, 0.12, 0.55, 0.62, 0.95, 0.45]) + rng.uniform(-0.03, 0.03)
    back, belly = hsv(hue, 0.85, rng.uniform(0.6, 0.9)), hsv(hue + 0.05, 0.25, 0.98)
    fin = hsv(hue + rng.choice([-0.06, 0.06, 0.4]), 0.75, 0.85)
    ribs = 0.82 + 0.18 * np.sign(np.sin(40 * (f.v + 0.15 * f.u)))
    fins = _mix((0, 0, 0), fin, ribs.astype(np.float32))
    tall = rng.uniform(0.36, 0.5)
    tail = convex(f, ((-0.98, -0.46), (-0.4, 0.0), (-0.98, 0.46)))
    sketch.fill(np.maximum(tail, 0.22 - np.hypot(f.u + 1.06, f.v)), fins)
    sketch.fill(convex(f, ((-0.25, -tall * 0.7), (0.0, -tall - 0.26), (0.4, -tall * 0.7))), fins)
    sketch.fill(convex(f, ((-0.1, tall * 0.7), (0.3, tall * 0.7), (0.0, tall + 0.18))), fins)
    body = ellipse(f, 0.18, 0, 0.78, tall)
    color = _mix(back, belly, (0.45 + f.v / tall * 0.8).astype(np.float32))
    if rng.uniform() < 0.5:
        stripes = 0.5 + np.sin(9 * f.u + 4 * f.v**2) / (6 * f.pixel)
        color = color * (1 - 0.45 * np.clip(stripes, 0, 1)[..., None])
    else:
        scales = np.sin(26 * (f.u + 0.6 * f.v)) * np.sin(26 * (f.u - 0.6 * f.v))
        color = color * (0.92 + 0.16 * scales[..., None])
    sketch.fill(body, color.astype(np.float32))
    gill = np.abs(np.hypot(f.u - 0.75, f.v) - 0.33) - 0.018
    near = np.maximum(np.maximum(gill, body + 0.06), f.u - 0.6)
    sketch.fill(near, (back[0] * 0.5, back[1] * 0.5, back[2] * 0.5), extend=False)
    sketch.fill(convex(f, ((0.12, 0.02), (0.42, 0.1), (0.1, 0.26))), fins)
    sketch.fill(circle(f, 0.66, -0.1, 0.105), (0.98, 0.98, 0.98))
    sketch.fill(circle(f, 0.685, -0.1, 0.06), (0.05, 0.05, 0.05))
    sketch.shade(_relief(f, light, base=0.95, depth=0.3))
    return sketch


def car(f: Frame, rng: Rng, light: Light) -> Sketch:
    """A car from the side: body, windows, wheels, lights."""
    sketch = Sketch(f)
    paint = hsv(rng.uniform(), rng.choice([0.05, 0.7, 0.9]), rng.uniform(0.55, 0.98))
    top = rng.uniform(-0.5, -0.36)
    slope = rng.uniform(0.1, 0.28)
    cabin = ((-0.72, 0.06), (-0.72 + slope, top), (0.2, top), (0.52, 0.06))
    shine = _mix(paint, (1, 1, 1), (0.28 - 1.4 * np.abs(f.v - 0.06)).astype(np.float32))
    sketch.fill(convex(f, cabin), paint)
    sketch.fill(box(f, 0, 0.24, (0.96, 0.25), 0.14), shine)
    sketch.fill(box(f, 0, 0.43, (0.9, 0.06), 0.05), (0.12, 0.12, 0.13))
    glass = _mix(hsv(0.57, 0.35, 0.9), hsv(0.6, 0.6, 0.3), ((f.v - top) / 0.45).astype(np.float32))
    panes = convex(f, ((-0.62, 0.02), (-0.63 + slope, top + 0.07), (0.16, top + 0.07), (0.4, 0.02)))
    sketch.fill(np.maximum(panes, 0.04 - np.abs(f.u + 0.12)), glass)
    seam = np.maximum(np.abs(f.u + 0.12) - 0.012, np.abs(f.v - 0.22) - 0.17)
    sketch.fill(seam, (paint[0] * 0.5, paint[1] * 0.5, paint[2] * 0.5))
    sketch.fill(box(f, -0.02, 0.14, (0.06, 0.018)), (0.2, 0.2, 0.2))
    sketch.fill(ellipse(f, 0.86, 0.18, 0.075, 0.07), (0.75, 0.98, 1.0))
    sketch.fill(box(f, -0.9, 0.18, (0.045, 0.07), 0.02), (0.15, 0.1, 0.85))
    for center in (-0.54, 0.54):
        sketch.fill(circle(f, center, 0.47, 0.235), (0.09, 0.09, 0.1))
        sketch.fill(circle(f, center, 0.47, 0.125), (0.72, 0.72, 0.74))
        spokes = np.sin(5 * np.arctan2(f.v - 0.47, f.u - center)) * 0.05
        sketch.fill(circle(f, center, 0.47, 0.085) + spokes, (0.35, 0.35, 0.37))
    sketch.shade(_relief(f, light, base=0.95))
    return sketch


@dataclasses.dataclass(frozen=True)
class Kind:
    """A class of the demo: how it is drawn and how far (degrees) it may be turned."""

    name: str
    paint: Callable[[Frame, Rng, Light], Sketch]
    tilt: float


KINDS = (
    Kind("ball", ball, 180),
    Kind("car", car, 10),
    Kind("cup", cup, 12),
    Kind("fish", fish, 28),
    Kind("house", house, 7),
    Kind("leaf", leaf, 180),
)
