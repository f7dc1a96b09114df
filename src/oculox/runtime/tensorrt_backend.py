"""TensorRT engines, with PyTorch's memory and stream."""

from pathlib import Path

import torch

from oculox.distributed.devices import usable_device
from oculox.errors import CheckpointError, UsageError
from oculox.extras import existing, require
from oculox.runtime.exported import METADATA_KEY, Array, ExportMetadata, Opened


def open_tensorrt(path: Path, *, device: str) -> Opened:
    """Open an exported `.engine`, on the kind of GPU that built it.

    Raises:
        MissingExtraError: when tensorrt is not installed.
        UsageError: without an NVIDIA GPU.
        CheckpointError: when a file is missing, was not exported by Oculox, or was built for
            another GPU or version of TensorRT.
    """
    trt = require("tensorrt", extra="tensorrt", purpose="running a TensorRT engine")
    existing(path)
    target = usable_device("cuda" if device == "auto" else device)
    if target.type != "cuda":
        raise UsageError(f"{path}: TensorRT engines run on NVIDIA GPUs, not on {target}")
    beside = existing(path.with_suffix(f"{path.suffix}.{METADATA_KEY}.json"))
    metadata = ExportMetadata.from_json(beside.read_bytes(), where=str(beside))
    # TensorRT knows no device of its own: engines belong to the one that is current.
    with torch.cuda.device(target):
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise CheckpointError(
                f"{path}: damaged, or built for another GPU or version of TensorRT; export it here"
            )
        context = engine.create_execution_context()
    dtypes = {
        trt.float32: torch.float32,
        trt.float16: torch.float16,
        trt.int64: torch.int64,
        trt.int32: torch.int32,
    }

    def run(inputs: Array) -> tuple[Array, ...]:
        fed = torch.from_numpy(inputs).to(target)
        context.set_input_shape(metadata.input_name, tuple(fed.shape))
        context.set_tensor_address(metadata.input_name, fed.data_ptr())
        outputs = []
        for name in metadata.output_names:
            shape, dtype = context.get_tensor_shape(name), dtypes[engine.get_tensor_dtype(name)]
            outputs.append(torch.empty(tuple(shape), dtype=dtype, device=target))
            context.set_tensor_address(name, outputs[-1].data_ptr())
        stream = torch.cuda.current_stream(target)
        with torch.cuda.device(target):
            done = context.execute_async_v3(stream.cuda_stream)
        if not done:
            raise RuntimeError("TensorRT could not run the engine")
        stream.synchronize()
        return tuple(output.cpu().numpy() for output in outputs)

    return Opened(metadata, run)
