"""The criterion: official values, and what must not change them."""

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from oculox.config.schema import LossConfig
from oculox.losses import Criterion, build_criterion
from oculox.losses.simota import PAIRS_AT_ONCE
from oculox.ops.boxes import cxcywh_to_xyxy
from oculox.ops.points import level_sizes_of
from oculox.types import LossTerms, RawPredictions, Targets

STRIDES = (8, 16, 32)
CLASSES = 5


def make_raw(seed=0, *, batch=3, size=(96, 128), classes=CLASSES, device="cpu", dtype=None):
    rng = torch.Generator().manual_seed(seed)
    level_sizes = level_sizes_of(*size, STRIDES)
    n = sum(rows * columns for rows, columns in level_sizes)
    tensors = (
        torch.randn(shape, generator=rng).to(device, dtype).requires_grad_()
        for shape in ((batch, n, 4), (batch, n), (batch, n, classes))
    )
    return RawPredictions(*tensors, level_sizes)


def make_targets(seed=0, *, batch=3, slots=7, size=(96, 128), classes=CLASSES, device="cpu"):
    """Image i has `slots` - 2 i objects."""
    rng = torch.Generator().manual_seed(seed)
    centers = torch.rand(batch, slots, 2, generator=rng) * torch.tensor([size[1], size[0]])
    sides = torch.rand(batch, slots, 2, generator=rng) * 60 + 2
    labels = torch.randint(classes, (batch, slots), generator=rng)
    mask = torch.arange(slots) < slots - 2 * torch.arange(batch)[:, None]
    boxes = torch.cat((centers - sides / 2, centers + sides / 2), -1)
    return Targets(boxes.to(device), labels.to(device), mask.to(device))


def make_criterion(**options):
    return Criterion(num_classes=CLASSES, strides=STRIDES, **options)


def gradients(raw, terms):
    leaves = raw[:3]
    total = terms.box + terms.objectness + terms.classes + terms.l1
    return torch.autograd.grad(total, leaves)


def assert_close(a, b, **tolerance):
    for name in LossTerms._fields:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), msg=name, **tolerance)


@pytest.mark.parametrize("use_l1", [False, True])
@pytest.mark.parametrize("name", ["g0_background", "g1", "g8", "g30_small", "g100_crowded"])
def test_official_losses(shared, name, use_l1):
    golden = np.load(shared / f"golden/assign_{name}.npz")
    raw, size = torch.from_numpy(golden["raw"]), int(golden["size"])
    labels = torch.from_numpy(golden["gt_cls"]).long()[None]
    terms = Criterion(num_classes=80, strides=STRIDES)(
        RawPredictions(
            raw[..., :4], raw[..., 4], raw[..., 5:], level_sizes_of(size, size, STRIDES)
        ),
        Targets(
            cxcywh_to_xyxy(torch.from_numpy(golden["gt_cxcywh"]))[None],
            labels,
            torch.ones_like(labels, dtype=torch.bool),
        ),
        use_l1=use_l1,
    )
    box, objectness, classes, l1, positives, objects = (float(t) for t in terms)
    divisor = max(positives, 1)
    found = [box + objectness + classes + l1, box, objectness, classes, l1, divisor * divisor]
    found[-1] /= max(objects, 1)
    np.testing.assert_allclose(
        np.array(found) / divisor, golden[f"loss_l1_{int(use_l1)}"], rtol=1e-4
    )


def test_a_batch_is_the_sum_of_its_images():
    raw, targets, criterion = make_raw(), make_targets(), make_criterion()
    together = criterion(raw, targets, use_l1=True)
    singles = [
        criterion(
            RawPredictions(*(t[i : i + 1] for t in raw[:3]), raw.level_sizes),
            Targets(*(t[i : i + 1] for t in targets)),
            use_l1=True,
        )
        for i in range(3)
    ]
    assert_close(together, LossTerms(*(sum(t) for t in zip(*singles, strict=True))))
    assert together.objects == 7 + 5 + 3
    assert together.positives >= 15


@pytest.mark.parametrize("content", [0.0, math.nan, -1e9])
def test_more_padding_changes_nothing(content):
    raw, targets, criterion = make_raw(), make_targets(), make_criterion()
    padded = Targets(
        torch.cat((targets.boxes, torch.full((3, 40, 4), content)), 1),
        torch.cat((targets.labels, torch.full((3, 40), -1)), 1),
        torch.cat((targets.mask, torch.zeros(3, 40, dtype=torch.bool)), 1),
    )
    plain, wide = (criterion(raw, t, use_l1=True) for t in (targets, padded))
    assert_close(plain, wide)
    for a, b in zip(gradients(raw, plain), gradients(raw, wide), strict=True):
        torch.testing.assert_close(a, b)


def test_the_order_of_objects_changes_nothing():
    raw, criterion = make_raw(), make_criterion()
    targets = make_targets()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    shuffled = Targets(*(t[:, order] for t in targets))
    assert_close(criterion(raw, targets, use_l1=True), criterion(raw, shuffled, use_l1=True))


@pytest.mark.parametrize("slots", [0, 4])
def test_images_without_objects_have_objectness_loss_alone(slots):
    raw = make_raw()
    targets = Targets(
        boxes=torch.full((3, slots, 4), math.nan),
        labels=torch.full((3, slots), -1),
        mask=torch.zeros(3, slots, dtype=torch.bool),
    )
    terms = make_criterion()(raw, targets, use_l1=True)
    expected = torch.nn.functional.softplus(raw.objectness).sum()
    torch.testing.assert_close(terms.objectness, expected)
    assert terms[:1] + terms[2:] == (0, 0, 0, 0, 0)
    deltas, objectness, classes = gradients(raw, terms)
    assert not deltas.any()
    assert not classes.any()
    assert objectness.all()


