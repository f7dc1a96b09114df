"""What the service answers to good and bad requests, over a real socket."""

import base64
import json
import re
import socket
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import requests

from oculox.api import Detector
from oculox.config.schema import InputConfig
from oculox.serve.app import describe
from oculox.serve.description import FoundObjects, Models
from oculox.serve.limits import Limits
from oculox.types import ModelSpec
from red_images import RedBackend, red_image
from service_client import encoded, serving

FOUND = Detector(RedBackend())(red_image()).to_dicts()


def test_forms_of_a_request(client, red_png):
    form = client.post("/v1/detect", files={"image": ("a.png", red_png, "image/png")})
    raw = client.post("/v1/detect", data=red_png, headers={"Content-Type": "image/png"})
    text = client.post("/v1/detect", json={"image": base64.b64encode(red_png).decode()})
    assert [a.status_code for a in (form, raw, text)] == [200, 200, 200], form.text + raw.text
    assert form.json() == raw.json() == text.json()
    found = form.json()
    assert (found["width"], found["height"]) == (120, 48)
    assert found["detections"] == FOUND
    assert found["detections"][0]["name"] == "square"
    FoundObjects.model_validate(found, strict=False)


def test_nothing_found(client):
    answer = client.detect(encoded(np.zeros((9, 7, 3), np.uint8)))
    assert answer.json() == {"width": 7, "height": 9, "detections": []}


def test_coco_results(client, red_png):
    expected = Detector(RedBackend())(red_image()).to_coco(7)
    assert client.detect(red_png, format="coco", image_id=7).json() == expected


def test_an_annotated_image(client, red_png):
    wide = cv2.imencode(".png", np.zeros((2, 70_000, 3), np.uint8))[1].tobytes()
    answer = client.detect(wide, format="jpeg")
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("an image of 70000 x 2 pixels cannot be encoded")
    answer = client.detect(red_png, format="jpeg")
    assert answer.headers["content-type"] == "image/jpeg"
    drawn = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape == (48, 120, 3)
    assert np.abs(drawn.astype(int) - red_image()).max() > 100


@pytest.mark.parametrize(
    ("parameters", "count"),
    [
        ({"conf": 0.95}, 0),
        ({"conf": 0.85}, 1),
        ({"classes": "square"}, 1),
        ({"classes": "1"}, 0),
        ({"classes": "disc, square", "agnostic_nms": True, "iou": 0.1, "max_det": 1}, 1),
    ],
)
def test_thresholds_of_a_request(client, red_png, parameters, count):
    assert len(client.detect(red_png, **parameters).json()["detections"]) == count


