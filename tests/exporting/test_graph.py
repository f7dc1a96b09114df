import pytest
import torch

from oculox.config import load_config
from oculox.exporting.graph import DetectionGraph, fold_focus, for_export
from oculox.models import build_model
from oculox.models.layers import Focus
from oculox.postprocess import decode
from oculox.runtime.torch_backend import fuse


def network(name="yolox-nano"):
    torch.manual_seed(1)
    return build_model(load_config(name).model, num_classes=3).eval()


def reference(net, images):
    decoded = decode(net(images), net.strides)
    return decoded.boxes, decoded.objectness[..., None] * decoded.classes


@pytest.mark.parametrize("name", ["yolox-nano", "yolox-darknet53"])
@pytest.mark.parametrize("static", [True, False], ids=["static", "free"])
def test_the_graph_answers_what_the_network_and_decode_answer(name, static):
    net = network(name)
    images = torch.rand(2, 3, 64, 96) * 255
    graph = DetectionGraph(
        for_export(net), strides=net.strides, size_hw=(64, 96) if static else None
    )
    with torch.inference_mode():
        boxes, scores = graph(images)
        expected_boxes, expected_scores = reference(net, images)
    assert boxes.shape == (2, 8 * 12 + 4 * 6 + 2 * 3, 4)
    torch.testing.assert_close(boxes, expected_boxes, rtol=1e-4, atol=2e-3)
    torch.testing.assert_close(scores, expected_scores, rtol=1e-4, atol=1e-5)


def test_half_precision_keeps_the_decoding_in_float32():
    net = network()
    graph = DetectionGraph(for_export(net, half=True), strides=net.strides, size_hw=(64, 64))
    with torch.inference_mode():
        boxes, scores = graph(torch.rand(1, 3, 64, 64) * 255)
        expected, _ = reference(net, torch.zeros(1, 3, 64, 64))
    assert boxes.dtype == scores.dtype == torch.float32
    assert boxes.shape == expected.shape
    assert next(graph.network.parameters()).dtype == torch.float16
    assert graph.corners.dtype == torch.float32


@pytest.mark.parametrize("size", [(2, 2), (8, 6), (64, 96)])
def test_one_convolution_does_what_the_focus_does(size):
    torch.manual_seed(2)
    focus = Focus(3, 8, activation="silu").eval()
    focus.conv.bn.running_mean.normal_()
    focus.conv.bn.weight.data.normal_()
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        torch.testing.assert_close(fold_focus(focus)(images), focus(images), rtol=1e-4, atol=1e-5)


def test_preparing_leaves_the_network_as_it_was():
    net = network()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    for_export(net, half=True)
    assert isinstance(net.backbone.stem, Focus)
    assert all(parameter.requires_grad for parameter in net.parameters())
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    # Folding works on what is fused already, too.
    assert for_export(net) is not fuse(net)