@pytest.mark.parametrize(
    "box",
    [
        pytest.param((30, 30, 30, 30), id="point"),
        pytest.param((30, 30, 30, 50), id="no width"),
        pytest.param((50, 50, 30, 30), id="inverted"),
        pytest.param((-900, -900, -800, -800), id="outside"),
        pytest.param((-1e5, -1e5, 1e5, 1e5), id="huge"),
        pytest.param((30, 30, 30.001, 30.001), id="speck"),
    ],
)
def test_odd_boxes_have_finite_losses_and_gradients(box):
    raw, targets = make_raw(), make_targets()
    targets.boxes[:, 0] = torch.tensor(box)
    terms = make_criterion()(raw, targets, use_l1=True)
    for tensor in (*terms, *gradients(raw, terms)):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("value", [0, 30, -30, 1e4, -1e4, 1e9])
@pytest.mark.parametrize("field", ["deltas", "objectness", "classes"])
def test_wild_predictions_have_finite_losses_and_gradients(field, value):
    raw = make_raw()
    with torch.no_grad():
        getattr(raw, field)[:, ::2] = value
    terms = make_criterion()(raw, make_targets(), use_l1=True)
    for tensor in (*terms, *gradients(raw, terms)):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("field", ["deltas", "objectness", "classes"])
def test_nan_predictions_reach_the_loss(field):
    raw = make_raw()
    with torch.no_grad():
        getattr(raw, field).fill_(math.nan)
    terms = make_criterion()(raw, make_targets(), use_l1=False)
    assert not (terms.box + terms.objectness + terms.classes).isfinite()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_cast_up_first(dtype):
    raw, targets, criterion = make_raw(dtype=dtype), make_targets(), make_criterion()
    terms = criterion(raw, targets, use_l1=True)
    single = RawPredictions(*(t.detach().float() for t in raw[:3]), raw.level_sizes)
    assert all(t.dtype == torch.float32 for t in terms)
    assert_close(terms, criterion(single, targets, use_l1=True), rtol=0, atol=0)
    assert all(g.dtype == dtype and g.isfinite().all() for g in gradients(raw, terms))


def test_autocast_changes_nothing():
    raw, targets, criterion = make_raw(), make_targets(), make_criterion()
    plain = criterion(raw, targets, use_l1=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(plain, criterion(raw, targets, use_l1=True), rtol=0, atol=0)


def test_arguments_are_not_changed():
    raw, targets = make_raw(), make_targets()
    before = [t.detach().clone() for t in (*raw[:3], *targets)]
    make_criterion()(raw, targets, use_l1=True)
    for a, b in zip(before, (*raw[:3], *targets), strict=True):
        assert torch.equal(a, b)


def test_without_l1_its_term_alone_is_zero():
    raw, targets, criterion = make_raw(), make_targets(), make_criterion()
    off, on = (criterion(raw, targets, use_l1=flag) for flag in (False, True))
    assert off.l1 == 0
    assert on.l1 > 0
    assert_close(off, on._replace(l1=off.l1))


def test_another_number_of_classes_is_an_error():
    with pytest.raises(ValueError, match=r"must have 5 classes, got 6"):
        make_criterion()(make_raw(classes=6), make_targets(), use_l1=False)


def test_the_builder_hands_on_every_value():
    config = LossConfig(candidates_k=3, center_radius=2.0, box_weight=1.5)
    built = build_criterion(config, num_classes=CLASSES, strides=STRIDES)
    expected = make_criterion(candidates_k=3, center_radius=2.0, box_weight=1.5)
    assert vars(built) == vars(expected)
    assert vars(build_criterion(LossConfig(), num_classes=CLASSES, strides=STRIDES)) == vars(
        make_criterion()
    )


class LargestTensor(TorchDispatchMode):
    """Notes the most elements of any tensor that comes out of an operation."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            # An expanded view has many elements but no memory of its own.
            if isinstance(leaf, torch.Tensor) and 0 not in leaf.stride():
                self.elements = max(self.elements, leaf.numel())
        return out


def test_nothing_depends_on_values_and_memory_is_bounded():
    # Tensors on "meta" have shapes but no values: whatever waits for the device, or take a
    # shape from data, fails there. 1,000 objects in each of 16 images of 640 pixels:
    options = {"batch": 16, "size": (640, 640), "classes": 80, "device": "meta"}
    raw, targets = make_raw(**options), make_targets(slots=1000, **options)
    predictions = raw.classes.numel()
    with LargestTensor() as largest:
        terms = Criterion(num_classes=80, strides=STRIDES)(raw, targets, use_l1=True)
        (terms.box + terms.objectness + terms.classes + terms.l1).backward()
    assert largest.elements <= max(predictions, PAIRS_AT_ONCE)
    assert raw.deltas.grad.shape == raw.deltas.shape


@pytest.mark.gpu
def test_a_step_does_not_wait_for_the_device():
    device = "cuda"
    raw, targets, criterion = make_raw(device=device), make_targets(device=device), make_criterion()
    criterion(raw, targets, use_l1=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        terms = criterion(raw, targets, use_l1=True)
        gradients(raw, terms)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = criterion(make_raw(), make_targets(), use_l1=True)
    assert_close(LossTerms(*(t.cpu() for t in terms)), expected)
