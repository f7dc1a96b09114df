"""TensorRT: an `.engine` for the GPU it is built on, and its metadata beside it.

The engine is strongly typed: every layer has the precision that the ONNX model gives it, so
that float32, float16 and int8 are those of the ONNX export.
"""

from pathlib import Path

from oculox.errors import ExportError
from oculox.exporting.job import Job
from oculox.exporting.to_onnx import onnx_of
from oculox.extras import require
from oculox.runtime.exported import METADATA_KEY

LARGEST_BATCH = 16
"""Of an engine whose batch is left free; it is tuned for half as many."""


def write_tensorrt(job: Job, path: Path) -> None:
    """Build with TensorRT 10, on this machine's GPU.

    Raises:
        MissingExtraError: when tensorrt, onnx, onnxscript or onnxruntime is not installed.
        ExportError: when TensorRT cannot read the model or build the engine.
    """
    trt = require("tensorrt", extra="tensorrt", purpose="a TensorRT export")
    metadata, model = job.metadata, onnx_of(job, symmetric=True)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        reasons = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise ExportError(f"TensorRT cannot read the model: {reasons}")
    config = builder.create_builder_config()
    # TF32 keeps 10 bits of a float32's 23, too few to call the result float32.
    config.clear_flag(trt.BuilderFlag.TF32)
    if metadata.spec.batch is None:
        profile = builder.create_optimization_profile()
        profile.set_shape(
            metadata.input_name,
            *((b, 3, *metadata.spec.input.size) for b in (1, LARGEST_BATCH // 2, LARGEST_BATCH)),
        )
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError("TensorRT could not build an engine; its own messages say why")
    path.write_bytes(bytes(plan))
    path.with_suffix(f"{path.suffix}.{METADATA_KEY}.json").write_text(metadata.to_json(), "utf-8")
