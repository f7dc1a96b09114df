"""How large, how quick and how exact a network is in every format, on this machine."""

import dataclasses
import platform
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from oculox.addresses import Location, to_location
from oculox.data.coco import CocoIndex
from oculox.data.image import decode_image
from oculox.datasets.splits import open_split
from oculox.distributed.devices import describe_machine
from oculox.errors import DataError, OculoxError, UsageError
from oculox.evaluation.evaluate import evaluate
from oculox.exporting.job import ExportOptions
from oculox.exporting.parity import sample_image
from oculox.exporting.run import export_model
from oculox.exporting.targets import TARGETS
from oculox.files import encode_image
from oculox.predict.pipeline import Pipeline
from oculox.runtime.backend import Backend
from oculox.runtime.open_model import open_model
from oculox.runtime.timing import Spread, Stopwatch, spread_of
from oculox.runtime.torch_backend import TorchBackend
from oculox.types import ImageSize, height_width
from oculox.weights import Weights, load_weights
from oculox.weights.checkpoint import save_checkpoint

TORCH = "torch"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """One format.

    Attributes:
        format: its name, ``torch`` for the checkpoint itself, then perhaps ``-int8`` or ``-fp16``.
        megabytes: size of the files.
        median_ms: of an image, from JPEG to detections.
        min_ms: of the quickest image.
        max_ms: of the slowest one.
        stages_ms: median of each stage.
        images_per_second: one image after the other, at the median.
        parity: the largest error against PyTorch as a fraction of what is allowed; None for
            PyTorch itself and where the file cannot be run here.
        ap: COCO AP, where data was given.
    """

    format: str
    megabytes: float
    median_ms: float
    min_ms: float
    max_ms: float
    stages_ms: dict[str, float]
    images_per_second: float
    parity: float | None
    ap: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """All measurements, and what the machine was.

    Attributes:
        model: the network's name.
        size_hw: input height and width.
        measurements: one per format.
        skipped: format -> why it was not measured.
        machine: CPU, cores, threads, versions.
    """

    model: str
    size_hw: tuple[int, int]
    measurements: tuple[Measurement, ...]
    skipped: dict[str, str]
    machine: dict[str, str]


def benchmark(
    model: str | Location,
    formats: Sequence[str] = (TORCH, "onnx", "openvino"),
    *,
    imgsz: ImageSize | None = None,
    samples: int = 50,
    threads: int | None = None,
    data: str | Location | None = None,
    images: str | Location | None = None,
    calib: str | Location | None = None,
    log: Callable[[str], None] | None = None,
) -> Benchmark:
    """Size, speed, stages, AP and parity of a model in several formats, on this machine.

    Args:
        model: a weights file, or a name of published weights.
        formats: ``torch`` and export formats; add ``-fp16`` or ``-int8``.
        imgsz: input size; that of the weights by default.
        samples: images to time, after a tenth as many to warm up.
        threads: of the CPU, for PyTorch in the whole process; one per core by default.
        data: a dataset folder or COCO JSON to measure AP on; its images are timed.
        images: folder of the images of a JSON file; by default the file's own.
        calib: for int8: a folder of images, or a dataset whose training images are used.
        log: called with a line on what is being done.

    Raises:
        OculoxError: anything wrong with the model, the data or an option.
    """
    for name in formats:
        if name.split("-")[0] not in (TORCH, *TARGETS):
            raise UsageError(f"unknown format {name!r} (formats: {TORCH}, {', '.join(TARGETS)})")
    weights = load_weights(model)
    index = None if data is None else open_split(data, "val", images=images)
    calibration = None if calib is None else to_location(calib)
    say = log or (lambda _: None)
    size = weights.spec.check_size(None if imgsz is None else height_width(imgsz))
    jpegs = sample_jpegs(index, samples)
    measured: list[Measurement] = []
    skipped: dict[str, str] = {}
    if threads is not None:
        torch.set_num_threads(threads)
    for name in formats:
        say(f"{name}: exporting and timing")
        with tempfile.TemporaryDirectory(prefix="oculox-") as folder:
            try:
                backend, parity = _make(name, weights, Path(folder), size, calibration, threads)
            except OculoxError as error:
                skipped[name] = str(error)
                continue
            size_bytes = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
            spread = time_pipeline(backend, jpegs, size)
            total = spread.pop("total")
            ap = None if index is None else evaluate(backend, index, size_hw=size).metrics.ap
            measured.append(
                Measurement(
                    format=name,
                    megabytes=size_bytes / 1e6,
                    median_ms=total.median,
                    min_ms=total.min,
                    max_ms=total.max,
                    stages_ms={stage: one.median for stage, one in spread.items()},
                    images_per_second=1000 / total.median,
                    parity=parity,
                    ap=ap,
                )
            )
    return Benchmark(
        model=weights.spec.model.name,
        size_hw=size,
        measurements=tuple(measured),
        skipped=skipped,
        machine=describe_machine(threads),
    )


