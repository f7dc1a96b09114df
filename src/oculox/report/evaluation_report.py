"""The report of one evaluation: ``report.html``."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oculox.addresses import Location, on_disk
from oculox.data.coco import CocoIndex
from oculox.datasets.stats import MEDIUM, SMALL
from oculox.distributed.devices import describe_machine
from oculox.errors import DataError, plural
from oculox.evaluation.coco_metrics import CONFUSION_CONF
from oculox.evaluation.evaluate import Evaluation
from oculox.evaluation.metrics import CocoMetrics
from oculox.files import file_sha256
from oculox.postprocess import DetectSettings
from oculox.report import figures
from oculox.report.diagnosis import Diagnosis, diagnose
from oculox.report.drawings import draw_image
from oculox.report.page import (
    Figure,
    Section,
    Table,
    as_figure,
    number,
    pairs_table,
    write_page,
)
from oculox.runtime.backend import Backend

_WORST, _BEST, _CONFUSIONS = 8, 4, 15
AT_CONF = f"at score {CONFUSION_CONF:g}"


def write_report(
    path: Path,
    result: Evaluation,
    index: CocoIndex,
    *,
    title: str,
    settings: Mapping[str, str],
    lines: Sequence[str] = (),
    log: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write what an evaluation found as one HTML file, which needs no other.

    Args:
        path: of the file.
        result: the evaluation.
        index: the data it was made on.
        title: of the page.
        settings: what a reader needs to repeat it, by name.
        lines: sentences to begin with.
        log: rows of a run's ``log.jsonl``, for its curves.

    Raises:
        OculoxError: when it cannot be written.
    """
    found, metrics = diagnose(result, index), result.metrics
    run = figures.run_figure(log)
    curves = [] if run is None else [_run_section(figures.as_svg(run), log)]
    limits = np.linspace(0, 1, 101)
    f1 = found.f1_curve(limits)
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    write_page(
        path,
        title=title,
        lines=[*lines, *data_lines(result, index)],
        tiles=[
            ("AP", number(metrics.ap)),
            ("AP50", number(metrics.ap50)),
            ("best F1", f"{f1[best]:.3f}"),
            ("at score", f"{limits[best]:.2f}" if f1[best] else "-"),
            ("images", str(result.images)),
            ("objects", str(sum(one.objects for one in metrics.classes))),
        ],
        sections=[
            _metrics_section(metrics, found),
            *curves,
            _scores_section(found),
            _classes_section(metrics),
            _confusion_section(metrics),
            _calibration_section(found),
            *_image_sections(found),
            origin_section(index, {"settings": settings}, result),
        ],
    )


def data_lines(result: Evaluation, index: CocoIndex) -> list[str]:
    """What was evaluated on, and what a reader should know of it."""
    left_out = [f"left out: {text}" for text in result.left_out]
    return [f"{plural(result.images, 'image')} of {index.annotations}", *result.notes, *left_out]


def origin_section(
    index: CocoIndex, settings: Mapping[str, Mapping[str, str]], *results: Evaluation
) -> Section:
    """Settings (several tables, by caption), speed, machine, versions and data."""
    today = datetime.datetime.now().astimezone().isoformat(" ", "minutes")
    speed = [result.times.milliseconds() for result in results]
    return Section(
        title="Settings, machine and data",
        tables=[
            *(pairs_table(caption, values, folded=True) for caption, values in settings.items()),
            Table(
                caption="Milliseconds per image; decode is the wait for the loader",
                head=("stage", *(["time"] if len(speed) == 1 else "AB")),
                rows=[(stage, *(f"{one[stage]:.1f}" for one in speed)) for stage in speed[0]],
            ),
            pairs_table(
                "Machine and versions", {"date": today, **describe_machine(torch.get_num_threads())}
            ),
            pairs_table(
                "Data",
                {
                    "annotations": str(index.annotations),
                    "SHA-256 of names, sizes and boxes": _data_digest(index),
                    "images": str(index.image_dir),
                },
            ),
        ],
    )


