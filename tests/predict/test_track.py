"""Tracking a rendered sequence whose identities are known."""

import dataclasses
import json
import resource
import sys

import cv2
import numpy as np
import pytest

from moving import ColorBackend, write_sequence
from oculox.api import Detector
from oculox.errors import DataError, MissingExtraError, OculoxError, UsageError
from oculox.predict.counting import Counter
from oculox.predict.frames import open_frames
from oculox.predict.sources import find_sources
from oculox.predict.track import track_to_folder
from oculox.predict.tracker import Tracker, TrackSettings
from oculox.types import Detections

metrics = pytest.importorskip("trackers.eval", reason="trackers is not installed (extra: track)")


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """Two blocks pass in front of each other, a third one follows later from below."""
    return write_sequence(tmp_path_factory.mktemp("walk") / "walk.avi")


def track(source, output, *, settings=None, detector=None, **options):
    detector = detector or Detector(ColorBackend(), conf=0.1)
    with open_frames(find_sources([source])) as frames:
        return track_to_folder(
            detector.pipeline,
            frames,
            settings or TrackSettings(),
            source=str(source),
            output=output,
            **options,
        )


def rows_of(summary):
    return [json.loads(line) for line in summary.predictions.read_text().splitlines()]


def test_files_counts_and_mot_metrics(walk, tmp_path):
    told = []
    counter = Counter(
        lines=[[(96, 0), (96, 127)], [(0, 80), (191, 80)], [(0, 1), (191, 1)]],
        zones=[
            [(60, 60), (130, 60), (130, 127), (60, 127)],
            [(0, 0), (191, 0), (191, 59), (0, 59)],
        ],
    )
    summary = track(
        walk, tmp_path / "out", counter=counter, progress=lambda done, total: told.append(total)
    )
    assert (summary.frames, summary.dropped, summary.lost) == (40, 0, None)
    assert summary.objects == {"square": 2, "disc": 1}
    assert told == [40] * 40
    assert [(line["in"], line["out"]) for line in summary.lines] == [(1, 1), (1, 0), (0, 0)]
    # Downwards along the line: what goes to the right goes to the left of who looks along it.
    assert summary.lines[1]["in_by_class"] == {"disc": 1}
    inside = [(zone["objects"], zone["most"], zone["by_class"]) for zone in summary.zones]
    assert inside == [(1, 1, {"disc": 1}), (2, 2, {"square": 2})]
    result = metrics.evaluate_mot_sequence(
        walk.with_suffix(".txt"), summary.mot, ["CLEAR", "HOTA", "Identity"]
    )
    assert result.CLEAR.IDSW == 0
    assert min(result.CLEAR.MOTA, result.Identity.IDF1, result.HOTA.HOTA) > 0.95

    rows = rows_of(summary)
    assert [row["frame"] for row in rows] == list(range(40))
    assert rows[20]["seconds"] == 2.0
    assert {one["track_id"] for row in rows for one in row["detections"]} == {1, 2, 3}
    first = [one for one in rows[20]["detections"] if one["track_id"] == 1]
    assert first[0]["box"] == pytest.approx([90, 20, 110, 36], abs=2)
    text = summary.mot.read_text().splitlines()
    frame, number, *_, tail = text[-1].rsplit(",", 3)[0].split(",")
    assert (frame, int(number) in (1, 2, 3)) == ("40", True)
    assert float(tail) == pytest.approx(0.9)
    film = cv2.VideoCapture(str(summary.video))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 40
    assert film.get(cv2.CAP_PROP_FPS) == 10
    stored = json.loads((tmp_path / "out/summary.json").read_text())
    assert stored["lines"][0]["in"] == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "tracks.mp4", "tracks.jsonl", "tracks.txt", "summary.json",
    }  # fmt: skip


@pytest.mark.parametrize("algorithm", ["sort", "ocsort", "botsort"])
def test_each_algorithm_keeps_numbers(walk, tmp_path, algorithm):
    settings = TrackSettings(algorithm=algorithm)
    summary = track(walk, tmp_path / "out", settings=settings, draw=False, max_frames=12)
    assert summary.video is None
    rows = rows_of(summary)
    assert len(rows) == 12
    last = {one["track_id"]: one["box"] for one in rows[-1]["detections"]}
    assert last.keys() >= {1, 2}
    assert sorted(last[i][0] for i in (1, 2)) == pytest.approx([54, 122], abs=2)


def test_a_detector_follows_objects(walk):
    detector = Detector(ColorBackend())
    found = list(detector.track(walk, classes="square"))
    assert len(found) == 40
    assert len(found[0]) == 0
    assert found[0].track_ids.shape == (0,)
    assert [sorted(one.track_ids) for one in found[1:]] == [[1, 2]] * 39
    assert found[5].source == str(walk)
    assert found[5].plot().shape == found[5].image.shape == (128, 192, 3)
    assert detector.pipeline.settings.conf == 0.3  # its own stays as it is