def png_of(width, height):
    """The smallest PNG whose header states that size; nothing of it is there."""

    def part(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = part(b"IDAT", zlib.compress(b"")) + part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + body


JPEG = encoded(red_image(), ".jpg")
RAW = {"Content-Type": "image/png"}
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("status", "reason", "request_"),
    [
        (413, "100000 x 100000 pixels, at most 50,000,000", {"data": png_of(100_000, 100_000)}),
        (413, "larger than 1 MiB", {"data": bytes((1 << 20) + 1)}),
        (413, "larger than 1 MiB", {"data": iter([b"x" * (1 << 19)] * 3)}),
        (413, "larger than 1 MiB", {"files": {"image": bytes((1 << 20) + 1)}, "headers": {}}),
        (413, "larger than 1 MiB", {"files": {"image": bytes(1 << 21)}, "headers": {}}),
        (413, "larger than 1 MiB", {"json": {"image": "A" * (1 << 21)}, "headers": {}}),
        (
            415,
            "Content-Type 'text/plain'",
            {"data": b"x", "headers": {"Content-Type": "text/plain"}},
        ),
        (415, "the Content-Type is missing: send", {"data": b"x", "headers": {}}),
        (415, "expected an image as JPEG, PNG", {"data": b"no image"}),
        (415, "expected an image as JPEG, PNG", {"data": encoded(red_image(), ".tiff")}),
        # Bytes between the segments, which libjpeg skips: the size would not be known.
        (415, "expected an image as JPEG, PNG", {"data": JPEG[:2] + b"xx" + JPEG[2:]}),
        (422, "the image is empty", {"data": b""}),
        (422, "the image is truncated", {"data": JPEG[:-40]}),
        (422, "not an image that can be decoded", {"data": png_of(3, 3)}),
        (422, "not an image that can be decoded", {"data": png_of(0, 3)}),
        (422, "no file called 'image'", {"files": {"picture": b"x"}, "headers": {}}),
        (422, "?conf=0.5", {"files": {"image": b"x"}, "data": {"conf": 0.5}, "headers": {}}),
        (422, "Missing boundary", {"headers": {"Content-Type": "multipart/form-data"}}),
        (422, "not valid JSON", {"data": b"{", "headers": JSON}),
        (422, "not valid JSON", {"data": b"[" * 100_000, "headers": JSON}),
        (422, "expected a JSON object", {"json": [], "headers": {}}),
        (422, "expected a JSON object", {"json": {"image": "", "url": ""}, "headers": {}}),
        (422, "'image' must be a string", {"json": {"image": 3}, "headers": {}}),
        (422, "not valid base64", {"json": {"image": "!"}, "headers": {}}),
        (422, "not valid base64", {"json": {"image": "é"}, "headers": {}}),
        (422, "fetches no URLs", {"json": {"url": "http://a.example/"}, "headers": {}}),
    ],
)
def test_bodies_that_are_refused(small_client, status, reason, request_):
    answer = small_client.post("/v1/detect", **{"headers": RAW, **request_})
    assert answer.status_code == status, answer.text
    assert reason in answer.json()["error"]
    assert answer.json().keys() == {"error"}
    assert small_client.detect(JPEG).status_code == 200


@pytest.fixture(scope="module")
def small_client():
    with serving(RedBackend(), limits=Limits(max_mb=1)) as client:
        yield client


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"conf": 2}, "conf: Input should be less than or equal to 1"),
        ({"conf": 0}, "conf: Input should be greater than or equal to 0.01"),
        ({"conf": "nan"}, "conf: "),
        ({"max_det": 100_000}, "max_det: "),
        ({"classes": "circle"}, "the model has no class 'circle'"),
        ({"classes": "2"}, "class 2 does not exist"),
        ({"format": "xml"}, "format: "),
        ({"confidence": 0.9}, "unknown parameter 'confidence'; known are conf, iou, max_det, "),
    ],
)
def test_parameters_that_are_refused(client, red_png, parameters, reason):
    answer = client.detect(red_png, **parameters)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(reason)


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/v1/detect", 405, "this path takes POST, not GET"),
        ("GET", "/docs", 404, "there is no such path"),
        ("GET", "/../etc/passwd", 404, "there is no such path"),
    ],
)
def test_other_paths(client, method, path, status, reason):
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"] == reason


def test_the_model(client):
    [model] = Models.model_validate(client.get("/v1/models").json()).models
    spec = ModelSpec.from_dict(model.spec, where="the service")
    assert spec.names == ("square", "disc")
    assert (spec.input, spec.dynamic_size) == (InputConfig(size=(64, 96)), False)
    assert (model.conf, model.iou, model.max_det) == (0.3, 0.45, 1000)


def test_health_and_counts(client, red_png):
    assert client.get("/healthz").text == "ok\n"
    assert client.get("/readyz").text == "ready\n"

    def count(name):
        found = re.search(rf"^{re.escape(name)} (.*)$", client.get("/metrics").text, re.M)
        return float(found[1]) if found else 0.0

    answers = 'oculox_requests_total{path="/v1/detect",status="200"}'
    names = (answers, 'oculox_detections_total{name="square"}', "oculox_batch_size_count")
    before = [count(name) for name in names]
    client.detect(red_png)
    assert [count(name) - was for name, was in zip(names, before, strict=True)] == [1, 1, 1]
    assert count('oculox_stage_seconds_total{stage="decode"}') > 0
    client.get("/what-ever")
    assert 'path="other"' in client.get("/metrics").text
    assert "what-ever" not in client.get("/metrics").text


