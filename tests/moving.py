"""A rendered sequence with known identities, and a backend that finds its blocks by colour."""

import cv2
import numpy as np
import torch

from oculox.types import DecodedPredictions
from red_images import RedBackend

COLORS = ((0, 0, 255), (0, 255, 0), (255, 0, 0))


class ColorBackend(RedBackend):
    """Finds each visible piece of a block; blue ones are of class ``disc``."""

    def predict(self, images):
        rows = []
        for image in np.asarray(images):
            boxes = []
            for color in COLORS:
                hit = np.abs(image.astype(int) - np.array(color)[:, None, None]).max(0) < 60
                _, _, stats, _ = cv2.connectedComponentsWithStats(hit.astype(np.uint8))
                boxes += [
                    (x, y, x + w, y + h, color == COLORS[2])
                    for x, y, w, h, area in stats[1:]
                    if area > 8
                ]
            rows.append(boxes)
        most = max(1, *map(len, rows))
        out = torch.zeros(len(rows), most, 5)
        score = torch.zeros(len(rows), most)
        for i, boxes in enumerate(rows):
            out[i, : len(boxes)] = torch.tensor(boxes, dtype=torch.float).reshape(-1, 5)
            score[i, : len(boxes)] = 0.9
        kind = out[..., 4:]
        return DecodedPredictions(out[..., :4], score, torch.cat((1 - kind, kind), dim=-1))


def boxes_at(t):
    """(identity, colour, left, top, right, bottom) of what is in frame t, of 40."""
    x = 10 + 4 * t
    yield 1, COLORS[0], x, 20, x + 20, 36  # to the right, over the second one
    yield 2, COLORS[1], 176 - x, 26, 196 - x, 42  # to the left
    if t >= 10:
        yield 3, COLORS[2], 80, 110 - 2 * (t - 10), 98, 126 - 2 * (t - 10)  # up


def write_sequence(path, frames=40, fps=10, codec="MJPG"):
    """The video, and its truth as MOT text beside it."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (192, 128))
    rows = []
    for t in range(frames):
        image = np.full((128, 192, 3), 40, np.uint8)
        for identity, color, left, top, right, bottom in boxes_at(t):
            image[top:bottom, max(left, 0) : max(right, 0)] = color
            rows.append(f"{t + 1},{identity},{left},{top},{right - left},{bottom - top},1,1,1")
        writer.write(image)
    writer.release()
    path.with_suffix(".txt").write_text("\n".join(rows) + "\n")
    return path
