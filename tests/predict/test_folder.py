import contextlib
import http.server
import io
import json
import resource
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from oculox.errors import OculoxError, UsageError
from oculox.predict import sources
from oculox.predict.folder import predict_to_folder
from oculox.predict.pipeline import Pipeline
from oculox.predict.sources import Source, find_sources
from oculox.predict.video import VideoFiles, annotate_video
from oculox.runtime.timing import STAGES
from oculox.types import Detections
from red_images import RedBackend, red_image


@pytest.fixture
def web():
    """Starts servers that answer every path alike: body, content type -> address."""
    with contextlib.ExitStack() as stack:

        def serve(body, kind, status=200):
            class Handler(http.server.BaseHTTPRequestHandler):
                def do_GET(self):
                    self.send_response(status)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    with contextlib.suppress(ConnectionError):
                        self.wfile.write(body)

                def log_message(self, *args):
                    pass

            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            stack.enter_context(server)
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}"

        yield serve


def save(path, image=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = cv2.imencode(path.suffix, red_image() if image is None else image)[1].tobytes()
    path.write_bytes(data)
    return path


def entries(folder):
    return json.loads((folder / "predictions.json").read_text())


def test_images_and_json(red_pipeline, tmp_path):
    a, b = save(tmp_path / "in/a.png"), save(tmp_path / "in/b.png", np.zeros((30, 40, 3), np.uint8))
    seen = []
    out = tmp_path / "new/out"
    summary = predict_to_folder(
        red_pipeline, find_sources([a, b]), output=out, progress=lambda *n: seen.append(n)
    )
    assert (summary.images, summary.detections, summary.ok) == (2, 1, True)
    first, second = entries(out)
    assert first["source"] == str(a)
    assert (first["width"], first["height"]) == (120, 48)
    (found,) = first["detections"]
    assert set(found) == {"box", "score", "class_id", "name"}
    assert found["name"] == "square"
    assert found["box"] == pytest.approx([40, 12, 80, 36], abs=3)
    assert second["detections"] == []
    drawn = cv2.imread(str(out / first["annotated"]))
    assert drawn.shape == (48, 120, 3)
    assert (drawn != red_image()).any()
    assert seen[-1] == (2, 2)
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "b.png", "predictions.json"]
    assert summary.speed == {}, "both images were in the batch that warms up"


class SlowStart(RedBackend):
    """Takes its time for the first images, as runtimes do that compile on their first run."""

    started = False

    def predict(self, images):
        if not self.started:
            time.sleep(0.3)
        self.started = True
        return super().predict(images)


@pytest.mark.parametrize("kind", ["images", "video"])
def test_warming_up_is_no_speed(tmp_path, kind):
    if kind == "video":
        found = find_sources([film(tmp_path / "walk.mp4")])
    else:
        found = find_sources([save(tmp_path / f"{i}.png") for i in range(3)])
    pipeline = Pipeline(SlowStart(), batch=1)
    speed = predict_to_folder(pipeline, found, output=tmp_path / "out").speed
    assert set(speed) == {*STAGES, "total"}
    assert all(0 < ms.min <= ms.median <= ms.max for ms in speed.values())
    assert speed["network"].max < 150


def test_one_image_alone_has_no_speed(red_pipeline, tmp_path):
    source = save(tmp_path / "a.png")
    summary = predict_to_folder(red_pipeline, find_sources([source]), output=tmp_path / "out")
    assert summary.speed == {}


def test_without_drawing(red_pipeline, tmp_path):
    source = save(tmp_path / "a.png")
    predict_to_folder(red_pipeline, find_sources([source]), output=tmp_path / "out", draw=False)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["predictions.json"]
    assert "image" not in entries(tmp_path / "out")[0]


def test_equal_names_do_not_collide(red_pipeline, tmp_path):
    given = [save(tmp_path / d / n) for d, n in [("x", "a.png"), ("y", "a.png"), ("z", "A.png")]]
    out = tmp_path / "out"
    predict_to_folder(red_pipeline, find_sources(given), output=out)
    drawn = [e["annotated"] for e in entries(out)]
    assert drawn == ["a.png", "a-2.png", "A-3.png"]
    assert all((out / name).is_file() for name in drawn)


def test_sources_are_never_overwritten(red_pipeline, tmp_path):
    a, b = save(tmp_path / "a.png"), save(tmp_path / "a-2.png")
    before = a.read_bytes(), b.read_bytes()
    predict_to_folder(red_pipeline, find_sources([tmp_path]), output=tmp_path, overwrite=True)
    assert (a.read_bytes(), b.read_bytes()) == before
    assert {e["annotated"] for e in entries(tmp_path)} == {"a-3.png", "a-2-2.png"}


def test_occupied_folder(red_pipeline, tmp_path):
    source, out = save(tmp_path / "a.png"), tmp_path / "out"
    save(out / "old.png")
    with pytest.raises(UsageError, match="already holds files"):
        predict_to_folder(red_pipeline, find_sources([source]), output=out)
    predict_to_folder(red_pipeline, find_sources([source]), output=out, overwrite=True)
    assert {p.name for p in out.iterdir()} == {"old.png", "a.png", "predictions.json"}


