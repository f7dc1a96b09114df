import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch

from oculox.config.schema import AugmentConfig, Config, InputConfig
from oculox.data.batches import collate, order_indices
from oculox.data.cache import FileImages
from oculox.data.coco import CocoIndex
from oculox.data.faults import BadImages
from oculox.data.loader import (
    EvalLoader,
    TrainLoader,
    build_eval_loader,
    build_train_loader,
    choose_workers,
)
from oculox.data.preprocess import apply_letterbox, boxes_to_source, letterbox_geometry
from oculox.data.train_set import TrainSet
from oculox.errors import DataError
from oculox.types import Batch, Sample

MakeCoco = Callable[..., CocoIndex]
SIZE = (64, 96)
SIZES = [(40, 60), (64, 48), (33, 33), (20, 90), (50, 50), (41, 43), (64, 64)]
BOXES = [[(4, 5, 20, 15)], [], [(0, 0, 33, 33)] * 9, [(5, 5, 9, 9)], [], [(9, 9, 9, 9)], []]


@pytest.fixture
def index(make_coco: MakeCoco) -> CocoIndex:
    return make_coco(sizes_hw=SIZES, boxes=BOXES)


def train_loader(index: CocoIndex, **changes: object) -> TrainLoader:
    train_set = TrainSet(
        index,
        input_config=InputConfig(size=SIZE),
        augment=AugmentConfig(),
        max_labels=120,
        seed=5,
        images=FileImages(index),
    )
    return TrainLoader(train_set, **({"batch": 2, "seed": 5} | changes))


def eval_loader(index: CocoIndex, **changes: object) -> EvalLoader:
    values = {"input_config": InputConfig(size=SIZE), "batch": 3} | changes
    return EvalLoader(index, **values)


def same(a: Batch, b: Batch) -> bool:
    return (
        torch.equal(a.images, b.images)
        and all(torch.equal(x, y) for x, y in zip(a.targets, b.targets, strict=True))
        and (a.image_ids, a.source_hw) == (b.image_ids, b.source_hw)
    )


def assert_same(left: Iterator[Batch], right: Iterator[Batch]) -> None:
    for a, b in zip(left, right, strict=True):
        assert same(a, b)


@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_collate_pads_labels_and_orders_channels(color) -> None:
    rng = np.random.default_rng(0)
    samples = [
        Sample(
            image=rng.integers(0, 256, (32, 64, 3), np.uint8),
            boxes=rng.random((count, 4), np.float32),
            labels=np.arange(count),
            image_id=name,
            source_hw=(5, 6),
        )
        for count, name in ((0, "a"), (9, 7))
    ]
    batch = collate(samples, color=color)
    channels = [0, 1, 2] if color == "bgr" else [2, 1, 0]
    for image, sample in zip(batch.images, samples, strict=True):
        assert np.array_equal(image.numpy(), sample.image.transpose(2, 0, 1)[channels])
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.images.dtype == torch.uint8
    assert batch.targets.boxes.shape == (2, 16, 4)
    assert batch.targets.labels.shape == batch.targets.mask.shape == (2, 16)
    assert batch.targets.mask.sum(dim=1).tolist() == [0, 9]
    assert np.array_equal(batch.targets.boxes[1, :9].numpy(), samples[1].boxes)
    assert batch.targets.labels[1, :9].tolist() == list(range(9))
    assert batch.targets.boxes[0].abs().sum() == 0
    assert batch.image_ids == ("a", 7)
    assert batch.source_hw == ((5, 6), (5, 6))


def test_batch_without_objects_keeps_some_slots(make_coco: MakeCoco) -> None:
    loader = eval_loader(make_coco(boxes=[[], [], []]))
    (batch,) = loader
    assert batch.targets.boxes.shape == (3, 8, 4)
    assert not batch.targets.mask.any()


def test_order_is_one_permutation_after_another() -> None:
    whole = order_indices(7, seed=1, start=0, count=21)
    assert [sorted(whole[k : k + 7]) for k in (0, 7, 14)] == [list(range(7))] * 3
    assert len({tuple(whole[k : k + 7]) for k in (0, 7, 14)}) == 3
    for start, count in ((0, 1), (6, 2), (7, 7), (3, 15)):
        part = order_indices(7, seed=1, start=start, count=count)
        assert part.tolist() == whole[start : start + count].tolist()
    assert order_indices(7, seed=2, start=0, count=7).tolist() != whole[:7].tolist()
    assert order_indices(1, seed=0, start=5, count=3).tolist() == [0, 0, 0]


