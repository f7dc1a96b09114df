"""ncnn folders (`.ncnn`) through ncnn's Python binding."""

from pathlib import Path

import numpy as np

from oculox.errors import CheckpointError
from oculox.extras import existing, require
from oculox.runtime.exported import METADATA_KEY, Array, ExportMetadata, Opened


def open_ncnn(path: Path, *, threads: int | None) -> Opened:
    """Open an exported `.ncnn` folder, on the CPU.

    Raises:
        MissingExtraError: when ncnn is not installed.
        CheckpointError: when a file is missing, damaged or was not exported by Oculox.
    """
    ncnn = require("ncnn", extra="ncnn", purpose="running an ncnn model")
    existing(path)
    text = existing(path / f"{METADATA_KEY}.json").read_text("utf-8")
    metadata = ExportMetadata.from_json(text, where=str(path))
    net = ncnn.Net()
    if threads is not None:
        net.opt.num_threads = threads
    # Pixels of the boxes need more than the 11 bits of float16.
    net.opt.use_fp16_packed = False
    net.opt.use_fp16_storage = False
    net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    param = existing(path / "model.ncnn.param")
    weights = existing(path / "model.ncnn.bin")
    if net.load_param(str(param)) != 0 or net.load_model(str(weights)) != 0:
        raise CheckpointError(f"{path}: damaged, or not an ncnn model")

    def run(inputs: Array) -> tuple[Array, ...]:
        extractor = net.create_extractor()
        # ncnn knows no batches, so there is one image.
        extractor.input("in0", ncnn.Mat(np.ascontiguousarray(inputs[0])))
        count = len(metadata.output_names)
        return tuple(np.array(extractor.extract(f"out{i}")[1])[None] for i in range(count))

    return Opened(metadata, run)