def model_settings(
    backend: Backend, settings: DetectSettings, *, size_hw: tuple[int, int], path: Location | None
) -> dict[str, str]:
    """What an evaluation was made with, by name.

    Args:
        backend: the model.
        settings: thresholds.
        size_hw: input size.
        path: the model's file, where it has one.
    """
    values = {
        "network": f"{backend.spec.model.name}, {plural(backend.spec.num_classes, 'class')}",
        "format": backend.kind,
        "input": f"{size_hw[0]} x {size_hw[1]} pixels (height x width)",
        **{name: str(value) for name, value in dataclasses.asdict(settings).items()},
    }
    if path is not None:
        values["model"] = str(path)
        if path.is_file():
            values["SHA-256 of the model"] = file_sha256(on_disk(path))
    return values


def _data_digest(index: CocoIndex) -> str:
    """SHA-256 of what was read, in hexadecimal digits: equal for equal labels in any format."""
    digest = hashlib.sha256(json.dumps(index.class_names).encode())
    for array in (index.file_names.data, index.sizes_hw, index.all_boxes, index.all_labels):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def metric_name(name: str) -> str:
    """A name of `METRICS` for people: ``AP small`` for ``ap_small``."""
    return name[:2].upper() + name[2:].replace("_", " ")


def figure_of(models: Sequence[Diagnosis], i: int, *, caption: str) -> Figure | None:
    """Image i as drawn with the detections of each model; None where it cannot be read."""
    name = models[0].index.file_name(i)
    try:
        image = draw_image(models, i)
    except DataError:
        return None  # it was left out of the metrics, or has gone since
    panes = "detections" if len(models) == 1 else "detections of A and of B"
    alt = f"{name}: labels on the left, {panes} beside them"
    return as_figure(image, alt=alt, caption=f"{name}: {caption}")


def _metrics_section(metrics: CocoMetrics, found: Diagnosis) -> Section:
    truth = found.index.truth
    areas = truth.areas[~truth.crowd]
    hit = found.found_at[~truth.crowd] >= CONFUSION_CONF
    sizes = []
    ranges = (("small", 0, SMALL), ("medium", SMALL, MEDIUM), ("large", MEDIUM, np.inf))
    for size, low, high in ranges:
        inside = (areas >= low) & (areas < high)
        count = int(inside.sum())
        recall = hit[inside].mean() if count else -1
        ap, ar = (getattr(metrics, f"{kind}_{size}") for kind in ("ap", "ar"))
        sizes.append((size, str(count), number(ap), number(ar), number(recall)))
    return Section(
        title="Metrics",
        text="The twelve COCO metrics. AP is the mean over IoU 0.50 to 0.95 and over the classes; "
        "a dash means that the data has no such objects.",
        tables=[
            Table(
                caption="COCO metrics",
                head=("metric", "value"),
                rows=[
                    (metric_name(name), number(value)) for name, value in metrics.as_dict().items()
                ],
            ),
            Table(
                caption="By size: small is under 32 x 32 pixels, large over 96 x 96",
                head=("size", "objects", "AP", "AR", f"found {AT_CONF}"),
                rows=sizes,
            ),
        ],
    )


def _run_section(source: str, log: Sequence[Mapping[str, Any]]) -> Section:
    evals = [row for row in log if row["kind"] == "eval"]
    alt = "Loss, learning rate and AP over the steps of the run"
    return Section(
        title="Training",
        text="Means over the steps between two lines of the log.",
        figures=[Figure(source=source, alt=alt)],
        tables=[
            Table(
                caption="Evaluations",
                head=("epoch", "AP", "AP50", "AP75"),
                rows=[
                    (str(row["epoch"]), *(number(row[key]) for key in ("ap", "ap50", "ap75")))
                    for row in evals
                ],
                folded=True,
            )
        ],
    )