def test_frames_as_images(walk, tmp_path):
    capture = cv2.VideoCapture(str(walk))
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"{i:03}.png"), capture.read()[1])
    found = list(Detector(ColorBackend()).track(tmp_path, fps=10))
    assert [len(one) for one in found] == [0, 2, 2, 2]
    (tmp_path / "002.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"002\.png"):
        list(Detector(ColorBackend()).track(tmp_path))


def at(left, score):
    """One detection of 20 x 20 pixels, and its frame."""
    box = np.array([[left, 10, left + 20, 30]], np.float32)
    return Detections(box, np.array([score], np.float32), np.array([0]), ("car",)), IMAGE


IMAGE = np.zeros((8, 8, 3), np.uint8)
NOTHING = (Detections.empty(("car",)), IMAGE)


def numbers(tracker, frames):
    return [tracker.update(*frame).track_ids.tolist() for frame in frames]


def test_weak_detections_go_on_with_objects_and_start_none():
    settings = TrackSettings(start_conf=0.6)
    assert numbers(Tracker(settings, fps=10), [at(0, 0.5), at(2, 0.5), at(4, 0.5)]) == [[]] * 3
    strong = numbers(Tracker(settings, fps=10), [at(0, 0.7), at(2, 0.7), at(4, 0.2), at(6, 0.2)])
    assert strong == [[], [1], [1], [1]]


@pytest.mark.parametrize(("lost_seconds", "last"), [(1.0, 1), (0.2, 2)])
def test_how_long_a_lost_object_keeps_its_number(lost_seconds, last):
    tracker = Tracker(TrackSettings(lost_seconds=lost_seconds), fps=10)
    frames = [at(0, 0.9)] * 3 + [NOTHING] * 5 + [at(0, 0.9)] * 2
    assert numbers(tracker, frames)[-1] == [last]


def test_results_keep_their_order_and_the_detections_own_values():
    boxes = np.array([[50, 0, 70, 20], [0, 0, 20, 20], [90, 0, 110, 20]], np.float32)
    scores = np.array([0.9, 0.8, 0.3], np.float32)
    found = Detections(boxes, scores, np.array([1, 0, 1]), ("cat", "dog"), source="a")
    tracker = Tracker(TrackSettings(), fps=10)
    tracker.update(found, IMAGE)
    tracked = tracker.update(found, IMAGE)
    np.testing.assert_array_equal(tracked.xyxy, boxes[:2])
    assert (tracked.scores.tolist(), tracked.class_ids.tolist()) == (scores[:2].tolist(), [1, 0])
    assert tracked.source == "a"
    assert sorted(tracked.track_ids.tolist()) == [1, 2]
    assert found.track_ids is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_conf": 1.5}, "`start_conf` must be from 0 to 1, got 1.5"),
        ({"lost_seconds": -1}, "`lost_seconds` must be at least 0, got -1"),
        ({"tracker": "kalman"}, "`tracker` must be one of bytetrack, .*got 'kalman'"),
        ({"colour": "red"}, "not colour"),
    ],
)
def test_wrong_settings_are_named(walk, options, message):
    with pytest.raises(UsageError, match=message):
        next(Detector(ColorBackend()).track(walk, **options))


@pytest.mark.parametrize(
    ("lines", "zones", "message"),
    [
        ([[(1, 1)]], [], "a line has two different points"),
        ([[(1, 1), (1, 1)]], [], "a line has two different points"),
        ([], [[(1, 1), (5, 5)]], "a zone has three points or more"),
    ],
)
def test_wrong_lines_and_zones_are_named(lines, zones, message):
    with pytest.raises(UsageError, match=message):
        Counter(lines, zones)


def test_two_videos_are_not_one(walk, tmp_path):
    for name in ("a.avi", "b.avi"):
        (tmp_path / name).write_bytes(walk.read_bytes())
    with pytest.raises(UsageError, match=r"expected one video.*; got 2 sources"):
        next(Detector(ColorBackend()).track(f"{tmp_path}/*.avi"))


def test_what_is_there_stays(walk, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="`max_frames` must be at least 1"):
        track(walk, out, max_frames=0)
    out.mkdir()
    (out / "mine.txt").touch()
    with pytest.raises(UsageError, match="already holds files"):
        track(walk, out)
    source = out / "tracks.mp4"
    source.write_bytes(walk.read_bytes())
    with pytest.raises(UsageError, match="the source would be replaced"):
        track(source, out, overwrite=True)


def test_an_interrupt_of_a_video_leaves_nothing(walk, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        track(walk, tmp_path / "new/out", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_and_leaves_nothing(walk, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OculoxError, match="the video could not be written"):
            track(walk, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(walk, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(MissingExtraError, match=r"tracking .*pip install 'oculox\[track\]'"):
        next(Detector(ColorBackend()).track(walk))


def test_tracked_results_show_their_numbers():
    found, _ = at(0, 0.9)
    tracked = dataclasses.replace(found, track_ids=np.array([7]))
    assert tracked[0].track_id == 7
    assert tracked[:0].track_ids.tolist() == []
    assert tracked.to_dicts()[0]["track_id"] == 7
    assert "track_id" not in found.to_dicts()[0]
    assert str(tracked).splitlines()[1].split()[:2] == ["7", "car"]
    back = Detections.from_supervision(tracked.to_supervision(), tracked.names)
    assert back.track_ids.tolist() == [7]
    assert Detections.from_supervision(found.to_supervision()).track_ids is None
    plain, numbered = (one.draw(np.zeros((60, 160, 3), np.uint8)) for one in (found, tracked))
    assert (plain != numbered).any()
    with pytest.raises(ValueError, match=r"track_ids must have shape \(1,\), got \(2,\)"):
        dataclasses.replace(found, track_ids=np.array([1, 2]))