def test_epochs_follow_each_other_in_the_order(index: CocoIndex) -> None:
    loader = train_loader(index)
    assert loader.steps_per_epoch == 4
    seen = [i for e in range(3) for b in loader.iterate(e, mosaic=False) for i in b.image_ids]
    expected = order_indices(7, seed=5, start=0, count=24)
    assert seen == [index.image_id(i) for i in expected]


@pytest.mark.parametrize("mosaic", [True, False])
def test_batches_do_not_depend_on_the_number_of_workers(index: CocoIndex, mosaic: bool) -> None:
    alone, one, two = (train_loader(index, workers=n) for n in (0, 1, 2))
    for epoch in (0, 1):
        assert_same(alone.iterate(epoch, mosaic=mosaic), two.iterate(epoch, mosaic=mosaic))
    # The same processes serve another epoch and phase, after a pass that was left early.
    next(one.iterate(0, mosaic=mosaic))
    assert_same(alone.iterate(3, mosaic=not mosaic), one.iterate(3, mosaic=not mosaic))


def test_global_batch_does_not_depend_on_the_number_of_processes(index: CocoIndex) -> None:
    whole = train_loader(index, batch=4)
    halves = [train_loader(index, batch=2, rank=r, world_size=2) for r in (0, 1)]
    assert whole.steps_per_epoch == halves[0].steps_per_epoch == 2
    passes = [h.iterate(1, mosaic=True) for h in halves]
    for batch, *parts in zip(whole.iterate(1, mosaic=True), *passes, strict=True):
        assert torch.equal(batch.images, torch.cat([p.images for p in parts]))
        assert batch.image_ids == parts[0].image_ids + parts[1].image_ids


@pytest.mark.parametrize("workers", [0, 1])
def test_resuming_within_an_epoch_gives_the_rest_of_it(index: CocoIndex, workers: int) -> None:
    whole = islice(train_loader(index).iterate(2, mosaic=True), 3, None)
    assert_same(whole, train_loader(index, workers=workers).iterate(2, mosaic=True, start_step=3))
    assert list(train_loader(index).iterate(2, mosaic=True, start_step=4)) == []


def test_fewer_images_than_a_batch(make_coco: MakeCoco) -> None:
    loader = train_loader(make_coco(sizes_hw=[(20, 20)], boxes=[[]]), batch=5)
    assert loader.steps_per_epoch == 1
    (batch,) = loader.iterate(0, mosaic=True)
    assert batch.images.shape == (5, 3, *SIZE)
    assert batch.image_ids == (1,) * 5


def test_loading_leaves_the_global_generators_alone(index: CocoIndex) -> None:
    torch.manual_seed(3)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for loader in (train_loader(index), train_loader(index, workers=1)):
        list(loader.iterate(0, mosaic=True))
    list(eval_loader(index))
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_image_reaches_the_user_as_its_own_error(index: CocoIndex, workers: int) -> None:
    index.image_path(3).write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        list(eval_loader(index, workers=workers))
    assert str(caught.value).startswith(str(index.image_path(3)))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"3\.png"):
        list(train_loader(index, workers=workers).iterate(0, mosaic=False))


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_left_out_up_to_the_limit(index: CocoIndex, workers: int) -> None:
    index.image_path(3).write_bytes(b"no image")
    name = str(index.image_path(3))
    batches = list(eval_loader(index, workers=workers, max_bad_images=1))
    (fault,) = batches[1].faults[0]
    assert fault.startswith(name)
    assert batches[1].images[0].unique().tolist() == [114]
    assert [f for b in batches for f in b.faults].count(()) == len(SIZES) - 1
    loader = train_loader(index, workers=workers, bad=BadImages(1, setting="some.key"))
    for epoch in range(2):
        faults = {f for b in loader.iterate(epoch, mosaic=False) for part in b.faults for f in part}
        assert faults == {fault}
    index.image_path(5).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad images: 2, and some\.key allows 1"):
        list(loader.iterate(2, mosaic=False))


def test_error_and_close_stop_the_processes_at_once(index: CocoIndex) -> None:
    """Even while the error's traceback keeps the loader alive."""
    before = set(multiprocessing.active_children())
    loader = eval_loader(index, workers=2)
    first = list(loader)
    assert len(set(multiprocessing.active_children()) - before) == 2
    loader.close()
    assert set(multiprocessing.active_children()) <= before
    assert_same(iter(first), iter(list(loader)))
    index.image_path(3).write_bytes(b"no image")
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        list(loader)
    assert set(multiprocessing.active_children()) <= before
    assert time.monotonic() - start < 4
    assert caught.traceback


