import os
import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from oculox.config.schema import InputConfig
from oculox.data import cache
from oculox.data.cache import (
    FileImages,
    available_memory,
    build_images,
    find_caches,
    remove_cache,
)
from oculox.data.coco import CocoIndex
from oculox.data.faults import BadImages
from oculox.data.preprocess import apply_letterbox, letterbox_geometry
from oculox.errors import DataError

MakeCoco = Callable[..., CocoIndex]
SIZE = (32, 32)
INPUT = InputConfig(size=SIZE)


@pytest.fixture
def index(make_coco: MakeCoco) -> CocoIndex:
    """Two images larger than the input, one smaller."""
    return make_coco(sizes_hw=[(40, 60), (64, 48), (20, 30)])


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.npy"))


@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize("placement", ["top_left", "center"])
def test_cached_images_letterbox_to_the_same_pixels(
    index: CocoIndex, tmp_path: Path, kind, placement
) -> None:
    images = build_images(
        index,
        cache=kind,
        input_config=INPUT.model_copy(update={"placement": placement}),
        folder=tmp_path,
    )
    plain = build_images(index, cache="none", input_config=INPUT)
    for i in range(len(index)):
        fit = letterbox_geometry(index.source_hw(i), SIZE, placement)
        cached = images(i)
        assert cached.shape[:2] == min(fit.inner_hw, index.source_hw(i))
        assert np.array_equal(
            apply_letterbox(cached, fit, pad_value=114),
            apply_letterbox(plain(i), fit, pad_value=114),
        )
    assert np.array_equal(images(2), plain(2))


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_cached_images_need_no_files(index: CocoIndex, tmp_path: Path, kind) -> None:
    images = build_images(index, cache=kind, input_config=INPUT, folder=tmp_path)
    before = [np.array(images(i)) for i in range(3)]
    for i in range(3):
        index.image_path(i).unlink()
    copy = pickle.loads(pickle.dumps(images))  # noqa: S301
    for i in range(3):
        assert np.array_equal(images(i), before[i])
        assert np.array_equal(copy(i), before[i])


def test_pickled_disk_cache_stays_on_disk(index: CocoIndex, tmp_path: Path) -> None:
    images = build_images(index, cache="disk", input_config=INPUT, folder=tmp_path)
    images(0)
    assert len(pickle.dumps(images)) < files_in(tmp_path)[0].stat().st_size / 2


def test_disk_cache_is_used_again(index: CocoIndex, tmp_path: Path) -> None:
    build_images(index, cache="disk", input_config=INPUT, folder=tmp_path / "deep/er")
    (first,) = files_in(tmp_path / "deep/er")
    time = first.stat().st_mtime_ns
    build_images(index, cache="disk", input_config=INPUT, folder=tmp_path / "deep/er")
    assert files_in(tmp_path / "deep/er") == [first]
    assert first.stat().st_mtime_ns == time


