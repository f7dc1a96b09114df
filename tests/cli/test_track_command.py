"""`oculox track`: what it says, and what it refuses."""

import json

import pytest

from moving import write_sequence

pytest.importorskip("trackers", reason="trackers is not installed (extra: track)")


@pytest.fixture
def clip(tmp_path):
    return write_sequence(tmp_path / "clip.avi", frames=4)


def test_a_video(oculox, eager_pt, clip, tmp_path):
    places = ("--line", "96,0,96,127", "--line", "0,9,191,9", "--zone", "0,0,191,0,191,127,0,127")
    done = oculox("track", eager_pt, clip, "--output", tmp_path / "out", *places)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("4 frames; objects: ")
    assert [line.split(":")[0] for line in lines[1:4]] == ["line 1", "line 2", "zone 1"]
    assert lines[-1] == f"in {tmp_path / 'out'}: tracks.mp4, tracks.jsonl, tracks.txt"
    summary = json.loads((tmp_path / "out/summary.json").read_text("utf-8"))
    assert summary["zones"][0]["objects"] == sum(summary["objects"].values()) > 0
    assert summary["zones"][0]["points"][1] == [191, 0]
    assert set(summary["milliseconds"]) >= {"decode", "network", "total"}
    again = oculox("track", eager_pt, clip, "--output", tmp_path / "out")
    assert again.code == 2
    assert "pass --overwrite" in again.error


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--line=1,2,3", "expected x1,y1,x2,y2,... in pixels, got '1,2,3'"),
        ("--zone=a,b", "expected x1,y1,x2,y2,... in pixels, got 'a,b'"),
        ("--line=1,2,3,4,5,6", "a line has two different points"),
        ("--zone=1,2,3,4", "a zone has three points or more"),
        ("--tracker=kalman", "'kalman' is not one of"),
    ],
)
def test_wrong_options(oculox, eager_pt, clip, option, said):
    done = oculox("track", eager_pt, clip, option)
    assert done.code == 2
    assert said in " ".join(done.err.split())
    assert not clip.with_name("runs").exists()