def _scores_section(found: Diagnosis) -> Section:
    return Section(
        title="Precision, recall and F1",
        text="A higher lowest score gives fewer false detections and misses more objects; F1 "
        "weighs both alike. Thin lines are single classes, of many those with most objects.",
        figures=[
            Figure(
                source=figures.as_svg(figures.curves_figure(found)),
                alt="Precision over recall, and F1 over the lowest score; the table of classes "
                "has the best F1 of each",
            )
        ],
    )


def _classes_section(metrics: CocoMetrics) -> Section:
    keys = ("ap", "ap50", "ar", "precision", "recall", "f1", "confidence")
    return Section(
        title="Classes",
        text="Precision, recall and F1 are those at the score where F1 is best, at IoU 0.5.",
        tables=[
            Table(
                caption="Metrics of each class",
                head=("class", "objects", "AP", "AP50", "AR", *keys[3:5], "F1", "at score"),
                rows=[
                    (one.name, str(one.objects), *(number(getattr(one, key)) for key in keys))
                    for one in metrics.classes
                ],
            )
        ],
    )


def _confusion_section(metrics: CocoMetrics) -> Section:
    matrix, names = metrics.confusion, [one.name for one in metrics.classes]
    off = matrix[:-1, :-1] * (1 - np.eye(len(names), dtype=np.int64))
    order = np.argsort(off, axis=None)[::-1][:_CONFUSIONS]
    pairs = [(int(n) // len(names), int(n) % len(names)) for n in order]
    return Section(
        title="Confusion",
        text=f"What objects of each class were detected as, {AT_CONF} and IoU 0.5. The last "
        "column are missed objects, the last row detections without an object.",
        figures=[
            Figure(
                source=figures.as_svg(figures.confusion_figure(metrics)),
                alt="Confusion matrix; the table below has the most frequent confusions",
            )
        ],
        tables=[
            Table(
                caption="Most frequent confusions of classes",
                head=("labelled as", "detected as", "times"),
                rows=[(names[a], names[b], str(off[a, b])) for a, b in pairs if off[a, b]],
            )
        ],
    )


def _calibration_section(found: Diagnosis) -> Section:
    calibration = found.calibration()
    bins = calibration["bins"]
    return Section(
        title="Calibration of scores",
        text="Where the bars reach the dashed line, of all detections with score 0.7 seven in ten "
        "are right. Bars above it: scores are too low; below: too high. The expected calibration "
        f"error, the mean distance over all detections, is {calibration['ece']:.3f}.",
        figures=[
            Figure(
                source=figures.as_svg(figures.calibration_figure(bins)),
                alt="Precision by score, and the number of detections by score; the table below "
                "has the same numbers",
            )
        ],
        tables=[
            Table(
                caption="Precision by score at IoU 0.5",
                head=("score", "detections", "mean score", "precision"),
                rows=[
                    (
                        f"{one['bin_lower']:.1f} to {one['bin_upper']:.1f}",
                        str(one["count"]),
                        number(one["avg_confidence"] if one["count"] else -1),
                        number(one["avg_accuracy"] if one["count"] else -1),
                    )
                    for one in bins
                ],
            )
        ],
    )


def _image_sections(found: Diagnosis) -> list[Section]:
    counts = found.images()
    errors = counts.false + counts.missed
    worst = [i for i in np.lexsort((counts.f1, -errors)) if errors[i]][:_WORST]
    best = [i for i in np.lexsort((-counts.found, -counts.f1)) if counts.found[i]][:_BEST]
    sections = []
    for title, chosen in (("Images with most errors", worst), ("Best images", best)):
        shown = [figure_of([found], int(i), caption=counts.text(int(i))) for i in chosen]
        sections.append(
            Section(
                title=title,
                text="Labels on the left, detections on the right. Green is right; red is missed "
                f"(left) or false (right), {AT_CONF} and IoU 0.5."
                if chosen
                else "There are none.",
                figures=[figure for figure in shown if figure is not None],
            )
        )
    return sections
