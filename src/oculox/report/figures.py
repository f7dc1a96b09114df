"""Curves and diagrams of a report, and their form in a page: SVG that follows light and dark."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from oculox.evaluation.metrics import CocoMetrics
from oculox.report.diagnosis import Diagnosis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEW_CLASSES = 10
"""Up to so many classes have a line with a name each, and numbers in the confusion matrix."""

_MANY_CLASSES = 100
"""Only so many have a line of their own, and a name in the confusion matrix up to so many."""

_STYLE = (
    "svg{color:#1b1f24;fill:currentColor}"
    "@media(prefers-color-scheme:dark){svg{color:#e3e6ea}}</style>"
)


def run_figure(rows: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Losses, learning rate and AP of a run over its steps; None while there is nothing to plot.

    Args:
        rows: of its ``log.jsonl``.
    """
    steps = [row for row in rows if row["kind"] == "train"]
    evals = [row for row in rows if row["kind"] == "eval"]
    if not steps:
        return None
    figure = _figure(12, 3.6)
    losses, rates, scores = figure.subplots(1, 3)
    x = [row["step"] for row in steps]
    for key in ("loss", "box", "objectness", "classes", "l1"):
        losses.plot(x, [row[key] for row in steps], label=key, linewidth=1)
    losses.set(title="loss", xlabel="step", ylim=(0, None))
    losses.legend(fontsize=7, frameon=False)
    rates.plot(x, [row["lr"] for row in steps], linewidth=1)
    rates.set(title="learning rate", xlabel="step", ylim=(0, None))
    for key in ("ap", "ap50", "ap75"):
        points = [(row["step"], row[key]) for row in evals if row[key] >= 0]
        if points:
            scores.plot(*zip(*points, strict=True), label=key, marker=".", linewidth=1)
            scores.legend(fontsize=7, frameon=False)
    scores.set(title="validation", xlabel="step", ylim=(0, 1))
    for axes in (losses, rates, scores):
        axes.grid(alpha=0.3)
    return figure


def curves_figure(found: Diagnosis) -> Figure:
    """Precision over recall, and F1 over the lowest score that counts, of every class."""
    figure = _figure(10, 4)
    left, right = figure.subplots(1, 2)
    precision, names = found.precision_curves(), as_labels(found.index.class_names)
    recalls = limits = np.linspace(0, 1, 101)
    present = [k for k in range(len(names)) if precision[0, k] >= 0]
    few = len(present) <= _FEW_CLASSES
    truth = found.index.truth
    objects = np.bincount(truth.labels[~truth.crowd], minlength=len(names))
    for k in sorted(present, key=lambda k: -objects[k])[:_MANY_CLASSES]:
        look: dict[str, Any] = {"linewidth": 1, "label": names[k]}
        if not few:
            look = {"linewidth": 0.5, "color": "#8a929c", "alpha": 0.4}
        left.plot(recalls, precision[:, k], **look)
        right.plot(limits, found.f1_curve(limits, k), **look)
    if present:
        mean = precision[:, present].mean(axis=1)
        left.plot(recalls, mean, color="#d9480f", linewidth=2, label="mean of the classes")
    together = found.f1_curve(limits)
    right.plot(limits, together, color="#d9480f", linewidth=2, label="all detections together")
    left.set(title="precision and recall at IoU 0.5", xlabel="recall", ylabel="precision")
    right.set(title="F1 at IoU 0.5", xlabel="lowest score", ylabel="F1")
    for axes in (left, right):
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            # Looking for the best place takes longer than all the rest.
            axes.legend(fontsize=7, frameon=False, loc="upper right")
    return figure


def confusion_figure(metrics: CocoMetrics) -> Figure:
    """The confusion matrix: each row is divided by its sum."""
    matrix = metrics.confusion
    names = as_labels(one.name for one in metrics.classes)
    few = len(names) <= _FEW_CLASSES
    side = 2.5 + (0.55 if few else 0.14) * min(len(names), _MANY_CLASSES)
    figure = _figure(side + 1, side)
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places, size = range(len(matrix)), 9 if few else 6
    if len(names) <= _MANY_CLASSES:
        axes.set_xticks(places, [*names, "(missed)"], rotation=90, fontsize=size)
        axes.set_yticks(places, [*names, "(no object)"], fontsize=size)
    axes.set(xlabel="detected as", ylabel="labelled as")
    if few:
        for row, column in np.argwhere(matrix > 0):
            color = "#ffffff" if shares[row, column] > 0.5 else "#111111"
            text = str(matrix[row, column])
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(drawn, label="part of the row", shrink=0.6)
    return figure


def calibration_figure(bins: Sequence[Mapping[str, Any]]) -> Figure:
    """The reliability diagram: precision in each bin of scores, and how many are in it."""
    figure = _figure(10, 3.6)
    left, right = figure.subplots(1, 2)
    full = [one for one in bins if one["count"]]
    centers = [(one["bin_lower"] + one["bin_upper"]) / 2 for one in full]
    left.bar(centers, [one["avg_accuracy"] for one in full], width=0.09, color="#4c8bf5")
    left.plot([0, 1], [0, 1], color="#8a929c", linestyle="--", label="precision = score")
    left.set(xlabel="score", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    left.legend(fontsize=7, frameon=False)
    right.bar(centers, [one["count"] for one in full], width=0.09, color="#8a929c")
    right.set(xlabel="score", ylabel="detections", xlim=(0, 1), yscale="log" if full else "linear")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def as_svg(figure: Figure) -> str:
    """A data URI of the figure: black becomes the colour of text, in light and in dark."""
    file = io.StringIO()
    save_figure(figure, file, kind="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue().replace("#000000", "currentColor").replace("</style>", _STYLE, 1)
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()


def as_labels(names: Iterable[str]) -> list[str]:
    """Names as matplotlib shows them: what is between two dollars is a formula to it."""
    return [name.replace("$", r"\$") for name in names]


def save_figure(figure: Figure, target: str | Path | TextIO, *, kind: str, **options: Any) -> None:
    """Write a figure.

    SVG keeps texts as such, and a browser has all characters. matplotlib's font has no Chinese: in
    a PNG boxes stand for it.

    Args:
        figure: to write.
        target: file.
        kind: ``png``, ``svg`` or what else matplotlib writes.
        options: of matplotlib.
    """
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
        figure.savefig(target, format=kind, **options)


def _figure(width: float, height: float) -> Figure:
    # Here, since importing it takes as long as several training steps.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