def kill_reader(_: int, __: float) -> np.ndarray:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_killed_worker_is_reported_not_waited_for(index: CocoIndex) -> None:
    train_set = TrainSet(
        index,
        input_config=InputConfig(size=SIZE),
        augment=AugmentConfig(),
        max_labels=120,
        seed=0,
        images=kill_reader,
    )
    loader = TrainLoader(train_set, batch=2, workers=1)
    with pytest.raises(DataError, match=r"a loader process died .*data\.workers"):
        list(loader.iterate(0, mosaic=False))


def test_a_worker_that_hangs_is_waited_for_no_longer_than_stated(
    index: CocoIndex, monkeypatch
) -> None:
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 1)
    # Nobody ever writes to it: reading waits for ever, as on a disk that is gone.
    index.image_path(3).unlink()
    os.mkfifo(index.image_path(3))
    before = set(multiprocessing.active_children())
    loader = eval_loader(index, workers=1, batch=2, timeout=1)
    began = time.monotonic()
    images = f"{index.file_name(2)}, {index.file_name(3)};"
    with pytest.raises(DataError, match=f"have not answered for 1 s .*{images}"):
        list(loader)
    assert time.monotonic() - began < 20
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("placement", ["top_left", "center"])
def test_evaluation_sees_every_image_once(index: CocoIndex, workers: int, placement) -> None:
    rgb = InputConfig(size=SIZE, placement=placement, color="rgb")
    loaders = [
        eval_loader(index, input_config=rgb, workers=workers, rank=r, world_size=2) for r in (0, 1)
    ]
    batches = [list(loader) for loader in loaders]
    assert [len(b) for b in batches] == [len(loader) for loader in loaders] == [2, 1]
    seen = [i for part in batches for b in part for i in b.image_ids]
    assert seen == [1, 3, 5, 7, 2, 4, 6]
    for batch in (b for part in batches for b in part):
        for row, image_id in enumerate(batch.image_ids):
            i = index.image_ids.index(image_id)
            fit = letterbox_geometry(batch.source_hw[row], SIZE, placement)
            image = apply_letterbox(FileImages(index)(i), fit, pad_value=114)
            assert np.array_equal(batch.images[row].numpy(), image.transpose(2, 0, 1)[::-1])
            boxes = batch.targets.boxes[row][batch.targets.mask[row]].numpy()
            np.testing.assert_allclose(boxes_to_source(boxes, fit), index.boxes(i), atol=1e-3)
            assert (
                batch.targets.labels[row][batch.targets.mask[row]].tolist()
                == index.labels(i).tolist()
            )


def test_evaluation_passes_repeat_and_may_be_empty(index: CocoIndex) -> None:
    loader = eval_loader(index, workers=1)
    assert_same(iter(list(loader)), iter(list(loader)))
    idle = eval_loader(index, rank=7, world_size=8)
    assert len(idle) == 0
    assert list(idle) == []


@pytest.mark.parametrize(
    ("workers", "images", "processes", "expected"),
    [(3, 5, 1, 3), (0, 10**6, 1, 0), ("auto", 63, 1, 0), ("auto", 10**6, 10**6, 1)],
)
def test_choice_of_workers(workers, images: int, processes: int, expected: int) -> None:
    assert choose_workers(workers, image_count=images, processes=processes) == expected


def test_processes_on_other_machines_take_no_cores(
    index: CocoIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines of four processes each; one core of each four is for a process itself."""
    monkeypatch.setattr("oculox.data.loader._TINY", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    for build in (build_eval_loader, partial(build_train_loader, batch_per_process=1)):
        loader = build(Config(), index, world_size=8)
        assert loader._loader.num_workers == 3


def test_automatic_workers_stay_in_bounds() -> None:
    assert 1 <= choose_workers("auto", image_count=1000) <= 16


@pytest.mark.parametrize("cache", ["none", "ram", "disk"])
def test_loaders_from_a_configuration(index: CocoIndex, tmp_path, cache: str) -> None:
    config = Config.model_validate(
        {
            "input": {"size": SIZE, "color": "rgb", "placement": "center"},
            "data": {"cache": cache, "workers": 0},
            "eval": {"batch": 4},
            "train": {"device": "cpu", "seed": 9},
        }
    )
    loader = build_train_loader(config, index, batch_per_process=3)
    assert loader.steps_per_epoch == 3
    batch = next(loader.iterate(0, mosaic=True))
    assert batch.images.shape == (3, 3, *SIZE)
    assert list(batch.image_ids) == [
        index.image_id(i) for i in order_indices(7, seed=9, start=0, count=3)
    ]
    evaluation = build_eval_loader(config, index, rank=1, world_size=2)
    assert [b.image_ids for b in evaluation] == [(2, 4, 6)]
    assert len(list(index.annotations.parent.glob("*.npy"))) == (cache == "disk")
