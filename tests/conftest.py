"""Fixtures that every test may use."""

import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import pytest
import torch
from accelerate.state import AcceleratorState
from filelock import FileLock

from oculox.config import load_config
from oculox.datasets.demo.dataset import write_demo
from oculox.models import build_model
from oculox.predict.pipeline import Pipeline
from oculox.weights import Weights
from oculox.weights.checkpoint import save_checkpoint
from red_images import RedBackend
from specs import make_weights

if TYPE_CHECKING:
    from s3_server import S3Server

# Tests, and the processes that they start, compute with one thread each: several run at a time,
# and sums do not depend on the machine's number of cores.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
cv2.setNumThreads(1)

# What the imports above made stays for good, and converters make millions of objects that live
# long: looking through all of them again and again took a fifth of an export's time.
gc.freeze()
gc.set_threshold(50_000, 20, 100)

SHARED = Path(__file__).resolve().parents[2] / "shared"

QUICK = (
    "input.size=64",
    "augment.multiscale=[1, 1.5]",
    "augment.multiscale_interval=2",
    "train.batch=4",
    "train.aug_epochs=2",
    "train.tail_epochs=1",
    "train.eval_interval=2",
    "train.log_interval=1",
    "train.report=false",
    "train.device=cpu",
    "train.precision=fp32",  # of the tolerances, on every machine
    "data.workers=0",
)


def pytest_runtest_setup(item) -> None:
    """Tests of a GPU need one."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Gives PyTorch another number of threads, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images, official weights and reference values; absent outside a full checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"reference data is absent: {SHARED} is not a folder (see docs/testing.md)")
    return SHARED


@pytest.fixture(scope="session")
def make_once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Makes what is expensive once for all workers: name, function that fills a folder -> folder.

    The first worker that asks makes it, the others wait for it.
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def get(name: str, fill: Callable[[Path], None]) -> Path:
        folder = root / "common" / name
        folder.mkdir(parents=True, exist_ok=True)
        done = root / "common" / f"{name}.done"
        with FileLock(f"{folder}.lock"):
            if not done.exists():
                fill(folder)
                done.touch()
        return folder

    return get


@pytest.fixture(scope="session")
def kept_conversions(make_once) -> Path:
    """A cache folder in which conversions for `backend` are made once."""
    return make_once("cache", lambda folder: None)


@pytest.fixture(autouse=True)
def _no_user_cache(kept_conversions, monkeypatch) -> None:
    monkeypatch.setenv("OCULOX_CACHE", str(kept_conversions))


@pytest.fixture(autouse=True)
def _no_accelerator_left() -> Iterator[None]:
    """Accelerate allows a process one precision as long as its state is there."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """Twelve training and four validation images of the demo dataset."""
    folder = tmp_path_factory.mktemp("tiny") / "data"
    write_demo(folder, train=12, val=4, size=(96, 72))
    return folder


@pytest.fixture(scope="session")
def quick(tiny_data) -> tuple[str, ...]:
    """Overrides of a run that takes seconds."""
    return (f"data.root={tiny_data}", *QUICK)


@pytest.fixture(scope="session")
def eager_weights() -> Weights:
    """An untrained yolox-nano for the demo's classes that sees objects everywhere."""
    names = ("ball", "car", "cup", "fish", "house", "leaf")
    config = load_config("yolox-nano", ["input.size=64"])
    torch.manual_seed(1)
    network = build_model(config.model, num_classes=len(names))
    _settle_batch_norms(network)
    state = network.state_dict()
    for level, favourite in enumerate(("leaf", "ball", "fish")):
        state[f"head.obj_preds.{level}.bias"].fill_(3.0)
        # Its class tells the level it came from; score and box depend on the image.
        state[f"head.cls_preds.{level}.weight"].zero_()
        state[f"head.obj_preds.{level}.weight"].mul_(0.2)
        state[f"head.cls_preds.{level}.bias"][names.index(favourite)] = 3.0
    return make_weights(config, state, names=names, category_ids=(1, 2, 3, 4, 5, 6))