def test_changed_images_or_sizes_are_never_served_stale(index: CocoIndex, tmp_path: Path) -> None:
    build_images(index, cache="disk", input_config=INPUT, folder=tmp_path)
    white = np.full((64, 48, 3), 255, np.uint8)
    cv2.imwrite(str(index.image_path(1)), white)
    assert build_images(index, cache="disk", input_config=INPUT, folder=tmp_path)(1).min() == 255
    # The same number of bytes at another time is a change too.
    stat = index.image_path(1).stat()
    os.utime(index.image_path(1), ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    build_images(index, cache="disk", input_config=INPUT, folder=tmp_path)
    larger = build_images(index, cache="disk", input_config=INPUT.at((48, 48)), folder=tmp_path)
    assert larger(0).shape == (32, 48, 3)
    assert [path.name.split("-")[3] for path in files_in(tmp_path)] == ["48x48"]


def test_a_cache_that_a_run_reads_is_kept(index: CocoIndex, tmp_path: Path) -> None:
    notes: list[str] = []
    options = {"cache": "disk", "folder": tmp_path, "report": notes.append}
    used = build_images(index, input_config=INPUT, **options)
    build_images(index, input_config=INPUT.at((48, 48)), **options)
    assert [one.input_size for one in find_caches(tmp_path)] == ["32x32", "48x48"]
    assert not remove_cache(find_caches(tmp_path)[0].path)
    del used
    build_images(index, input_config=INPUT.at((64, 64)), **options)
    assert [one.input_size for one in find_caches(tmp_path)] == ["64x64"]
    build_images(index, input_config=INPUT.at((64, 64)), **options)
    assert ["earlier run" in note for note in notes] == [False, False, False, True]
    assert notes[2].endswith("older caches of the split removed: 2")
    assert remove_cache(find_caches(tmp_path)[0].path)
    assert list(tmp_path.glob("oculox-cache-*.npy")) == []


def test_damaged_disk_cache_is_rebuilt(index: CocoIndex, tmp_path: Path) -> None:
    build_images(index, cache="disk", input_config=INPUT, folder=tmp_path)
    (path,) = files_in(tmp_path)
    for damaged in (b"", b"garbage", path.read_bytes()[:-100]):
        path.write_bytes(damaged)
        images = build_images(index, cache="disk", input_config=INPUT, folder=tmp_path)
        assert np.array_equal(images(2), FileImages(index)(2))


def test_each_writer_of_a_disk_cache_has_a_file_of_its_own(
    index: CocoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    decoded = cache._decoded

    def watched(*arguments, **options):
        seen.extend(path.name for path in tmp_path.glob("*.partial"))
        return decoded(*arguments, **options)

    monkeypatch.setattr(cache, "_decoded", watched)
    for _ in range(2):
        build_images(index, cache="disk", input_config=INPUT, folder=tmp_path)
        (path,) = files_in(tmp_path)
        path.unlink()
        path.with_suffix(".0123abcd.partial").write_bytes(b"of a process that was killed")
    assert len(set(seen)) == len(seen) == 2


def test_failed_disk_cache_leaves_nothing(index: CocoIndex, tmp_path: Path) -> None:
    index.image_path(2).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"2\.png: not an image"):
        build_images(index, cache="disk", input_config=INPUT, folder=tmp_path / "kept")
    assert [p.suffix for p in (tmp_path / "kept").iterdir()] == [".lock"]


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_images_that_cannot_be_kept_are_counted(index: CocoIndex, tmp_path: Path, kind) -> None:
    index.image_path(1).write_bytes(b"no image")
    bad = BadImages(1, setting="some.key")
    for _ in range(2):  # filled, and on disk read again
        images = build_images(index, cache=kind, input_config=INPUT, folder=tmp_path, bad=bad)
        assert images(0).shape == (21, 32, 3)
        assert np.array_equal(images(2), FileImages(index)(2))
        with pytest.raises(DataError, match=r"1\.png: not an image"):
            images(1)
    index.image_path(2).write_bytes(b"")
    with pytest.raises(DataError, match=r"2\.png: .* bad images: 2, and some\.key allows 1"):
        build_images(index, cache=kind, input_config=INPUT, folder=tmp_path, bad=bad)


def test_cache_that_does_not_fit_is_refused(
    index: CocoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "available_memory", lambda: 20_000)
    assert build_images(index, cache="ram", input_config=INPUT)(0).shape == (21, 32, 3)
    with pytest.raises(DataError, match=r"data\.cache=ram: 3 images need .*4 processes"):
        build_images(index, cache="ram", input_config=INPUT, processes=4)
    full = os.statvfs(tmp_path)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: full_disk(full))
    with pytest.raises(DataError, match=r"data\.cache=disk: .* free"):
        build_images(index, cache="disk", input_config=INPUT, folder=tmp_path)


def full_disk(_: os.statvfs_result):
    return type("Usage", (), {"free": 10})


def test_unwritable_cache_folder_is_refused(index: CocoIndex, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot keep the image cache"):
        build_images(index, cache="disk", input_config=INPUT, folder=tmp_path / "file")


def test_available_memory_is_plausible_or_unknown() -> None:
    found = available_memory()
    assert found is None or 2**20 < found < 2**50


@pytest.mark.parametrize(("size", "hint"), [((60, 40), "EXIF"), ((40, 61), "correct")])
def test_image_of_another_size_than_annotated_is_refused(
    index: CocoIndex, size: tuple[int, int], hint: str
) -> None:
    cv2.imwrite(str(index.image_path(0)), np.zeros((*size, 3), np.uint8))
    with pytest.raises(DataError, match=rf"0\.png: the image is {size[1]} x {size[0]}.*{hint}"):
        FileImages(index)(0)
