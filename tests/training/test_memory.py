"""Memory does not grow with the number of steps, images or requests."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

from oculox import Detector, TrainCallback, train

STEPS = int(os.environ.get("OCULOX_MEMORY_STEPS", "2000"))
REQUESTS = int(os.environ.get("OCULOX_MEMORY_REQUESTS", "20000"))
IMAGES = int(os.environ.get("OCULOX_MEMORY_IMAGES", "5000"))
GROWTH = 0.02


def resident():
    """Bytes of this process and its loader processes."""
    this = psutil.Process()
    return sum(process.memory_info().rss for process in (this, *this.children(recursive=True)))


def growth(samples):
    """How much larger the last quarter is than the second; the first is the warm-up."""
    quarter = len(samples) // 4
    first, last = (float(np.median(samples[a : a + quarter])) for a in (quarter, 3 * quarter))
    return last / first - 1


class Weigh(TrainCallback):
    """Notes the memory every so many steps."""

    def __init__(self, every):
        self.every = every
        self.samples = []

    def on_step(self, step, total, loss):
        if step % self.every == 0:
            self.samples.append(resident())


@pytest.mark.slow
def test_training_keeps_its_memory(quick, tmp_path, record_property):
    weigh = Weigh(max(1, STEPS // 100))
    words = ("data.workers=2", "train.batch=2", f"train.max_steps={STEPS}", "model.width=0.125")
    longer = ("train.aug_epochs=1000", "train.eval_interval=100", "train.checkpoint_interval=50")
    train("yolox-nano", *quick, *words, *longer, output=tmp_path / "out", callback=weigh)
    found = growth(weigh.samples)
    record_property(
        "reliability",
        f"{STEPS} steps, two loader processes: {weigh.samples[-1] >> 20} MiB, {found:+.2%}",
    )
    assert found < GROWTH


@pytest.mark.slow
def test_prediction_keeps_its_memory(eager_pt, record_property):
    detector = Detector(eager_pt, device="cpu")
    rng = np.random.default_rng(0)
    samples = []
    for number in range(IMAGES):
        height, width = rng.integers(40, 400, 2)
        detector(np.full((height, width, 3), number % 256, np.uint8))
        if number % max(1, IMAGES // 100) == 0:
            samples.append(resident())
    found = growth(samples)
    record_property("reliability", f"{IMAGES} images: {samples[-1] >> 20} MiB, {found:+.2%}")
    assert found < GROWTH


@pytest.mark.slow
def test_the_service_keeps_its_memory(eager_pt, record_property):
    service_client = pytest.importorskip("service_client")
    rng = np.random.default_rng(0)
    files = [
        service_client.encoded(np.full((*rng.integers(40, 400, 2), 3), number, np.uint8), ".jpg")
        for number in range(200)
    ]
    samples = []
    with (
        service_client.serving(str(eager_pt), detector={"device": "cpu"}) as client,
        ThreadPoolExecutor(4) as clients,
    ):
        for done in range(0, REQUESTS, len(files)):
            answers = clients.map(client.detect, files[: REQUESTS - done])
            assert {answer.status_code for answer in answers} == {200}
            samples.append(resident())
    found = growth(samples)
    record_property("reliability", f"{REQUESTS} requests: {samples[-1] >> 20} MiB, {found:+.2%}")
    assert found < GROWTH
