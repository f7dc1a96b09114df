"""Writes the golden values anew: `python tests/golden/make.py`.

Only for a change that is meant to change them; say in the commit why they changed. First make
sure, where reference values are available, that the tests against them still pass.
"""

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import scenes  # noqa: E402
import test_golden_losses as losses  # noqa: E402
import test_golden_metrics as metrics  # noqa: E402
import test_golden_names as names  # noqa: E402
import test_golden_networks as networks  # noqa: E402
import test_golden_postprocess as postprocess  # noqa: E402
import test_golden_samples as samples  # noqa: E402
import test_golden_training as training  # noqa: E402

from golden import VALUES  # noqa: E402


def write(topic, values):
    path = VALUES / f"{topic}.json"
    # One line for each case: differences stay readable, numbers take no lines of their own.
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in values.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")
    sys.stdout.write(f"{path.name}: {path.stat().st_size} bytes\n")


def main():
    VALUES.mkdir(exist_ok=True)
    small, large = scenes.render()
    cv2.imwrite(str(scenes.PIXELS), np.concatenate([s.image for s in small]))
    write("scenes", {"small": scenes.described(small), "large": scenes.described(large)})
    for module in (networks, losses, training, postprocess, names):
        write(module.TOPIC, module.compute_all())
    with tempfile.TemporaryDirectory() as folder:
        for module in (metrics, samples):
            write(module.TOPIC, module.compute_all(Path(folder)))


if __name__ == "__main__":
    main()
