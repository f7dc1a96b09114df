"""MOT metrics of the trackers on a rendered video whose objects are known in every frame.

Eight objects of the demo dataset move on curves of their own: they pass in front of each other,
leave the image and come back, where they count as new ones after a second. The truth is the box
around what is visible, where that is at least 30 % of an object.

    oculox demo --output demo-run
    python benchmarks/track.py demo-run/run/best.pt
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import cv2
import numpy as np

from oculox.api import Detector
from oculox.datasets.demo.scene import LEAST_VISIBLE, noise
from oculox.datasets.demo.shapes import KINDS, hsv, make_frame
from oculox.predict.frames import open_frames
from oculox.predict.sources import find_sources
from oculox.predict.track import track_to_folder
from oculox.predict.tracker import TrackSettings
from oculox.types import FloatArray

SIZE_HW = (240, 320)
FPS = 25
LIGHT = (0.3, -0.6, 0.73)


@dataclasses.dataclass
class Mover:
    """An object on its curve.

    `number` and `seen` say which identity it has, and in which frame it was visible last.
    """

    color: FloatArray
    alpha: FloatArray
    middle: FloatArray
    reach: FloatArray
    pace: FloatArray
    phase: FloatArray
    number: int = 0
    seen: int = -2 * FPS

    def at(self, t: int) -> tuple[FloatArray, FloatArray]:
        """Colours (H, W, 3) and cover (H, W) in frame `t`."""
        place = self.middle + self.reach * np.sin(self.pace * t / FPS + self.phase)
        shift = np.float32([[1, 0, place[0]], [0, 1, place[1]]])
        size = SIZE_HW[::-1]
        return cv2.warpAffine(self.color, shift, size), cv2.warpAffine(self.alpha, shift, size)


def make_mover(rng: np.random.Generator, label: int) -> Mover:
    """An object of a class with a size and a curve of its own."""
    size = int(rng.uniform(0.2, 0.34) * SIZE_HW[0])
    sketch = KINDS[label].paint(make_frame(size, angle=0.0, flip=bool(rng.integers(2))), rng, LIGHT)
    room = np.float32((SIZE_HW[1] - size, SIZE_HW[0] - size))
    return Mover(
        color=sketch.color,
        alpha=sketch.alpha,
        middle=room * rng.uniform(0.3, 0.7, 2).astype(np.float32),
        reach=room * rng.uniform((0.3, 0.2), (0.75, 0.5)).astype(np.float32),
        pace=rng.uniform(0.3, 0.9, 2).astype(np.float32),
        phase=rng.uniform(0, 6, 2).astype(np.float32),
    )


def write_sequence(folder: Path, *, frames: int, seed: int) -> tuple[Path, Path]:
    """The video, lossless, and its truth as MOT text."""
    rng = np.random.default_rng(seed)
    movers = [make_mover(rng, i % len(KINDS)) for i in range(8)]
    gain = 0.9 + 0.14 * noise(rng, SIZE_HW, cells=(4, 5), octaves=5)
    ground = np.float32(hsv(0.1, 0.2, 0.75)) * gain[..., None]
    video, truth = folder / "truth.avi", folder / "truth.txt"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"FFV1"), FPS, SIZE_HW[::-1])
    assert writer.isOpened()
    rows, known = [], 0
    for t in range(frames):
        image = ground.copy()
        covers = []
        for mover in movers:
            color, alpha = mover.at(t)
            image = image * (1 - alpha[..., None]) + color * alpha[..., None]
            covers.append(alpha > 0.5)
        for i, mover in enumerate(movers):
            hidden = np.any(covers[i + 1 :], axis=0) if covers[i + 1 :] else False
            visible = covers[i] & ~np.asarray(hidden)
            if visible.sum() < max(1, LEAST_VISIBLE * (mover.alpha > 0.5).sum()):
                continue
            if t - mover.seen > FPS:
                known += 1
                mover.number = known
            mover.seen = t
            x, y, width, height = cv2.boundingRect(visible.astype(np.uint8))
            rows.append(f"{t + 1},{mover.number},{x},{y},{width},{height},1,1,1")
        image += rng.normal(0, 0.01, (*SIZE_HW, 1))
        writer.write(np.uint8(np.clip(image * 255 + 0.5, 0, 255)))
    writer.release()
    truth.write_text("\n".join(rows) + "\n", "utf-8")
    print(f"{frames} frames, {known} objects, {len(rows)} boxes")
    return video, truth


def main() -> None:
    """Render, track with each algorithm, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("weights", help="of a model of the demo dataset")
    parser.add_argument("--output", type=Path, default=Path("runs/track-benchmark"))
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from trackers.eval import evaluate_mot_sequence

    args.output.mkdir(parents=True, exist_ok=True)
    video, truth = write_sequence(args.output, frames=args.frames, seed=args.seed)
    detector = Detector(args.weights, conf=0.1, agnostic_nms=True)
    print("| tracker | MOTA | IDF1 | HOTA | switches | missed | false |\n" + "| --- " * 7 + "|")
    for algorithm in ("bytetrack", "sort", "ocsort", "botsort"):
        with open_frames(find_sources([video])) as frames:
            summary = track_to_folder(
                detector.pipeline,
                frames,
                TrackSettings(algorithm=algorithm),
                source=str(video),
                output=args.output / algorithm,
                overwrite=True,
            )
        found = evaluate_mot_sequence(truth, summary.mot, ["CLEAR", "HOTA", "Identity"])
        clear = found.CLEAR
        print(
            f"| `{algorithm}` | {clear.MOTA:.3f} | {found.Identity.IDF1:.3f} "
            f"| {found.HOTA.HOTA:.3f} | {clear.IDSW} | {clear.CLR_FN} | {clear.CLR_FP} |"
        )


if __name__ == "__main__":
    main()