def test_output_must_be_a_folder_that_can_be_made(red_pipeline, tmp_path):
    source = save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="must be a folder"):
        predict_to_folder(red_pipeline, find_sources([source]), output=source)
    with pytest.raises(OculoxError, match="cannot be made"):
        predict_to_folder(red_pipeline, find_sources([source]), output=source / "out")


def test_bad_images_are_skipped_and_told(red_pipeline, tmp_path):
    for i in range(5):
        save(tmp_path / f"in/{i}.png")
    (tmp_path / "in/1.png").write_bytes(b"damaged")
    (tmp_path / "in/3.png").write_bytes(b"")
    seen = []
    summary = predict_to_folder(
        red_pipeline,
        find_sources([tmp_path / "in"]),
        output=tmp_path / "out",
        progress=lambda *n: seen.append(n),
    )
    assert not summary.ok
    assert [u.source.path.name for u in summary.unreadable] == ["1.png", "3.png"]
    assert summary.images == len(entries(tmp_path / "out")) == 3
    assert seen[-1] == (5, 5)


def test_nothing_but_bad_images(red_pipeline, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"damaged")
    summary = predict_to_folder(
        red_pipeline, find_sources([tmp_path / "bad.png"]), output=tmp_path / "out"
    )
    assert (summary.images, len(summary.unreadable)) == (0, 1)
    assert not (tmp_path / "out").exists()


def test_standard_input(red_pipeline, tmp_path):
    encoded = io.BytesIO(cv2.imencode(".png", red_image())[1].tobytes())
    predict_to_folder(red_pipeline, find_sources(["-"]), output=tmp_path / "out", stdin=encoded)
    assert [e["annotated"] for e in entries(tmp_path / "out")] == ["stdin.jpg"]


def film(path, frames=6, fps=12):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (160, 96))
    for i in range(frames):
        writer.write(red_image(96, 160, (20 + 10 * i, 20, 60 + 10 * i, 60)))
    writer.release()
    return path


