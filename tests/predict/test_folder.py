import io
import json

import cv2
import numpy as np
import pytest

from oculox.errors import OculoxError, UsageError
from oculox.predict.folder import predict_to_folder
from oculox.predict.sources import Source, find_sources
from oculox.predict.video import annotate_video
from red_images import red_image


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
    times = summary.times
    assert times.images == 2
    assert min(times.decode, times.preprocess, times.network, times.postprocess) > 0


def test_without_drawing(red_pipeline, tmp_path):
    source = save(tmp_path / "a.png")
    predict_to_folder(red_pipeline, find_sources([source]), output=tmp_path / "out", draw=False)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["predictions.json"]
    assert "image" not in entries(tmp_path / "out")[0]


def test_equal_names_do_not_collide(red_pipeline, tmp_path):
    sources = [save(tmp_path / d / n) for d, n in [("x", "a.png"), ("y", "a.png"), ("z", "A.png")]]
    out = tmp_path / "out"
    predict_to_folder(red_pipeline, find_sources(sources), output=out)
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
    assert entries(tmp_path / "out") == []


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
    assert summary.times.images == expected + 1
    assert summary.detections == expected + 1


def test_damaged_video_is_skipped_and_leaves_nothing(red_pipeline, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    out = tmp_path / "out"
    summary = predict_to_folder(red_pipeline, find_sources([tmp_path / "bad.mp4"]), output=out)
    assert "bad.mp4" in str(summary.unreadable[0].error)
    assert [p.name for p in out.iterdir()] == ["predictions.json"]


def test_absent_camera_is_told(red_pipeline, tmp_path):
    summary = predict_to_folder(red_pipeline, find_sources(["97"]), output=tmp_path / "out")
    assert "camera-97" in str(summary.unreadable[0].error)


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
