"""The terms: values by hand, and gradients by finite differences."""

import math

import pytest
import torch

from oculox.losses.terms import class_loss, iou_loss, l1_loss, objectness_loss


@pytest.mark.parametrize(
    ("predicted", "target", "expected"),
    [
        ((5, 5, 4, 4), (5, 5, 4, 4), 0),
        ((5, 5, 4, 4), (7, 5, 4, 4), 1 - (1 / 3) ** 2),
        ((5, 5, 4, 4), (50, 5, 4, 4), 1),
        ((5, 5, 4, 4), (9, 9, 4, 4), 1),
        ((5, 5, 0, 0), (5, 5, 4, 4), 1),
        ((5, 5, 0, 0), (5, 5, 0, 0), 1),
        ((5, 5, 2, 4), (5, 5, 4, 2), 1 - (4 / 12) ** 2),
    ],
)
def test_iou_loss(predicted, target, expected):
    predicted = torch.tensor(predicted, dtype=torch.float32, requires_grad=True)
    loss = iou_loss(predicted, torch.tensor(target, dtype=torch.float32))
    loss.backward()
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert predicted.grad.isfinite().all()


def test_iou_loss_of_wild_boxes_has_finite_gradients():
    predicted = torch.tensor(
        [[math.inf, 5, 4, 4], [5, 5, 1e9, 1e9], [1e38, -1e38, 1, 1]], requires_grad=True
    )
    loss = iou_loss(predicted, torch.tensor([5.0, 5, 4, 4]))
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.ones(3))
    assert predicted.grad[:, 2:].isfinite().all()


def test_no_boxes():
    none = torch.zeros(2, 0, 4)
    assert iou_loss(none, none).shape == l1_loss(none, none).shape == (2, 0)
    assert class_loss(none, none[..., 0].long(), none[..., 0]).shape == (2, 0)


def test_gradients_by_finite_differences():
    rng = torch.Generator().manual_seed(0)
    boxes = torch.rand(8, 4, generator=rng, dtype=torch.float64) * 4 + 1
    target = boxes + 0.7 * torch.rand(8, 4, generator=rng, dtype=torch.float64)
    labels, iou = torch.arange(8) % 4, torch.rand(8, generator=rng, dtype=torch.float64)
    inputs = boxes.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: iou_loss(x, target), (inputs,))
    assert torch.autograd.gradcheck(lambda x: l1_loss(x, target), (inputs,))
    assert torch.autograd.gradcheck(lambda x: class_loss(x, labels, iou), (inputs,))


def test_cross_entropies_by_hand():
    logits = torch.tensor([[2.0, -1.0]])

    def entropy(x, target):
        p = 1 / (1 + math.exp(-x))
        return -target * math.log(p) - (1 - target) * math.log(1 - p)

    loss = class_loss(logits, torch.tensor([1]), torch.tensor([0.8]))
    assert loss.item() == pytest.approx(entropy(2.0, 0) + entropy(-1.0, 0.8), rel=1e-6)
    loss = objectness_loss(logits, torch.tensor([[1.0, 0.0]]))
    assert loss.tolist()[0] == pytest.approx([entropy(2.0, 1), entropy(-1.0, 0)], rel=1e-6)
