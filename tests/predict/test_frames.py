"""Frames of streams: the newest each time, and again after a break."""

import http.server
import threading
import time
from contextlib import contextmanager, suppress

import cv2
import numpy as np
import pytest

from oculox.api import Detector
from oculox.errors import DataError
from oculox.predict.frames import open_frames
from oculox.predict.sources import Source
from oculox.predict.track import track_to_folder
from oculox.predict.tracker import TrackSettings
from red_images import RedBackend, red_image


@contextmanager
def camera(parts, *, pause=0.02):
    """A camera's address: each call of it gives the next of `parts`, lists of images."""
    rest = iter(parts)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            images = next(rest, None)
            self.send_response(200 if images is not None else 503)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
            self.end_headers()
            with suppress(ConnectionError):
                for image in images or ():
                    data = cv2.imencode(".jpg", image)[1].tobytes()
                    head = f"Content-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                    self.wfile.write(b"--next\r\n" + head.encode() + data + b"\r\n")
                    time.sleep(pause)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/live"
        try:
            yield Source(kind="camera", name="gate", address=address)
        finally:
            server.shutdown()
            thread.join()


def grey(count):
    """Frames that say their place by how bright they are."""
    return [np.full((48, 64, 3), min(5 * i, 255), np.uint8) for i in range(count)]


def test_frames_are_dropped_and_not_queued():
    with camera([grey(50)]) as source, open_frames([source], retry_seconds=0.2) as frames:
        assert (frames.live, frames.total) == (True, None)
        seen, late = [], []
        for frame in frames:
            seen.append(frame)
            late.append(5 * frame.number - int(frame.image[0, 0, 0]))
            time.sleep(0.1)  # a network of ten images in a second, and a camera of fifty
    assert 5 < len(seen) < 30
    assert frames.dropped == seen[-1].number + 1 - len(seen) > 15
    assert np.abs(late).max() <= 5  # numbers count the dropped ones
    assert seen[-1].seconds == pytest.approx(0.02 * seen[-1].number, rel=0.5, abs=0.2)
    assert frames.lost.startswith("gate: broke off, and gave no frame again within 0.2 s")


def test_a_stream_is_opened_again():
    with camera([grey(5), grey(5)]) as source, open_frames([source], retry_seconds=1) as frames:
        began = time.monotonic()
        numbers = [frame.number for frame in frames]
        took = time.monotonic() - began
    assert frames.reconnects == 1
    assert frames.lost
    assert took < 4
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 9


def test_streams_that_give_nothing_end():
    """One that opens again and again without a frame is lost as well."""
    with camera([grey(3), *[[]] * 100]) as source:
        began = time.monotonic()
        with open_frames([source], retry_seconds=0.5) as frames:
            assert len(list(frames)) >= 1
        assert frames.lost
        assert time.monotonic() - began < 5


def test_who_leaves_early_waits_for_no_stream():
    with camera([grey(100)], pause=0.01) as source:
        began = time.monotonic()
        with open_frames([source]) as frames:
            next(iter(frames))
        assert time.monotonic() - began < 2
        assert frames.lost is None


def test_a_detector_looks_at_the_newest_frame():
    # The first call asks what kind of thing the address is.
    with camera([[red_image(48, 64, (8, 8, 40, 40))] * 3] * 2) as source:
        stream = Detector(RedBackend()).stream(source.address)
        found = next(stream)
        assert len(found) == 1
        assert found.image.shape == (48, 64, 3)
        stream.close()


def test_what_came_before_a_break_is_kept(tmp_path):
    pytest.importorskip("trackers", reason="trackers is not installed (extra: track)")
    image = red_image(48, 64, (8, 8, 40, 40))
    with camera([[image] * 20]) as source, open_frames([source], retry_seconds=0.2) as frames:
        summary = track_to_folder(
            Detector(RedBackend(), conf=0.1).pipeline,
            frames,
            TrackSettings(),
            source="gate",
            output=tmp_path / "out",
        )
    assert summary.lost
    assert summary.objects == {"square": 1}
    shown = cv2.VideoCapture(str(summary.video)).get(cv2.CAP_PROP_FRAME_COUNT)
    assert shown <= 20  # dropped frames are filled with the one before
    assert shown >= summary.frames + summary.dropped - 1


def test_an_interrupt_of_a_camera_keeps_what_was_recorded(tmp_path):
    pytest.importorskip("trackers", reason="trackers is not installed (extra: track)")

    def interrupt(done, total):
        if done == 3:
            raise KeyboardInterrupt

    image = red_image(48, 64, (8, 8, 40, 40))
    with camera([[image] * 100]) as source, open_frames([source]) as frames:
        summary = track_to_folder(
            Detector(RedBackend(), conf=0.1).pipeline,
            frames,
            TrackSettings(),
            source="gate",
            output=tmp_path / "out",
            progress=interrupt,
        )
    assert summary.frames == 3
    assert len((tmp_path / "out/tracks.jsonl").read_text().splitlines()) == 3


def test_a_stream_that_is_not_there():
    with pytest.raises(DataError, match="the stream cannot be opened"):
        open_frames([Source(kind="camera", name="x", address="http://127.0.0.1:9/live")])
