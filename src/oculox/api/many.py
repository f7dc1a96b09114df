"""`predict_many`: any number of images into Parquet files."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from oculox.addresses import to_location
from oculox.api.detector import Detector
from oculox.errors import UsageError
from oculox.predict.many import ManySummary, predict_parts
from oculox.predict.on_ray import ray_workers
from oculox.predict.parquet import PartWorker
from oculox.predict.pipeline import Pipeline
from oculox.types import Progress
from oculox.weights.download import locate_weights

Engine = Literal["local", "ray"]


def predict_many(
    model: str | Path,
    sources: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    engine: Engine = "local",
    workers: int | None = None,
    part_size: int = 1000,
    recursive: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> ManySummary:
    """Find objects in any number of images, and write Parquet files of `part_size` images each.

    Each image becomes one row, those that cannot be read too; `Detector.table` tells the columns.
    Files are whole or not there, so a run that ended is continued with `resume`.

    Args:
        model: see `Detector`; with Ray a file that all machines find under its path.
        sources: images, folders, patterns and URLs, such as ``s3://bucket/images``.
        output: folder to write to, or its URL; with Ray one that all machines share.
        engine: ``local`` for this process; ``ray`` for workers on the Ray cluster that
            ``RAY_ADDRESS`` names, or on this machine.
        workers: of Ray; by default one for each GPU, or for each machine where there are none.
        part_size: images of a file; of a run that is ended in the middle of a part, so many are
            done again.
        recursive: look into the folders of folders.
        resume: continue what is in `output`; start from the beginning if nothing is there.
        overwrite: replace the parts in `output`.
        progress: called with the numbers of images done and in all, after each part.
        **options: those of `Detector`, such as `conf`, `batch` and `device`.

    Raises:
        UsageError: an option does not fit, `output` is occupied, or its parts were made of other
            sources or with other settings.
        DataError: a source does not exist or holds no image.
        OculoxError: the model cannot be opened, or nothing can be written.
    """
    if engine not in ("local", "ray"):
        raise UsageError(f"engine must be local or ray, got {engine!r}")
    if engine == "local" and workers is not None:
        raise UsageError("`workers` are those of Ray: pass `engine` ray too")
    named = [sources] if isinstance(sources, str | Path) else sources
    opens, folder = partial(_open, _whole(model), options), to_location(output)
    run = partial(
        predict_parts,
        sources=[_whole(source) for source in named],
        output=folder,
        part_size=part_size,
        recursive=recursive,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
    )
    if engine == "local":
        return run(PartWorker(opens, folder))
    gpu = options.get("device", "auto") != "cpu"
    with ray_workers(opens, folder, number=workers, gpu=gpu) as several:
        return run(several)


def _whole(path: str | Path) -> str:
    """A path that means the same to processes with another working folder."""
    return str(Path(path).absolute()) if os.path.exists(path) else str(path)  # noqa: PTH110 - false for names that are too long


def _open(model: str, options: Mapping[str, Any]) -> tuple[Pipeline, Mapping[str, Any]]:
    """A model, and what its results depend on; not device and batch, which change roundings."""
    detector = Detector(model, **options)
    pipeline = detector.pipeline
    return pipeline, {
        "model": model if detector.path is None else _digest(locate_weights(model)),
        "runtime": pipeline.backend.kind,
        "precision": options.get("precision", "fp32"),
        "imgsz": pipeline.backend.spec.check_size(detector.size_hw),
        **dataclasses.asdict(pipeline.settings),
        **dataclasses.asdict(pipeline.views),
    }


def _digest(path: Path) -> str:
    """SHA-256 of a model's files."""
    # OpenVINO has the weights beside its file; some formats are folders.
    files = [path, path.with_suffix(".bin"), *sorted(path.rglob("*"))]
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(file.read_bytes())
    return f"sha256:{digest.hexdigest()}"
