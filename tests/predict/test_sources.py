import io
import os

import cv2
import numpy as np
import pytest
from PIL import Image

from oculox.errors import DataError, UsageError
from oculox.predict.sources import find_sources, read_source
from red_images import red_image


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "notes.txt", "deep/c.png", "[1].png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no image")
        else:
            path.write_bytes(cv2.imencode(path.suffix.lower(), red_image())[1].tobytes())
    (tmp_path / "film.mp4").write_bytes(b"no film")
    return tmp_path


def names(sources, root):
    return [s.path.relative_to(root).as_posix() for s in sources]


@pytest.mark.parametrize(
    ("given", "recursive", "expected"),
    [
        (["."], False, ["[1].png", "a.PNG", "b.jpg"]),
        (["."], True, ["[1].png", "a.PNG", "b.jpg", "deep/c.png"]),
        (["b.jpg", "a.PNG"], False, ["b.jpg", "a.PNG"]),
        (["b.jpg", "."], False, ["b.jpg", "[1].png", "a.PNG"]),
        (["b.jpg", "deep/../b.jpg"], False, ["b.jpg"]),
        (["*.*"], False, ["[1].png", "a.PNG", "b.jpg", "film.mp4"]),
        (["**/*.png"], False, ["[1].png", "deep/c.png"]),
        (["[1].png"], False, ["[1].png"]),
    ],
)
def test_finds_images(folder, given, recursive, expected):
    found = find_sources([f"{folder}/{g}" for g in given], recursive=recursive)
    assert names(found, folder) == expected


@pytest.mark.parametrize(
    ("given", "kind", "address"),
    [("-", "stdin", None), ("0", "camera", 0), ("rtsp://host/x", "camera", "rtsp://host/x")],
)
def test_sources_without_files(given, kind, address):
    (source,) = find_sources([given])
    assert (source.kind, source.address, source.path) == (kind, address, None)


@pytest.mark.parametrize(("name", "kind"), [("a.JPG?size=3", "image"), ("live", "camera")])
def test_an_address_that_does_not_answer_is_what_its_suffix_says(name, kind, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert find_sources([f"http://127.0.0.1:9/{name}"])[0].kind == kind


def test_video_by_suffix(folder):
    assert [s.kind for s in find_sources([folder / "film.mp4"])] == ["video"]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("gone.jpg", DataError, "gone.jpg: no such file"),
        ("gone/*.jpg", DataError, "no image or video matches"),
        ("notes.txt", UsageError, r"notes.txt: \.txt is not an image"),
        ("empty", DataError, "empty: no images in this folder"),
    ],
)
def test_what_is_not_there_is_named_at_once(folder, given, error, message):
    (folder / "empty").mkdir()
    with pytest.raises(error, match=message):
        find_sources([folder / "b.jpg", folder / given])


def test_nothing_given():
    with pytest.raises(UsageError, match="no sources"):
        find_sources([])


def test_a_bad_image_is_told(folder):
    (folder / "b.jpg").write_bytes(b"no image")
    good, *_, bad = find_sources([folder])
    np.testing.assert_array_equal(read_source(good).image, red_image())
    with pytest.raises(DataError, match=r"b\.jpg"):
        read_source(bad)


def test_standard_input():
    encoded = cv2.imencode(".png", red_image())[1].tobytes()
    (source,) = find_sources(["-"])
    np.testing.assert_array_equal(read_source(source, stdin=io.BytesIO(encoded)).image, red_image())
    with pytest.raises(DataError, match="standard input"):
        read_source(source, stdin=io.BytesIO(b""))


def test_images_are_read_upright(tmp_path):
    image = Image.fromarray(red_image()[..., ::-1])
    exif = Image.Exif()
    exif[0x0112] = 8  # turned by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    (source,) = find_sources([tmp_path])
    assert read_source(source).image.shape == (120, 48, 3)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such links by default")
def test_one_file_under_two_names_comes_once(folder):
    (folder / "link.jpg").symlink_to(folder / "b.jpg")
    assert len(find_sources([folder / "link.jpg", folder / "b.jpg"])) == 1
