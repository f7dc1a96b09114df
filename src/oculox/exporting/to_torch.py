"""PyTorch's own two formats: TorchScript and exported programs (`.pt2`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from oculox.exporting.job import Job
from oculox.exporting.onnx_model import free_dimensions, quiet
from oculox.runtime.exported import METADATA_KEY


def write_torchscript(job: Job, path: Path) -> None:
    """Write a `.torchscript`: traced, frozen, loadable from C++ without Python.

    The trace keeps shapes as operations, so batch and size are free even where the metadata
    states one.
    """
    example = torch.zeros(job.metadata.spec.batch or 2, 3, *job.metadata.spec.input.size)
    with torch.inference_mode(), quiet():
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            job.graph(), (example,), check_trace=False
        )
        frozen = torch.jit.freeze(traced)
        torch.jit.save(frozen, str(path), _extra_files={METADATA_KEY: job.metadata.to_json()})


def write_pt2(job: Job, path: Path) -> None:
    """Write a `.pt2`: a `torch.export` program, to run, compile or lower further."""
    program = exported_program(job)
    torch.export.save(program, path, extra_files={METADATA_KEY: job.metadata.to_json()})


def exported_program(job: Job) -> Any:
    """The graph as a `torch.export.ExportedProgram`."""
    # Two images, not one: a batch of 1 would be taken for a constant.
    example = torch.zeros(job.metadata.spec.batch or 2, 3, *job.metadata.spec.input.size)
    dims = free_dimensions(job.metadata)
    with torch.no_grad(), quiet():
        return torch.export.export(
            job.graph(), (example,), dynamic_shapes={"images": dims} if dims else None
        )
