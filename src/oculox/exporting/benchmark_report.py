"""A benchmark as a table and as a plot."""

from pathlib import Path

from oculox.errors import UsageError
from oculox.exporting.benchmark import Benchmark
from oculox.files import write_atomically
from oculox.report.figures import as_labels, save_figure
from oculox.runtime.timing import STAGES

_STAGE_COLORS = ("#9aa5b1", "#5b8def", "#1f4e9e", "#f0a33c")


def as_table(result: Benchmark) -> str:
    """Markdown: one line a format, median milliseconds per image."""
    head = (
        "| format | MB | median ms | min-max ms | images/s | decode | preprocess | network "
        "| postprocess | AP | parity |"
    )
    lines = [head, "|---|" + "---:|" * 10]
    for m in result.measurements:
        stages = " | ".join(f"{m.stages_ms[stage]:.1f}" for stage in STAGES)
        ap = "" if m.ap is None else f"{m.ap:.4f}"
        parity = "" if m.parity is None else f"{m.parity:.3f}"
        lines.append(
            f"| {m.format} | {m.megabytes:.1f} | {m.median_ms:.1f} | "
            f"{m.min_ms:.1f}-{m.max_ms:.1f} | {m.images_per_second:.1f} | {stages} | "
            f"{ap} | {parity} |"
        )
    lines += [f"\n{name}: not measured: {why}" for name, why in result.skipped.items()]
    return "\n".join(lines)


def write_plot(result: Benchmark, path: Path) -> None:
    """Bars of the stages of every format, to a PNG or SVG.

    Raises:
        UsageError: when there is nothing to draw.
        OculoxError: when the file cannot be written.
    """
    if not result.measurements:
        raise UsageError("nothing was measured, so there is nothing to draw")
    from matplotlib.figure import Figure

    names = [m.format for m in result.measurements][::-1]
    figure = Figure(figsize=(8, 1.2 + 0.45 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    left = [0.0] * len(names)
    for stage, color in zip(STAGES, _STAGE_COLORS, strict=True):
        widths = [m.stages_ms[stage] for m in result.measurements][::-1]
        axes.barh(names, widths, left=left, color=color, label=stage)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for y, (end, m) in enumerate(zip(left, result.measurements[::-1], strict=True)):
        axes.text(end, y, f" {m.median_ms:.1f}", va="center")
    axes.set_xlabel("median milliseconds per image")
    axes.set_title(f"{as_labels([result.model])[0]}, {result.size_hw[0]} x {result.size_hw[1]}")
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    suffix = path.suffix.lstrip(".") or "png"
    write_atomically(path, lambda temporary: save_figure(figure, temporary, kind=suffix, dpi=120))