def _make(
    name: str,
    weights: Weights,
    folder: Path,
    size_hw: tuple[int, int],
    calibration: Location | None,
    threads: int | None,
) -> tuple[Backend, float | None]:
    """The opened backend of a format, and its largest error as a fraction of what is allowed."""
    format_name, _, precision = name.partition("-")
    if format_name == TORCH:
        if precision:
            raise UsageError(f"{name}: PyTorch is measured in float32")
        save_checkpoint(folder / "model.pt", weights)
        return TorchBackend.from_weights(weights), None
    if precision not in ("", "fp16", "int8"):
        raise UsageError(f"{name}: precision must be fp16 or int8, got {precision!r}")
    options = ExportOptions(
        format=format_name,
        size_hw=size_hw,
        precision="int8" if precision == "int8" else "fp16" if precision == "fp16" else "fp32",
        calibration=calibration if precision == "int8" else None,
    )
    target = TARGETS[format_name]
    report = export_model(weights, options, folder / f"model{target.suffix}")
    if not target.runs:
        raise UsageError(f"converts, but cannot be run on {platform.system()}")
    backend = open_model(report.path, device="auto", threads=threads)
    return backend, max(row.error / row.tolerance for row in report.parity)


def time_pipeline(
    backend: Backend, jpegs: Sequence[bytes], size_hw: tuple[int, int]
) -> dict[str, Spread]:
    """Time a backend on encoded images, one after the other.

    Args:
        backend: opened; warmed up with the first tenth of the images.
        jpegs: encoded images.
        size_hw: input height and width.

    Returns:
        Milliseconds of an image, from bytes to detections: of each stage and of the ``total``.
    """
    pipeline = Pipeline(backend, size_hw=size_hw, batch=1)
    for jpeg in jpegs[: max(len(jpegs) // 10, 1)]:
        pipeline([decode_image(jpeg, where="benchmark")])
    watch = Stopwatch()
    rounds = []
    for jpeg in jpegs:
        with watch.stage("decode"):
            image = decode_image(jpeg, where="benchmark")
        pipeline([image], watch=watch)
        rounds.append(watch.restart())
    return spread_of(rounds)


def sample_jpegs(data: CocoIndex | None, count: int) -> list[bytes]:
    """The dataset's first images as they lie on the disk, or sample images, as JPEG.

    Raises:
        DataError: when an image cannot be read.
    """
    if data is not None:
        try:
            return [data.image_file(i % len(data)).read_bytes() for i in range(count)]
        except OSError as error:
            raise DataError(f"{data.image_dir}: an image cannot be read ({error})") from error
    encoded = []
    for i in range(count):
        image = sample_image((480, 640), rng=np.random.default_rng((11, i % 10)))
        encoded.append(encode_image(image, ".jpg"))
    return encoded
