import numpy as np
import pytest
import torch

from oculox.config.schema import InputConfig, ModelConfig
from oculox.data.preprocess import to_float_array, to_floats
from oculox.distributed.devices import own_device
from oculox.errors import CheckpointError, UsageError
from oculox.postprocess import DetectSettings
from oculox.runtime.backend import fixed_batches
from oculox.runtime.onnx_backend import choose_providers, open_onnx
from oculox.runtime.openvino_backend import taking_bytes
from oculox.types import ModelSpec


def make_spec(**changes):
    return ModelSpec(
        **{
            "model": ModelConfig(num_classes=2),
            "input": InputConfig(size=(32, 32)),
            "names": ("a", "b"),
            "category_ids": (1, 7),
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("a",)}, "expected 2 class names, got 1"),
        ({"category_ids": (1, 2, 3)}, "expected 2 category ids, got 3"),
    ],
)
def test_spec_checks_counts(changes, message):
    with pytest.raises(ValueError, match=message):
        make_spec(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conf": 1.5}, "conf must be between 0 and 1, got 1.5"),
        ({"iou": -0.1}, "iou must be between 0 and 1"),
        ({"conf": float("nan")}, "conf must be"),
        ({"max_det": 0}, "max_det must be a whole number from 1 on"),
    ],
)
def test_settings_check_ranges(changes, message):
    with pytest.raises(UsageError, match=message):
        DetectSettings(**changes)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("count", "batch", "expected"),
    [
        (5, None, [5]),
        (5, 2, [2, 2, 1]),
        (4, 2, [2, 2]),
        (1, 3, [1]),
        (0, 2, []),
    ],
)
def test_fixed_batches(kind, count, batch, expected):
    images = np.random.default_rng(0).integers(1, 256, (count, 3, 4, 4), np.uint8)
    given = images if kind == "numpy" else torch.from_numpy(images)
    chunks = list(fixed_batches(given, batch))
    assert [real for _, real in chunks] == expected
    if batch is not None:
        assert all(chunk.shape == (batch, 3, 4, 4) for chunk, _ in chunks)
        assert all(not np.asarray(chunk[real:]).any() for chunk, real in chunks)
    back = [np.asarray(chunk[:real]) for chunk, real in chunks]
    np.testing.assert_array_equal(np.concatenate([images[:0], *back]), images)


def test_detect_fills_up_and_drops_the_filling(red_backend):
    backend = red_backend(batch=2)
    images = np.zeros((5, 3, 64, 96), np.uint8)
    images[[0, 4], 2, 10:20, 30:50] = 255
    found = backend.detect(images, DetectSettings())
    assert backend.batches == [(2, 3, 64, 96)] * 3
    assert [len(f) for f in found] == [1, 0, 0, 0, 1]
    assert found[4].xyxy.tolist() == [[30, 10, 50, 20]]
    assert found[4].names == ("square", "disc")


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        (DetectSettings(conf=0.89), 1),
        (DetectSettings(conf=0.91), 0),
        (DetectSettings(class_ids=(0,)), 1),
        (DetectSettings(class_ids=(1,)), 0),
    ],
)
def test_detect_uses_the_settings(red_backend, settings, count):
    images = np.zeros((1, 3, 64, 96), np.uint8)
    images[0, 2, 10:20, 30:50] = 255
    assert len(red_backend().detect(images, settings)[0]) == count


