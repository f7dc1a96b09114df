"""PyTorch's own two formats: TorchScript and exported programs (`.pt2`)."""

from pathlib import Path

import torch

from oculox.exporting.job import Job
from oculox.exporting.onnx_model import free_dimensions, quiet
from oculox.runtime.exported import METADATA_KEY


def write_torchscript(job: Job, path: Path) -> None:
    """Write a `.torchscript`: traced, frozen, loadable from C++ without Python.

    The trace keeps shapes as operations, so batch and size are free even where the metadata
    states one.
    """
    with torch.inference_mode(), quiet():
        frozen = torch.jit.freeze(job.traced())
        torch.jit.save(frozen, str(path), _extra_files={METADATA_KEY: job.metadata.to_json()})


def write_pt2(job: Job, path: Path) -> None:
    """Write a `.pt2`: a `torch.export` program, to run, compile or lower further."""
    with torch.no_grad(), quiet():
        program = torch.export.export(
            job.graph(), (job.example(),), dynamic_shapes=free_dimensions(job.metadata)
        )
    torch.export.save(program, path, extra_files={METADATA_KEY: job.metadata.to_json()})
