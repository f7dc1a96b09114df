"""ncnn folders (`.ncnn`) through ncnn's Python binding."""

import json
from pathlib import Path

import numpy as np

from oculox.errors import CheckpointError
from oculox.extras import existing, require
from oculox.files import file_sha256
from oculox.runtime.exported import METADATA_KEY, Array, ExportMetadata, Opened

NCNN_FILES = ("model.ncnn.param", "model.ncnn.bin")


def open_ncnn(path: Path, *, threads: int | None) -> Opened:
    """Open an exported `.ncnn` folder, on the CPU.

    Raises:
        MissingExtraError: when ncnn is not installed.
        CheckpointError: when a file is missing, damaged or was not exported by Oculox.
    """
    ncnn = require("ncnn", extra="ncnn", purpose="running an ncnn model")
    existing(path)
    text = existing(path / f"{METADATA_KEY}.json").read_bytes()
    metadata = ExportMetadata.from_json(text, where=str(path))
    param, weights = (existing(path / name) for name in NCNN_FILES)
    # A damaged file can end the process inside ncnn. Older exports have no sums.
    sums = json.loads(text).get("sha256")
    if sums is not None and sums != {file.name: file_sha256(file) for file in (param, weights)}:
        raise CheckpointError(f"{path}: damaged: a file is not as it was exported; export it again")
    net = ncnn.Net()
    if threads is not None:
        net.opt.num_threads = threads
    # Pixels of the boxes need more than the 11 bits of float16.
    net.opt.use_fp16_packed = False
    net.opt.use_fp16_storage = False
    net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    if net.load_param(str(param)) != 0 or net.load_model(str(weights)) != 0:
        raise CheckpointError(f"{path}: damaged, or not an ncnn model")

    def run(inputs: Array) -> tuple[Array, ...]:
        extractor = net.create_extractor()
        # ncnn knows no batches, so there is one image.
        extractor.input("in0", ncnn.Mat(np.ascontiguousarray(inputs[0])))
        count = len(metadata.output_names)
        return tuple(np.array(extractor.extract(f"out{i}")[1])[None] for i in range(count))

    return Opened(metadata, run)
