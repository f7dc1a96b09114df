"""Int8: it converts here in seconds, and keeps its AP on real images in the slow proof."""

import pytest

from oculox.data.coco import load_coco
from oculox.evaluation.evaluate import evaluate
from oculox.exporting.calibration import find_calibration
from oculox.exporting.job import ExportOptions, make_job
from oculox.exporting.parity import check_parity
from oculox.exporting.run import export_model
from oculox.exporting.targets import TARGETS
from oculox.exporting.to_onnx import onnx_of
from oculox.runtime.exported import InGraphNms
from oculox.runtime.open_model import open_model
from oculox.weights import load_weights

PACKAGES = {"onnx": ("onnxscript", "onnxruntime"), "openvino": ("onnxscript", "openvino", "nncf")}


@pytest.fixture(params=["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def format_name(request):
    for package in PACKAGES[request.param]:
        pytest.importorskip(package)
    return request.param


def test_int8_files_are_smaller_and_pass_the_gate(format_name, lively_weights, tiny_data, tmp_path):
    options = ExportOptions(
        format=format_name, precision="int8", calibration=tiny_data, calibration_images=8
    )
    suffix = TARGETS[format_name].suffix
    report = export_model(lively_weights, options, tmp_path / f"m_int8{suffix}")
    assert all(row.ok for row in report.parity)
    assert open_model(report.path).metadata.precision == "int8"
    parameters = sum(value.numel() for value in lively_weights.state.values())
    weights = report.path if format_name == "onnx" else report.path.with_suffix(".bin")
    assert weights.stat().st_size < 4 * parameters
    quantised = (onnx_quantised if format_name == "onnx" else openvino_quantised)(report.path)
    assert any("backbone" in name for name in quantised)
    in_float = "decoding/", "reg_preds.", "obj_preds."
    assert not [name for name in quantised if any(part in name for part in in_float)]
    assert any("cls_preds." in name for name in quantised) == (format_name == "openvino")


@pytest.fixture
def for_tensorrt():
    """The model that TensorRT gets, as a file for ONNX Runtime: weights, images, path -> backend.

    TensorRT itself needs a GPU; what it would compute is in this model.
    """
    onnx = pytest.importorskip("onnx")
    for package in PACKAGES["onnx"]:
        pytest.importorskip(package)

    def make(weights, source, path):
        options = ExportOptions(format="tensorrt", precision="int8", calibration=source)
        images = find_calibration(source, limit=300)
        job = make_job(weights, options, calibration=images)
        onnx.save(onnx_of(job, symmetric=True), path)
        return job, open_model(path, device="cpu")

    return make


@pytest.mark.slow
def test_int8_for_tensorrt_has_only_what_its_parser_takes(
    for_tensorrt, lively_weights, tiny_data, tmp_path
):
    import onnx

    job, backend = for_tensorrt(lively_weights, tiny_data, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    values = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    points = [
        values[node.input[2]]
        for node in graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    assert len(points) > 50
    assert {point.dtype.name for point in points} == {"int8"}
    assert not [point for point in points if point.any()]
    assert all(row.ok for row in check_parity(backend, job.network))


@pytest.mark.slow
def test_int8_for_tensorrt_keeps_its_ap_on_coco(for_tensorrt, shared, tmp_path):
    coco = shared / "coco_mini"
    index = load_coco(coco / "annotations" / "instances_val2017.json", coco / "val2017")
    weights = load_weights(shared / "weights" / "yolox_nano.pth")
    _, backend = for_tensorrt(weights, coco, tmp_path / "m.onnx")
    # Half of the range of symmetric values goes unused after SiLU.
    assert evaluate(backend, index).metrics.ap >= 0.2994 - 0.02


def onnx_quantised(path):
    """Names of what reads quantised values."""
    import onnx

    nodes = onnx.load(path).graph.node
    values = {n.output[0] for n in nodes if n.op_type == "DequantizeLinear"}
    assert any(n.name.startswith("decoding/") for n in nodes)
    return [n.name for n in nodes if values.intersection(n.input)]


def openvino_quantised(path):
    """Names of what reads quantised values."""
    import openvino

    operations = openvino.Core().read_model(path).get_ops()
    assert any("decoding/" in o.get_friendly_name() for o in operations)
    return [
        consumer.get_node().get_friendly_name()
        for operation in operations
        if operation.get_type_name() == "FakeQuantize"
        for consumer in operation.output(0).get_target_inputs()
    ]


@pytest.mark.slow
def test_int8_keeps_its_ap_on_coco(format_name, shared, tmp_path):
    coco = shared / "coco_mini"
    index = load_coco(coco / "annotations" / "instances_val2017.json", coco / "val2017")
    report = export_model(
        load_weights(shared / "weights" / "yolox_nano.pth"),
        ExportOptions(format=format_name, precision="int8", calibration=coco),
        tmp_path / f"m_int8{TARGETS[format_name].suffix}",
        data=index,
    )
    assert report.ap is not None
    assert report.ap.checkpoint == pytest.approx(0.2994, abs=0.002)
    assert report.ap.loss <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"batch": None, "nms": True, "preprocess": True}], ids=["cells", "whole"]
)
def test_float_files_have_the_checkpoints_ap(format_name, options, shared, tmp_path):
    if options.get("nms"):
        options = {**options, "nms": InGraphNms()}
    coco = shared / "coco_mini"
    report = export_model(
        load_weights(shared / "weights" / "yolox_nano.pth"),
        ExportOptions(format=format_name, **options),
        tmp_path / f"m{TARGETS[format_name].suffix}",
        data=load_coco(coco / "annotations" / "instances_val2017.json", coco / "val2017"),
    )
    assert report.ap is not None
    assert abs(report.ap.loss) <= 0.002