def _settle_batch_norms(network: torch.nn.Module) -> None:
    """Fresh statistics damp every layer until the output hardly depends on the image."""
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    noise = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        network.train()(torch.nn.functional.interpolate(noise, size=(64, 64), mode="bilinear"))
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@pytest.fixture(scope="session")
def eager_pt(eager_weights, tmp_path_factory) -> Path:
    """`eager_weights` as a checkpoint."""
    path = tmp_path_factory.mktemp("eager") / "eager.pt"
    save_checkpoint(path, eager_weights)
    return path


@pytest.fixture(scope="session")
def three_classes_pt(eager_weights, tmp_path_factory) -> Path:
    """The same network for three classes."""
    keep = {
        key: value[:3] if key.startswith("head.cls_preds.") else value
        for key, value in eager_weights.state.items()
    }
    path = tmp_path_factory.mktemp("three") / "three.pt"
    config = load_config("yolox-nano", ["input.size=64"])
    save_checkpoint(path, make_weights(config, keep, names=("a", "b", "c")))
    return path


@pytest.fixture
def red_backend():
    """The class of backends that find red blocks."""
    return RedBackend


@pytest.fixture
def red_pipeline():
    """Finds the red block of each image."""
    return Pipeline(RedBackend(), batch=3)


def pytest_addoption(parser) -> None:
    """A file for what machines read."""
    text = "JSON of each test, its outcome, seconds and reason; a table goes beside it"
    parser.addoption("--outcomes", type=Path, help=text)


def write_outcomes(path: Path, stats: dict[str, list]) -> None:
    """The tests that passed, failed or were skipped."""
    rows = [
        {
            "test": report.nodeid,
            "outcome": outcome,
            "seconds": round(report.duration, 2),
            "reason": report.longrepr[2] if outcome == "skipped" else crash_of(report),
        }
        for outcome in ("passed", "failed", "error", "skipped")
        for report in stats.get(outcome, ())
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    lines = [" | ".join(map(str, row.values())) for row in rows]
    head = ["| test | outcome | seconds | reason |", "| --- | --- | ---: | --- |"]
    text = "\n".join([*head, *(f"| {line} |" for line in lines)])
    path.with_suffix(".md").write_text(text + "\n", "utf-8")


def crash_of(report) -> str:
    """The first line of why a test failed; empty for one that passed."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return crash.message.splitlines()[0] if crash else ""


def pytest_terminal_summary(terminalreporter) -> None:
    """What slow proofs measured, in one table (docs/reliability.md explains it)."""
    if path := terminalreporter.config.getoption("--outcomes"):
        write_outcomes(path, terminalreporter.stats)
    rows = [
        (report.nodeid.removeprefix("tests/"), outcome, figures)
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
        for name, figures in getattr(report, "user_properties", ())
        if name == "reliability"
    ]
    if rows:
        terminalreporter.section("reliability")
        for test, outcome, figures in sorted(rows):
            terminalreporter.write_line(f"{outcome} {test}: {figures}")


@pytest.fixture(scope="session")
def _s3_server() -> Iterator["S3Server"]:
    pytest.importorskip("s3fs", reason="reads s3:// (pip install 'oculox[cloud]')")
    pytest.importorskip("moto.server", reason="is the S3 server (pip install 'moto[server]')")
    from s3_server import S3Server

    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def s3(_s3_server: "S3Server", tmp_path: Path, monkeypatch) -> Iterator["S3Server"]:
    """An S3 server without faults, a new cache, and an environment that leads to them."""
    settings = {
        "AWS_ENDPOINT_URL": _s3_server.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "OCULOX_CACHE": str(tmp_path / "address-cache"),
        "OCULOX_PATIENCE": "20",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    # A busy machine may take long over one answer; a warning would be an error here.
    monkeypatch.setattr("oculox.addresses.storage._QUIET_SECONDS", 60.0)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # they keep the credentials that they found
    _s3_server.requests.clear()
    yield _s3_server
    _s3_server.faults.clear()
