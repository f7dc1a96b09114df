"""ncnn: a folder with `model.ncnn.param`, `model.ncnn.bin` and the metadata."""

import json
import subprocess
import tempfile
from pathlib import Path

from oculox.errors import ExportError
from oculox.exporting.job import Job
from oculox.exporting.onnx_model import quiet
from oculox.extras import require
from oculox.files import file_sha256
from oculox.runtime.exported import METADATA_KEY
from oculox.runtime.ncnn_backend import NCNN_FILES


def write_ncnn(job: Job, path: Path) -> None:
    """Convert with pnnx, through TorchScript.

    Raises:
        MissingExtraError: when pnnx is not installed.
        ExportError: when pnnx fails.
    """
    pnnx = require("pnnx", extra="ncnn", purpose="an ncnn export")
    path.mkdir()
    with tempfile.TemporaryDirectory() as scratch, quiet():
        job.traced().save(str(Path(scratch) / "model.pt"))
        shape = ",".join(map(str, job.example().shape))
        done = subprocess.run(
            [pnnx.EXEC_PATH, "model.pt", f"inputshape=[{shape}]", "fp16=0"],
            cwd=scratch,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0 or not (Path(scratch) / NCNN_FILES[0]).is_file():
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise ExportError(f"pnnx failed ({lines[-1] if lines else done.returncode})")
        for name in NCNN_FILES:
            (path / name).write_bytes((Path(scratch) / name).read_bytes())
    sums = {name: file_sha256(path / name) for name in NCNN_FILES}
    content = {**json.loads(job.metadata.to_json()), "sha256": sums}
    (path / f"{METADATA_KEY}.json").write_text(json.dumps(content, sort_keys=True), "utf-8")