@pytest.mark.parametrize(("max_frames", "expected"), [(None, 6), (2, 2)])
def test_video(red_pipeline, tmp_path, max_frames, expected):
    source = film(tmp_path / "walk.mp4")
    out = tmp_path / "out"
    image = save(tmp_path / "a.png")
    summary = predict_to_folder(
        red_pipeline, find_sources([source, image]), output=out, max_frames=max_frames
    )
    assert {p.name for p in out.iterdir()} == {
        "walk.mp4", "walk.jsonl", "a.png", "predictions.json",
    }  # fmt: skip
    rows = [json.loads(line) for line in (out / "walk.jsonl").read_text().splitlines()]
    assert [r["frame"] for r in rows] == list(range(expected))
    assert rows[1]["seconds"] == pytest.approx(1 / 12, abs=1e-3)
    lefts = [r["detections"][0]["box"][0] for r in rows]
    assert lefts == pytest.approx([20 + 10 * i for i in range(expected)], abs=5)
    capture = cv2.VideoCapture(str(out / "walk.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == expected
    assert capture.get(cv2.CAP_PROP_FPS) == 12
    assert summary.videos[0].frames == expected
    assert len(summary.videos[0].rounds) == expected
    assert summary.detections == expected + 1


def test_a_video_without_drawing(red_pipeline, tmp_path):
    source = film(tmp_path / "walk.mp4")
    out = tmp_path / "out"
    summary = predict_to_folder(red_pipeline, find_sources([source]), output=out, draw=False)
    assert {p.name for p in out.iterdir()} == {"walk.jsonl", "predictions.json"}
    (video,) = summary.videos
    assert (video.video, video.frames, video.detections) == (None, 6, 6)
    assert len((out / "walk.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("page", "annotated"),
    [("/a/photo.jpg?size=1", "photo.jpg"), ("/show", "show.png"), ("/", "image.png")],
)
def test_the_address_of_an_image_is_an_image(red_pipeline, tmp_path, web, page, annotated):
    url = web(cv2.imencode(".png", red_image())[1].tobytes(), "image/png") + page
    summary = predict_to_folder(red_pipeline, find_sources([url]), output=tmp_path / "out")
    assert (summary.images, summary.detections, summary.videos) == (1, 1, ())
    (entry,) = entries(tmp_path / "out")
    assert (entry["source"], entry["annotated"]) == (url, annotated)
    assert (tmp_path / "out" / annotated).is_file()


def test_the_address_of_a_video_is_a_video(red_pipeline, tmp_path, web):
    url = web(film(tmp_path / "walk.mp4").read_bytes(), "video/mp4") + "/walk.mp4"
    summary = predict_to_folder(red_pipeline, find_sources([url]), output=tmp_path / "out")
    assert summary.images == 0
    assert [v.frames for v in summary.videos] == [6]


@pytest.mark.parametrize(
    ("body", "limit", "message"),
    [
        (b"no image", 99, "not an image"),
        (bytes(3 << 16), 1 << 16, "larger than"),
        (b"", 99, "empty"),
    ],
)
def test_addresses_that_give_no_image_are_skipped(
    red_pipeline, tmp_path, web, monkeypatch, body, limit, message
):
    monkeypatch.setattr(sources, "MAX_DOWNLOAD", limit)
    url = web(body, "image/jpeg") + "/a.jpg"
    summary = predict_to_folder(red_pipeline, find_sources([url]), output=tmp_path / "out")
    (skipped,) = summary.unreadable
    assert message in str(skipped.error)
    assert str(skipped.error).startswith(f"{url}: ")


def test_an_address_that_is_gone_is_skipped(red_pipeline, tmp_path, web):
    url = web(b"", "image/jpeg", status=404) + "/a.jpg"
    summary = predict_to_folder(red_pipeline, find_sources([url]), output=tmp_path / "out")
    assert "the image cannot be downloaded (404" in str(summary.unreadable[0].error)


@pytest.mark.parametrize(
    ("given", "name"), [("bad.mp4", "bad.mp4"), ("97", "camera-97"), ("-", "standard input")]
)
def test_what_cannot_be_read_is_told_and_leaves_nothing(
    red_pipeline, tmp_path, monkeypatch, given, name
):
    monkeypatch.chdir(tmp_path)
    Path("bad.mp4").write_bytes(b"no film")
    summary = predict_to_folder(
        red_pipeline, find_sources([given]), output=Path("runs/predict"), stdin=io.BytesIO(b"")
    )
    assert summary.empty
    assert name in str(summary.unreadable[0].error)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.mp4"]


def test_wrong_frame_limit(red_pipeline, tmp_path):
    with pytest.raises(UsageError, match="max_frames"):
        predict_to_folder(
            red_pipeline,
            find_sources([film(tmp_path / "w.mp4")]),
            output=tmp_path / "out",
            max_frames=0,
        )


def interrupt_at(frame):
    def progress(done):
        if done == frame:
            raise KeyboardInterrupt

    return progress


def test_interrupted_camera_keeps_what_was_recorded(red_pipeline, tmp_path):
    address = str(film(tmp_path / "street.mp4"))
    summary = annotate_video(
        red_pipeline,
        Source(kind="camera", name="camera-0", address=address),
        video=tmp_path / "out.mp4",
        predictions=tmp_path / "out.jsonl",
        progress=interrupt_at(3),
    )
    assert summary.frames == 3
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3
    assert cv2.VideoCapture(str(tmp_path / "out.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3


@pytest.fixture
def small_disk():
    """Files of this process may not be larger than so many bytes, until the test ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("draw", [True, False])
def test_a_video_on_a_full_disk_is_an_error_and_leaves_nothing(
    red_pipeline, tmp_path, small_disk, draw
):
    (source,) = find_sources([film(tmp_path / "walk.mp4", frames=20)])
    out = tmp_path / "out"
    out.mkdir()
    small_disk(4000 if draw else 500)
    with pytest.raises(OculoxError, match="could not be written"):
        annotate_video(
            red_pipeline,
            source,
            video=out / "walk.mp4" if draw else None,
            predictions=out / "walk.jsonl",
        )
    assert list(out.iterdir()) == []


def test_a_video_that_goes_nowhere(red_pipeline, tmp_path):
    (source,) = find_sources([film(tmp_path / "walk.mp4")])
    (tmp_path / "file").touch()
    with pytest.raises(OculoxError, match=r"walk\.jsonl: could not be written"):
        annotate_video(
            red_pipeline, source, video=None, predictions=tmp_path / "file/below/walk.jsonl"
        )


@pytest.mark.parametrize("fps", [0.5, 29.97, 240])
@pytest.mark.parametrize("frames", [1, 7])
def test_each_video_is_whole(tmp_path, fps, frames):
    files = VideoFiles(tmp_path / "a.jsonl", tmp_path / "a.mp4", fps=fps)
    with files:
        for i in range(frames):
            image = red_image(97 + i, 161)  # a stream may change its size
            files.add(Detections.empty(("a",)), image, number=i, seconds=i / fps, times=2)
    files.require_whole()
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 2 * frames


@pytest.mark.parametrize("error", [KeyboardInterrupt, OculoxError("no room")])
def test_what_is_done_before_an_error_is_kept(red_pipeline, tmp_path, error):
    given = find_sources([save(tmp_path / f"{i}.png") for i in range(5)])

    def progress(done, total):
        if done == 4:
            raise error

    out = tmp_path / "out"
    with pytest.raises(error if isinstance(error, type) else OculoxError):
        predict_to_folder(red_pipeline, given, output=out, progress=progress)
    assert [entry["annotated"] for entry in entries(out)] == ["0.png", "1.png", "2.png", "3.png"]


def test_interrupted_video_leaves_nothing(red_pipeline, tmp_path):
    (source,) = find_sources([film(tmp_path / "walk.mp4")])
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        annotate_video(
            red_pipeline,
            source,
            video=out / "walk.mp4",
            predictions=out / "walk.jsonl",
            progress=interrupt_at(3),
        )
    assert list(out.iterdir()) == []