def test_the_key():
    with serving(RedBackend(), api_key="s3cret-ключ") as client:
        png = encoded(red_image())
        for key in (None, "Bearer wrong", "Bearer", "Basic s3cret", "Bearer s3cret-ключ2"):
            client.headers.update({"Authorization": (key or "").encode()})
            for answer in (client.detect(png), client.get("/v1/models"), client.get("/metrics")):
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert "s3cret" not in answer.text
        assert client.get("/readyz").status_code == client.get("/").status_code == 200
        client.headers["Authorization"] = "Bearer s3cret-ключ".encode()
        assert client.detect(png).status_code == 200


def test_addresses_where_they_are_allowed(red_png):
    with serving(RedBackend(), allow_urls=True) as client:
        for path in (f"{client.address}/metrics", "http://169.254.169.254/latest", "file:///etc/x"):
            answer = client.post("/v1/detect", json={"url": path})
            assert answer.status_code == 422
            assert "the URL" in answer.json()["error"]
        assert client.detect(red_png).status_code == 200


class SlowBackend(RedBackend):
    """Waits for permission before each batch after the first, which warms the service up."""

    def __init__(self, **options):
        super().__init__(**options)
        self.go = threading.Semaphore(1)

    def predict(self, images):
        assert self.go.acquire(timeout=20)
        return super().predict(images)


def until(condition):
    for _ in range(400):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def test_requests_become_batches(red_png):
    backend = SlowBackend()
    with serving(backend, limits=Limits(max_batch=4)) as client, ThreadPoolExecutor(9) as pool:
        first = pool.submit(requests.post, f"{client.address}/v1/detect", red_png, headers=RAW)
        running = lambda: client.app.state.service.batcher._jobs.qsize()  # noqa: E731
        until(lambda: running() == 0 and backend.go._value == 0)
        time.sleep(0.2)
        others = [
            pool.submit(requests.post, f"{client.address}/v1/detect", red_png, headers=RAW)
            for _ in range(7)
        ]
        until(lambda: running() == 7)
        backend.go.release(10)
        results = [one.result() for one in (first, *others)]
    assert [answer.json()["detections"] for answer in results] == [FOUND] * 8
    assert [shape[0] for shape in backend.batches] == [1, 1, 4, 3]


def test_other_thresholds_do_not_share_a_batch(red_png):
    backend = SlowBackend()
    with serving(backend) as client, ThreadPoolExecutor(9) as pool:

        def ask(conf):
            return len(client_of(client).detect(red_png, conf=conf).json()["detections"])

        first = pool.submit(ask, 0.5)
        time.sleep(0.3)
        found = [pool.submit(ask, conf) for conf in (0.5, 0.95, 0.5, 0.95)]
        until(lambda: client.app.state.service.batcher._jobs.qsize() == 4)
        backend.go.release(10)
        assert [one.result() for one in (first, *found)] == [1, 1, 0, 1, 0]
    assert [shape[0] for shape in backend.batches] == [1, 1, 2, 2]


def client_of(client):
    """Another connection to the same service."""
    return type(client)(client.address, client.app)


def test_more_requests_than_allowed_are_refused_at_once(red_png):
    backend = SlowBackend()
    limits = Limits(max_requests=3)
    with serving(backend, limits=limits) as client, ThreadPoolExecutor(3) as pool:
        held = [pool.submit(client_of(client).detect, red_png) for _ in range(3)]
        until(lambda: "running 4.0" in client.get("/metrics").text)
        answer = client.detect(red_png)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert "3 requests are being answered" in answer.json()["error"]
        assert client.get("/healthz").status_code == 200
        backend.go.release(10)
        assert [one.result().status_code for one in held] == [200] * 3