@pytest.mark.parametrize(("pixel_max", "white"), [(255, 255.0), (1, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_to_floats(pixel_max, white, dtype):
    images = np.array([0, 255, 51], np.uint8).reshape(1, 3, 1, 1)
    floats = to_floats(images, InputConfig(pixel_max=pixel_max), dtype=dtype)
    assert floats.dtype == dtype
    assert floats.flatten().tolist() == pytest.approx([0, white, white / 5], rel=4e-3)


def test_to_floats_keeps_channels_last_memory():
    images = np.zeros((2, 8, 6, 3), np.uint8).transpose(0, 3, 1, 2)
    floats = to_floats(images, InputConfig())
    assert floats.is_contiguous(memory_format=torch.channels_last)


CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("usable", "device", "expected"),
    [
        ([CPU], "cpu", [CPU]),
        ([CPU], "auto", [CPU]),
        ([CUDA, CPU], "cpu", [CPU]),
        ([CUDA, CPU], "auto", [(CUDA, {"device_id": 0, "use_tf32": 0}), CPU]),
        ([CUDA, CPU], "cuda", [(CUDA, {"device_id": 0, "use_tf32": 0}), CPU]),
        ([CUDA, CPU], "cuda:1", [(CUDA, {"device_id": 1, "use_tf32": 0}), CPU]),
    ],
)
def test_onnx_runtime_gets_the_gpu_that_was_named(usable, device, expected):
    assert choose_providers(usable, device) == expected


def test_each_process_of_a_machine_gives_onnx_runtime_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_providers([CUDA, CPU], "auto")[0] == (CUDA, {"device_id": 3, "use_tf32": 0})
    assert choose_providers([CUDA, CPU], own_device("cuda"))[0] == (
        CUDA,
        {"device_id": 3, "use_tf32": 0},
    )
    assert choose_providers([CPU], "auto") == [CPU]


@pytest.mark.parametrize(
    ("usable", "device", "message"),
    [
        ([CPU], "cuda:1", "runs on CPUExecutionProvider; install onnxruntime-gpu for CUDA"),
        ([CUDA, CPU], "cuda:x", "'cuda:x': this ONNX Runtime runs on CUDA"),
        ([CUDA, CPU], "cuda:", "'cuda:': this ONNX Runtime runs on CUDA"),
        ([CUDA, CPU], "mps", "'mps': this ONNX Runtime runs on CUDA"),
    ],
)
def test_devices_that_onnx_runtime_does_not_have(usable, device, message):
    with pytest.raises(UsageError, match=message):
        choose_providers(usable, device)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_onnx_runtime_does_not_fall_back_to_the_cpu_unasked(tmp_path, monkeypatch):
    runtime = pytest.importorskip("onnxruntime")
    helper = pytest.importorskip("onnx").helper
    sides = [helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", sides[:1], sides[1:])
    opset = [helper.make_opsetid("", 17)]
    path = tmp_path / "model.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    )
    # A build with CUDA on a machine where it does not start.
    monkeypatch.setattr(runtime, "get_available_providers", lambda: [CUDA, CPU])
    with pytest.raises(UsageError, match=r"device 'cuda': .* could not start it"):
        open_onnx(path, device="cuda", threads=1)
    with pytest.raises(CheckpointError, match="holds no metadata"):
        open_onnx(path, device="auto", threads=1)


@pytest.mark.parametrize("pixel_max", [1, 255])
def test_arrays_of_floats_are_those_of_pytorch(pixel_max):
    images = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3).transpose(0, 3, 1, 2)
    given = InputConfig(pixel_max=pixel_max)
    floats = to_float_array(images, given)
    assert floats.flags.c_contiguous
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(floats, to_floats(images, given).numpy())


@pytest.mark.parametrize("pixel_max", [1, 255])
def test_openvino_makes_the_same_floats_of_bytes(pixel_max):
    openvino = pytest.importorskip("openvino")
    pixels = openvino.opset13.parameter([-1, 3, -1, -1], np.float32)
    nothing = openvino.opset13.add(pixels, np.float32(0))
    model = taking_bytes(openvino, openvino.Model([nothing], [pixels]), pixel_max=pixel_max)
    images = np.arange(2 * 8 * 9 * 3, dtype=np.uint8).reshape(2, 8, 9, 3)
    (floats,) = openvino.compile_model(model, "CPU")([images]).values()
    expected = to_float_array(images.transpose(0, 3, 1, 2), InputConfig(pixel_max=pixel_max))
    np.testing.assert_allclose(floats, expected, rtol=1e-6)
