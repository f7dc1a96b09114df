"""Two models on the same images: differences of metrics with intervals, and the images that differ.

The intervals are hotcoco's: images are drawn again and again with replacement, the same ones for
both models, and the metrics counted for each draw.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np

from oculox.data.coco import CocoIndex
from oculox.errors import DataError
from oculox.evaluation.evaluate import Evaluation
from oculox.evaluation.metrics import METRICS
from oculox.report.diagnosis import Diagnosis, diagnose
from oculox.report.evaluation_report import (
    AT_CONF,
    data_lines,
    figure_of,
    metric_name,
    origin_section,
)
from oculox.report.page import Section, Table, number, write_page
from oculox.types import ImageId

_IMAGES, _CLASSES = 8, 20

# hotcoco's names, in the order of METRICS.
_KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of two models; -1 where the data has no such objects.

    Attributes:
        name: one of `METRICS`, or the name of a class, whose AP it is.
        a: of the first model.
        b: of the second model.
        difference: b - a; None where it was not measured.
        low: lower end of the 95 % interval of the difference; None without an interval.
        high: its upper end.
    """

    name: str
    a: float
    b: float
    difference: float | None
    low: float | None = None
    high: float | None = None

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low is not None and self.high is not None and self.low * self.high > 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageChange:
    """F1 of an image with each model, at the score of the confusion matrix and IoU 0.5."""

    image_id: ImageId
    file_name: str
    a: float
    b: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Two models on one dataset.

    Attributes:
        models: their names.
        metrics: the twelve COCO metrics.
        classes: AP of each class, the largest difference first.
        images: those whose F1 differs, the largest difference first.
        draws: how often images were drawn for the intervals.
        results: the two evaluations.
        index: the data.
        found: the matched detections of both.
    """

    models: tuple[str, str]
    metrics: tuple[Difference, ...]
    classes: tuple[Difference, ...]
    images: tuple[ImageChange, ...]
    draws: int
    results: tuple[Evaluation, Evaluation]
    index: CocoIndex
    found: tuple[Diagnosis, Diagnosis]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        first, second = self.results
        return {
            "models": list(self.models),
            "metrics": [dataclasses.asdict(one) for one in self.metrics],
            "classes": [
                {key: getattr(one, key) for key in ("name", "a", "b", "difference")}
                for one in self.classes
            ],
            "images": [dataclasses.asdict(one) for one in self.images],
            "draws": self.draws,
            "evaluated": first.images,
            "milliseconds": [first.times.milliseconds(), second.times.milliseconds()],
        }

    def table(self) -> str:
        """The metrics as lines for people."""
        rows = [f"{'':10}  {'A':>7}  {'B':>7}  {'B - A':>7}  95 % interval"]
        rows += [
            f"{metric_name(one.name):10}  {number(one.a):>7}  {number(one.b):>7}  "
            f"{_signed(one.difference):>7}  {_interval(one)}".rstrip()
            for one in self.metrics
        ]
        return "\n".join(rows)


def compare_evaluations(
    models: tuple[str, str],
    results: tuple[Evaluation, Evaluation],
    index: CocoIndex,
    *,
    draws: int = 1000,
) -> Comparison:
    """Compare two evaluations on the same data.

    Args:
        models: names of the two.
        results: their evaluations.
        index: the data of both.
        draws: how often images are drawn for the intervals; 0 for no intervals.

    Raises:
        DataError: the two left out different images.
    """
    if results[0].left_out_ids != results[1].left_out_ids:
        raise DataError(
            f"{index.annotations}: the two evaluations left out different images; "
            "evaluate both once more"
        )
    a, b = (diagnose(result, index) for result in results)
    compared = hotcoco.compare(a.evaluator, b.evaluator, n_bootstrap=draws)
    intervals: Mapping[str, Any] = compared["ci"] or {}
    metrics = []
    for name, key in zip(METRICS, _KEYS, strict=True):
        ends = intervals.get(key, {})
        one, two = (float(compared[side][key]) for side in ("metrics_a", "metrics_b"))
        metrics.append(_difference(name, one, two, ends.get("lower"), ends.get("upper")))
    of_class = [metric.metrics.classes for metric in results]
    classes = [_difference(x.name, x.ap, y.ap) for x, y in zip(*of_class, strict=True)]
    f1 = [found.images().f1 for found in (a, b)]
    order = np.argsort(-np.abs(f1[1] - f1[0]), kind="stable")
    return Comparison(
        models=models,
        metrics=tuple(metrics),
        classes=tuple(sorted(classes, key=lambda one: -abs(one.difference or 0))),
        images=tuple(
            ImageChange(
                image_id=index.image_id(i),
                file_name=index.file_name(i),
                a=float(f1[0][i]),
                b=float(f1[1][i]),
            )
            for i in order.tolist()
            if f1[0][i] != f1[1][i]
        ),
        draws=draws,
        results=results,
        index=index,
        found=(a, b),
    )


def write_comparison(
    path: Path, comparison: Comparison, *, settings: Mapping[str, Mapping[str, str]]
) -> None:
    """Write a comparison as one HTML file, which needs no other.

    Args:
        path: of the file.
        comparison: of two models.
        settings: what a reader needs to repeat it: tables, by caption.

    Raises:
        OculoxError: when it cannot be written.
    """
    one = comparison
    ap = one.metrics[0]
    write_page(
        path,
        title="Comparison of two models",
        lines=[
            f"A: {one.models[0]}",
            f"B: {one.models[1]}",
            *dict.fromkeys(line for r in one.results for line in data_lines(r, one.index)),
        ],
        tiles=[
            ("AP of A", number(ap.a)),
            ("AP of B", number(ap.b)),
            ("B - A", _signed(ap.difference)),
            ("95 % interval", _interval(ap) or "-"),
        ],
        sections=[
            Section(
                title="Metrics",
                text=f"The interval comes from {one.draws} draws of images with replacement, "
                "the same for both models. Where it leaves 0 out, the difference is more than "
                "the choice of images explains.",
                tables=[
                    Table(
                        caption="COCO metrics",
                        head=("metric", "A", "B", "B - A", "95 % interval", "leaves 0 out"),
                        rows=[
                            (*_cells(m, metric_name(m.name)), _interval(m), _yes(m.clear))
                            for m in one.metrics
                        ],
                    )
                ],
            ),
            Section(
                title="Classes",
                text=f"The {_CLASSES} classes whose AP differs most.",
                tables=[
                    Table(
                        caption="AP of classes",
                        head=("class", "A", "B", "B - A"),
                        rows=[_cells(m, m.name) for m in one.classes[:_CLASSES]],
                    )
                ],
            ),
            _images_section(one),
            origin_section(one.index, settings, *one.results),
        ],
    )


def _images_section(one: Comparison) -> Section:
    counts = [found.images() for found in one.found]
    places = {image_id: i for i, image_id in enumerate(one.index.image_ids)}
    chosen = [places[change.image_id] for change in one.images[:_IMAGES]]
    figures = [
        figure_of(one.found, i, caption=f"A: {counts[0].text(i)}; B: {counts[1].text(i)}")
        for i in chosen
    ]
    return Section(
        title="Images that changed most",
        text=f"By F1 {AT_CONF} and IoU 0.5: labels (red: missed by A), then the detections of A "
        "and of B (green: right, red: false). "
        f"{len(one.images)} of {one.results[0].images} images have another F1.",
        figures=[figure for figure in figures if figure is not None],
    )


def _difference(
    name: str, a: float, b: float, low: float | None = None, high: float | None = None
) -> Difference:
    measured = a > -1 and b > -1
    return Difference(
        name=name,
        a=a,
        b=b,
        difference=b - a if measured else None,
        low=low if measured else None,
        high=high if measured else None,
    )


def _cells(one: Difference, name: str) -> tuple[str, ...]:
    return name, number(one.a), number(one.b), _signed(one.difference)


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _interval(one: Difference) -> str:
    if one.low is None or one.high is None:
        return ""
    return f"{one.low:+.3f} to {one.high:+.3f}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
