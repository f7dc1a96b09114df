"""Parts of images on a local Ray with two workers."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest

from oculox import Detector, predict_many
from oculox.errors import CheckpointError, OculoxError, UsageError
from oculox.predict.many import predict_parts
from oculox.predict.on_ray import TRIES, ray_workers
from oculox.predict.pipeline import Pipeline
from red_images import RedBackend, red_image, save_image, save_red_images

pytestmark = [
    pytest.mark.slow,
    # Beside other heavy work a process of Ray may need minutes to start.
    pytest.mark.filterwarnings(
        "default:Ray. no worker has opened the model:oculox.errors.OculoxWarning"
    ),
]

pq = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")
ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")


@pytest.fixture(scope="module", autouse=True)
def _local_ray():
    with pytest.MonkeyPatch.context() as patch:
        # Workers import the backends of this module.
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=80 << 20,
            logging_level="ERROR",
            log_to_driver=False,
        )
    yield
    ray.shutdown()


@pytest.fixture
def images(tmp_path):
    """Forty images and one that is none."""
    return save_red_images(tmp_path / "images", 40, step=2, bad="20b.png")


def workers_of_ray():
    """The processes that hold a model."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if process.name().startswith("ray::PartWorker")
    ]


class Slow(RedBackend):
    """Takes its time."""

    seconds = 0.05

    def predict(self, images):
        time.sleep(self.seconds)
        return super().predict(images)


class Slower(Slow):
    """Is not done before another worker has opened its model."""

    seconds = 10.0


class Deadly(RedBackend):
    """Dies of an image with a block on the right."""

    def predict(self, images):
        found = super().predict(images)
        if (found.boxes[..., 2] > 82).any():
            self.end()
        return found

    def end(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Failing(Deadly):
    """Raises an exception that no one expects."""

    def end(self):
        raise RuntimeError("out of memory")


def opened(backend):
    return Pipeline(backend(), batch=1), {"model": backend.__name__}


def run(workers, images, output, **options):
    return predict_parts(workers, [str(images)], output=output, part_size=4, **options)


def rows(folder):
    return pq.read_table(folder).to_pylist()


def test_results_are_those_of_one_process(eager_pt, tiny_data, tmp_path):
    folder = tiny_data / "train2017"
    options = {"part_size": 2, "device": "cpu", "conf": 0.2}
    for engine in ("local", "ray"):
        summary = predict_many(eager_pt, folder, tmp_path / engine, engine=engine, **options)
        assert (summary.images, summary.parts) == (12, 6)
    several = rows(tmp_path / "ray")
    assert several == rows(tmp_path / "local")
    assert (
        several
        == Detector(eager_pt, device="cpu", conf=0.2).table(sorted(folder.iterdir())).to_pylist()
    )
    assert sum(len(row["scores"]) for row in several) > 0
    assert ray.is_initialized(), "a Ray of the program's own stays"


def test_a_killed_worker_loses_nothing(images, tmp_path):
    killed = []

    def kill_one(done, total):
        if not killed:
            limit = time.monotonic() + 200
            while len(before := workers_of_ray()) < 2 and time.monotonic() < limit:
                time.sleep(0.05)
            assert len(before) == 2
            killed.append(before[0].pid)
            before[0].kill()

    with ray_workers(partial(opened, Slow), tmp_path / "out", number=2) as workers:
        summary = run(workers, images, tmp_path / "out", progress=kill_one)
        assert killed
        assert killed[0] not in [process.pid for process in workers_of_ray()]
    assert (summary.images, summary.unreadable, summary.parts, summary.ok) == (41, 1, 11, True)
    found = rows(tmp_path / "out")
    assert [row["image"] for row in found] == [str(path) for path in sorted(images.iterdir())]
    assert sum(len(row["scores"]) for row in found) == 40


@pytest.mark.parametrize(
    ("backend", "reason"),
    [(Deadly, f"its worker died {TRIES} times (The actor died unexp"), (Failing, "out of memory")],
)
def test_a_part_that_cannot_be_done_is_named(images, tmp_path, backend, reason):
    out = tmp_path / "out"
    save_image(images / "99.png", red_image(box=(90, 12, 110, 30)))
    with ray_workers(partial(opened, backend), out, number=2) as workers:
        summary = run(workers, images, out)
    [failed] = summary.failed_parts
    assert (failed.number, summary.ok, summary.images) == (10, False, 40)
    assert failed.error.startswith(reason)
    assert not (out / "part-000010.parquet").exists()


def test_what_is_wrong_with_the_model_is_said(eager_pt, images, tmp_path):
    options = {"engine": "ray", "workers": 2, "device": "cpu"}
    with pytest.raises(UsageError, match="batch must be at least 1, got 0"):
        predict_many(eager_pt, images, tmp_path / "out", batch=0, **options)
    with pytest.raises(CheckpointError, match=r"none\.pt: no such file"):
        predict_many(tmp_path / "none.pt", images, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def dies():
    raise SystemExit


def test_workers_that_cannot_start(images, tmp_path):
    with (
        ray_workers(dies, tmp_path / "out", number=1) as workers,
        pytest.raises(OculoxError, match="3 workers died before they had opened the model"),
    ):
        run(workers, images, tmp_path / "out")


def test_machines_with_different_models(images, tmp_path):
    def own():
        return Pipeline(Slower(), batch=1), {"model": os.getpid()}

    with ray_workers(own, tmp_path / "out", number=2) as workers:
        assert workers.settings()["model"]
        with pytest.raises(OculoxError, match="the workers opened different models"):
            run(workers, images, tmp_path / "out")


def test_from_storage_to_storage(eager_pt, images, s3):
    s3.put_folder("shop", images, below="images/")
    command = [sys.executable, "-m", "oculox", "predict", eager_pt, "s3://shop/images"]
    command += ["--engine", "ray", "--workers", "2", "--output", "s3://shop/found", "--resume"]
    done = subprocess.run(
        [*command, "--part-size", "20", "--json"],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["images"], summary["unreadable"]) == (41, 1)
    assert summary["predictions"] == "s3://shop/found/part-*.parquet"
    parts = [key for key in s3.keys("shop") if key.startswith("found/part-")]
    assert len(parts) == 3
    tables = [pq.read_table(io.BytesIO(s3.get("shop", part))) for part in parts]
    assert [name for table in tables for name in table["image"].to_pylist()] == [
        f"s3://shop/images/{path.name}" for path in sorted(images.iterdir())
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_no_process(eager_pt, images, tmp_path, number):
    """On a Ray of its own; then the same command goes on."""
    command = [sys.executable, "-m", "oculox", "predict", eager_pt, images, "--engine", "ray"]
    command += ["--output", tmp_path / "out", "--part-size", "2", "--device", "cpu", "--resume"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    begun = subprocess.Popen(
        [*command, "--workers", "1"],
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    family = psutil.Process(begun.pid)
    while not list((tmp_path / "out").glob("part-*")):
        assert begun.poll() is None, begun.stdout.read()
        time.sleep(0.05)
    below = family.children(recursive=True)
    assert any(process.name().startswith("ray::") for process in below)
    # A terminal sends Ctrl-C to all its processes.
    (os.killpg if number == signal.SIGINT else os.kill)(begun.pid, number)
    said, _ = begun.communicate(timeout=180)
    assert begun.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert said == {signal.SIGINT: "interrupted\n", signal.SIGTERM: ""}[number]
    _, alive = psutil.wait_procs(below, timeout=120)
    assert alive == []
    if number == signal.SIGTERM:
        return
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(rows(tmp_path / "out")) == 41
