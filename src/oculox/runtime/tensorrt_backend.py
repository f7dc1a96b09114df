"""TensorRT engines, with PyTorch's memory and stream."""

from __future__ import annotations

from pathlib import Path

import torch

from oculox.distributed.devices import usable_device
from oculox.errors import CheckpointError, UsageError
from oculox.extras import existing, require
from oculox.runtime.exported import METADATA_KEY, Array, ExportedBackend, ExportMetadata


class TensorrtBackend(ExportedBackend):
    """Runs an exported `.engine`, on the kind of GPU that built it.

    Raises:
        MissingExtraError: when tensorrt is not installed.
        UsageError: without an NVIDIA GPU.
        CheckpointError: when a file is missing, not exported by Oculox, or built for another GPU
            or version of TensorRT.
    """

    kind = "tensorrt"

    def __init__(self, path: Path, *, device: str = "cuda") -> None:
        trt = require("tensorrt", extra="tensorrt", purpose="running a TensorRT engine")
        existing(path)
        self._device = usable_device("cuda" if device == "auto" else device)
        if self._device.type != "cuda":
            raise UsageError(f"{path}: TensorRT engines run on NVIDIA GPUs, not on {self._device}")
        beside = existing(path.with_suffix(f"{path.suffix}.{METADATA_KEY}.json"))
        super().__init__(ExportMetadata.from_json(beside.read_text("utf-8"), where=str(beside)))
        # TensorRT knows no device of its own: engines belong to the one that is current.
        with torch.cuda.device(self._device):
            runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
            self._engine = runtime.deserialize_cuda_engine(path.read_bytes())
            if self._engine is None:
                raise CheckpointError(
                    f"{path}: damaged, or built for another GPU or version of TensorRT; "
                    "export it here"
                )
            self._context = self._engine.create_execution_context()
        self._dtypes = {
            trt.float32: torch.float32,
            trt.float16: torch.float16,
            trt.int64: torch.int64,
            trt.int32: torch.int32,
        }

    def run(self, inputs: Array) -> tuple[Array, ...]:
        """See `ExportedBackend.run`."""
        metadata, context = self.metadata, self._context
        fed = torch.from_numpy(inputs).to(self._device)
        context.set_input_shape(metadata.input_name, tuple(fed.shape))
        context.set_tensor_address(metadata.input_name, fed.data_ptr())
        outputs = []
        for name in metadata.output_names:
            outputs.append(
                torch.empty(
                    tuple(context.get_tensor_shape(name)),
                    dtype=self._dtypes[self._engine.get_tensor_dtype(name)],
                    device=self._device,
                )
            )
            context.set_tensor_address(name, outputs[-1].data_ptr())
        stream = torch.cuda.current_stream(self._device)
        with torch.cuda.device(self._device):
            done = context.execute_async_v3(stream.cuda_stream)
        if not done:
            raise RuntimeError("TensorRT could not run the engine")
        stream.synchronize()
        return tuple(output.cpu().numpy() for output in outputs)
