"""The PyTorch backend: fusing, live networks, precision, devices."""

import numpy as np
import pytest
import torch
from torch import nn

from oculox.config.schema import InputConfig, ModelConfig
from oculox.distributed.devices import open_accelerator
from oculox.errors import CheckpointError, DeviceMemoryError, UsageError
from oculox.models import build_model
from oculox.postprocess import DetectSettings, decode
from oculox.predict.pipeline import Pipeline
from oculox.runtime.open_model import open_model
from oculox.runtime.torch_backend import TorchBackend, fuse
from oculox.types import ModelSpec
from oculox.weights import load_weights

SPEC = ModelSpec(
    model=ModelConfig(name="small", num_classes=3),
    input=InputConfig(size=(64, 96)),
    names=("a", "b", "c"),
)
SHAPES = [
    ModelConfig(depth=0.33, width=0.125, depthwise=True),
    ModelConfig(depth=0.33, width=0.125),
    ModelConfig(backbone="darknet53", width=0.125, activation="leaky_relu"),
]


def make_network(config=SHAPES[0]):
    """A network whose batch norms have seen data, so that folding them changes something."""
    torch.manual_seed(0)
    network = build_model(config, num_classes=3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network


def snapshot(network):
    return (
        {k: v.clone() for k, v in network.state_dict().items()},
        [m.training for m in network.modules()],
        [p.requires_grad for p in network.parameters()],
        [p.stride() for p in network.parameters()],
    )


def assert_unchanged(network, before):
    state, *rest = snapshot(network)
    assert rest == list(before[1:])
    assert state.keys() == before[0].keys()
    assert all(torch.equal(state[k], v) for k, v in before[0].items())


IMAGES = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 96), np.uint8)


@pytest.mark.parametrize("config", SHAPES, ids=["depthwise", "csp", "darknet53"])
def test_fused_copy_agrees(config):
    network = make_network(config).eval()
    before = snapshot(network)
    fused = fuse(network)
    assert_unchanged(network, before)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    images = torch.from_numpy(IMAGES).float()
    with torch.no_grad():
        for a, b in zip(fused(images)[:3], network(images)[:3], strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_a_fused_copy_of_a_network_in_training_has_its_own_precision():
    """The evaluation inside a run gives what `oculox eval` gives."""
    network = make_network()
    expected = fuse(network)(torch.from_numpy(IMAGES).float())
    with open_accelerator("cpu", precision="bf16") as accelerator:
        prepared = accelerator.prepare(network)
        assert "forward" in vars(prepared), "accelerate does it another way"
        fused = fuse(prepared)
        assert "forward" in vars(prepared)
    assert all(map(torch.equal, fused(torch.from_numpy(IMAGES).float())[:3], expected[:3]))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", ["numpy", "torch", "channels last"])
def test_live_network_is_left_as_it_was(fused, kind):
    network = make_network().train()
    network.backbone.eval()  # as a frozen part is
    network.neck.requires_grad_(False)
    before = snapshot(network)
    backend = TorchBackend.from_network(network, SPEC, fused=fused)
    images = IMAGES if kind == "numpy" else torch.from_numpy(IMAGES)
    if kind == "channels last":
        images = images.to(memory_format=torch.channels_last)
    decoded = backend.predict(images)
    assert_unchanged(network, before)
    network.eval()
    with torch.no_grad():
        expected = decode(network(torch.from_numpy(IMAGES).float()), SPEC.strides)
    for got, want in zip(decoded, expected, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-4)


def test_live_network_is_evaluated_as_it_is_now():
    network = make_network()
    backend = TorchBackend.from_network(network, SPEC)
    first = backend.predict(IMAGES)
    with torch.no_grad():
        for pred in network.head.obj_preds:
            pred.bias += 3
    assert (backend.predict(IMAGES).objectness > first.objectness).all()


def test_modes_come_back_after_a_failure():
    network = make_network().train()
    backend = TorchBackend.from_network(network, SPEC)
    with pytest.raises(RuntimeError):
        backend.predict(IMAGES[:, :, :50, :50])
    assert all(m.training for m in network.modules())


def test_too_little_memory_names_the_batch():
    def full(module, inputs):
        raise torch.cuda.OutOfMemoryError("simulated")

    network = make_network()
    network.register_forward_pre_hook(full)
    backend = TorchBackend.from_network(network, SPEC)
    said = "out of memory on cpu with 3 images of 64x96 at once; lower `batch`"
    with pytest.raises(DeviceMemoryError, match=said):
        backend.predict(np.zeros((3, 3, 64, 96), np.uint8))


def test_detect_answers_each_image():
    backend = TorchBackend.from_network(make_network(), SPEC)
    found = backend.detect(IMAGES, DetectSettings(conf=0.0, iou=0.5, max_det=7))
    assert [len(f) for f in found] == [7, 7]
    assert all((np.diff(f.scores) <= 0).all() for f in found)
    assert found[0].names == SPEC.names


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("net.xyz", {}, r"format from '\.xyz'.*\.pt"),
        ("net", {}, "name without suffix"),
        ("net.pt", {"backend": "tensorflow"}, "no backend is called 'tensorflow'"),
    ],
)
def test_unknown_format(tmp_path, name, options, message):
    path = tmp_path / name
    path.write_bytes(b"")
    with pytest.raises(UsageError, match=message):
        open_model(path, **options)


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.pt"):
        open_model(tmp_path / "gone.pt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16"}, "fp16 needs an accelerator"),
        ({"precision": "int3"}, "'int3'"),
        ({"device": "cuda:99"}, "cuda:99"),
    ],
)
def test_wrong_options(shared, options, message):
    with pytest.raises(UsageError, match=message):
        open_model(shared / "weights/yolox_nano.pth", **options)


def test_official_file(shared):
    path = shared / "weights/yolox_nano.pth"
    backend = open_model(path)
    assert backend.kind == "torch"
    assert backend.spec.input.size == (416, 416)
    assert backend.spec.names[0] == "person"
    assert backend.spec.num_classes == 80
    plain = TorchBackend.from_network(load_network(path), backend.spec)
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 96, 128), np.uint8)
    for got, want in zip(backend.predict(images), plain.predict(images), strict=True):
        torch.testing.assert_close(got, want, atol=2e-3, rtol=1e-3)


def load_network(path):
    from oculox.weights import build_network

    return build_network(load_weights(path))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_finds_what_is_in_a_real_image(shared, precision):
    import cv2

    image = cv2.imread(str(shared / "coco_mini/val2017/000000005001.jpg"))
    pipeline = Pipeline(open_model(shared / "weights/yolox_nano.pth", precision=precision))
    found = pipeline([image])[0]
    assert found.name(int(found.class_ids[0])) == "person"
    assert found.scores[0] > 0.6
    np.testing.assert_allclose(found.xyxy[0], [43, 86, 146, 350], atol=8)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_accelerator_agrees_with_the_processor(precision, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # of float32's 23 bits 10
    network = make_network(SHAPES[1]).eval()
    on_cpu = TorchBackend.from_network(network, SPEC).predict(IMAGES)
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    moved = fuse(network).to("cuda", dtype)
    on_gpu = TorchBackend(moved, SPEC, owned=True).predict(IMAGES)
    tolerance = 1e-3 if precision == "fp32" else 0.05
    torch.testing.assert_close(
        on_gpu.objectness.cpu(), on_cpu.objectness, atol=tolerance, rtol=tolerance
    )
    assert on_gpu.boxes.dtype == torch.float32