def test_a_result_that_takes_too_long(red_png):
    backend = SlowBackend()
    with serving(backend, limits=Limits(max_seconds=0.5)) as client:
        answer = client.detect(red_png)
        assert answer.status_code == 503
        assert "no result within 0.5 s" in answer.json()["error"]
        backend.go.release(10)
        until(lambda: client.detect(red_png).status_code == 200)


@pytest.mark.parametrize("head", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_body_that_never_ends(head):
    with serving(RedBackend(), limits=Limits(max_seconds=0.5)) as client, client.socket() as line:
        first = "POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/png"
        line.sendall(f"{first}\r\n{head}\r\n\r\n".encode())
        answer = line.makefile("rb").read()  # to the end: the service hangs up
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"the body did not arrive within 0.5 s" in answer


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: ",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\nx",
    ],
)
def test_a_client_that_says_nothing(sent, monkeypatch):
    monkeypatch.setattr("oculox.serve.run.HEAD_SECONDS", 0.4)
    with serving(RedBackend()) as client, client.socket() as line:
        line.sendall(sent)
        start = time.perf_counter()
        line.makefile("rb").read()
        assert time.perf_counter() - start < 5


@pytest.mark.parametrize("at_once", [True, False])
def test_a_damaged_body_of_a_request_that_is_answered_already(client, caplog, at_once):
    head = b"DELETE /v1/detect HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    damaged = b"no number of bytes\r\n"
    with client.socket() as line:
        if at_once:
            line.sendall(head + damaged)
            assert line.makefile("rb").read().startswith(b"HTTP/1.1 400 ")
        else:
            line.sendall(head)
            assert line.recv(9999).startswith(b"HTTP/1.1 405 ")
            line.sendall(damaged)
            line.makefile("rb").read()
    assert client.get("/healthz").status_code == 200
    assert not [record for record in caplog.records if record.exc_info]


def test_answers_are_sent_at_once(client):
    """With Nagle's algorithm on, the body of an answer waits 40 ms after its head."""
    client.get("/healthz")
    lines = [c.transport.get_extra_info("socket") for c in client.server.server_state.connections]
    assert lines
    assert all(line.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for line in lines)


def test_a_client_that_leaves(client):
    head = b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9"
    with client.socket() as line:
        line.sendall(head + b"\r\n\r\nx")
    until(lambda: 'status="499"' in client.get("/metrics").text)


def test_the_end_waits_for_what_runs(red_png):
    backend = SlowBackend()
    with ThreadPoolExecutor(2) as pool, serving(backend) as client:
        held = [pool.submit(client_of(client).detect, red_png) for _ in range(2)]
        until(lambda: "running 3.0" in client.get("/metrics").text)
        time.sleep(0.2)
        client.server.should_exit = True
        time.sleep(0.3)
        with pytest.raises(requests.ConnectionError):
            client_of(client).get("/healthz")
        backend.go.release(10)
        assert [one.result().status_code for one in held] == [200, 200]


def test_a_failure_inside_tells_nothing(red_png, caplog):
    class Broken(RedBackend):
        def predict(self, images):
            if len(self.batches):
                raise RuntimeError("the secret of the inside")
            return super().predict(images)

    with serving(Broken()) as client:
        answer = client.detect(red_png)
        assert (answer.status_code, answer.json()) == (
            500,
            {"error": "the service failed to answer; its log says why"},
        )
    assert "the secret of the inside" in caplog.text


def test_the_committed_description_is_that_of_the_service():
    """`make openapi` writes it anew."""
    committed = Path(__file__).parents[2] / "docs/openapi.json"
    assert json.loads(committed.read_text("utf-8")) == describe()
