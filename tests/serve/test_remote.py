"""A service as a backend: `oculox predict http://host:port`."""

import json
import threading

import numpy as np
import pytest

from oculox.api import Detector
from oculox.cli.main import main
from oculox.errors import CheckpointError, OculoxError, UsageError
from oculox.serve.limits import Limits
from red_images import RedBackend, red_image
from service_client import serving


@pytest.fixture(scope="module")
def eager_client(eager_pt):
    # One image at once: sums over a batch round differently.
    with serving(str(eager_pt), limits=Limits(max_batch=1)) as client:
        yield client


def predicted(tmp_path, capsys, model, *words):
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    code = main(["predict", str(model), *map(str, words), "--output", str(folder), "--no-draw"])
    assert code == 0, capsys.readouterr().err
    return json.loads((folder / "predictions.json").read_text("utf-8"))


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--conf", 0.6, "--iou", 0.2, "--max-det", 5, "--agnostic-nms"),
        ("--classes", "leaf,fish", "--batch", 3),
        ("--tta", "flip"),
    ],
)
def test_results_equal_local_ones(eager_client, eager_pt, tiny_data, tmp_path, capsys, options):
    images = (tiny_data / "val2017", *options)
    local = predicted(tmp_path, capsys, eager_pt, *images)
    remote = predicted(tmp_path, capsys, eager_client.address, *images)
    assert remote == local
    assert sum(len(entry["detections"]) for entry in local) > 0


def test_evaluation_over_the_service(eager_client, eager_pt, tiny_data):
    figures = [
        Detector(model).evaluate(tiny_data, workers=0).metrics.as_dict()
        for model in (str(eager_pt), eager_client.address)
    ]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_colours_and_category_ids(color):
    backend = RedBackend(color=color)
    with serving(backend) as client:
        remote = Detector(client.address)
        assert remote.backend.spec.input == backend.spec.input
        expected = Detector(backend)(red_image())
        for found in remote([red_image(), red_image()]):
            np.testing.assert_array_equal(found.xyxy, expected.xyxy)
            assert found.to_dicts() == expected.to_dicts()
        assert remote.path is None


def test_sizes_and_options_belong_to_the_service(client):
    with pytest.raises(UsageError, match="built for 64 x 96"):
        Detector(client.address, imgsz=128)
    for option in ({"backend": "onnx"}, {"precision": "bf16"}, {"device": "cuda"}):
        with pytest.raises(UsageError, match="chosen where the service starts"):
            Detector(client.address, **option)
    with pytest.raises(OculoxError, match=r"status 422 .*greater than or equal to 0.01"):
        Detector(client.address, conf=0.001)(red_image())


def test_a_busy_service_is_asked_again(client, monkeypatch):
    remote = Detector(client.address)
    service = client.app.state.service
    monkeypatch.setattr(service, "ready", False)
    timer = threading.Timer(0.7, lambda: setattr(service, "ready", True))
    timer.start()
    assert len(remote(red_image())) == 1
    timer.join()


def test_the_key_comes_from_the_environment(monkeypatch):
    with serving(RedBackend(), api_key="k1") as client:
        with pytest.raises(UsageError, match="wants its API key; set OCULOX_API_KEY"):
            Detector(client.address)
        monkeypatch.setenv("OCULOX_API_KEY", "k1")
        assert len(Detector(client.address)(red_image())) == 1


def test_what_is_no_service(client):
    with pytest.raises(OculoxError, match="the service cannot be reached"):
        Detector("http://127.0.0.1:9")
    with pytest.raises(OculoxError, match="no such path"):
        Detector(f"{client.address}/v2")
    with pytest.raises(CheckpointError, match="no service of Oculox answers there"):
        Detector(f"{client.address}/?x=")
