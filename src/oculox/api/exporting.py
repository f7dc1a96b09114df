"""`export`: a model for another runtime."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from oculox.addresses import Location, local_output, to_location
from oculox.datasets.splits import open_split
from oculox.errors import UsageError
from oculox.exporting.job import DEFAULT_LICENSE, DEFAULT_OPSET, ExportOptions
from oculox.exporting.run import MAX_AP_LOSS, ExportReport, export_model
from oculox.exporting.targets import find_target
from oculox.files import free_path
from oculox.runtime.exported import ExportPrecision, InGraphNms
from oculox.types import ImageSize, height_width
from oculox.weights import load_weights


def export(
    model: str | Location,
    format: str,  # noqa: A002
    *,
    output: str | Location | None = None,
    overwrite: bool = False,
    imgsz: ImageSize | None = None,
    dynamic_size: bool = False,
    batch: int | None = 1,
    precision: ExportPrecision = "fp32",
    calib: str | Location | None = None,
    calib_images: int = 300,
    nms: bool = False,
    conf: float = 0.01,
    iou: float = 0.65,
    max_det: int = 300,
    preprocess: bool = False,
    opset: int = DEFAULT_OPSET,
    data: str | Location | None = None,
    images: str | Location | None = None,
    max_ap_loss: float = MAX_AP_LOSS,
    license: str = DEFAULT_LICENSE,  # noqa: A002
    log: Callable[[str], None] | None = None,
) -> ExportReport:
    """Write a model for another runtime, and check that it gives the same results as PyTorch.

    Args:
        model: a weights file, or a name of published weights.
        format: a key of `oculox.exporting.targets.TARGETS`, such as ``onnx``.
        output: the file to write; by default a new one beside the weights, or here where these are
            at a URL.
        overwrite: replace `output` where it exists.
        imgsz: input size; that of the weights by default.
        dynamic_size: take any multiple of 32, with `imgsz` as the default.
        batch: the only number of images at once; None for any.
        precision: of the file.
        calib: for int8: a folder of images, or a dataset whose training images are used.
        calib_images: most images used of it.
        nms: put NMS into the file, with `conf`, `iou` and `max_det`.
        conf: lowest score kept.
        iou: NMS: IoU above which the weaker of two boxes of a class is dropped.
        max_det: most detections per image.
        preprocess: put the letterbox into the file, which then takes images of any size.
        opset: of ONNX, for the formats that go through it.
        data: a dataset folder or COCO JSON to measure AP on, before and after.
        images: folder of the images of a JSON file; by default the file's own.
        max_ap_loss: most AP that may be lost on `data`.
        license: of the weights, written into the file.
        log: called with a line on what is being done.

    Raises:
        UsageError: an option does not fit the format, or `output` or what goes beside it exists.
        ExportError: the file does not agree with the model; nothing was written.
        OculoxError: anything wrong with the weights or the data.
    """
    options = ExportOptions(
        format=format,
        size_hw=None if imgsz is None else height_width(imgsz),
        dynamic_size=dynamic_size,
        batch=batch,
        precision=precision,
        calibration=None if calib is None else to_location(calib),
        calibration_images=calib_images,
        nms=InGraphNms(conf=conf, iou=iou, max_det=max_det) if nms else None,
        preprocess=preprocess,
        opset=opset,
        license=license,
    )
    target, weights = find_target(options), to_location(model)
    suffix, companions = target.suffix, target.companions
    if output is None:
        tail = "" if precision == "fp32" else f"_{precision}"
        folder = weights.parent if isinstance(weights, Path) else Path()
        wanted = folder / f"{weights.stem}{tail}{suffix}"
        final: Location = free_path(wanted, suffix=suffix, companions=companions)
    else:
        final = to_location(output)
        if final.suffix != suffix:
            raise UsageError(f"`output` {final}: a file of format {format} ends in {suffix}")
        files = [final.parent / f"{final.stem}{end}" for end in (suffix, *companions)]
        there = None if overwrite else next((file for file in files if file.exists()), None)
        if there is not None:
            raise UsageError(f"{there} exists; name another `output`, or pass `overwrite`")
    # At a URL the folder around it may hold anything: the file itself was looked for.
    with local_output(final.parent, overwrite=True) as folder:
        report = export_model(
            load_weights(weights),
            options,
            folder / final.name,
            data=None if data is None else open_split(data, "val", images=images),
            max_ap_loss=max_ap_loss,
            progress=log,
        )
    written = tuple(final.parent / file.name for file in report.files)
    return dataclasses.replace(report, path=final, files=written)
