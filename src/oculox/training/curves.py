"""Curves of a run as one image."""

from pathlib import Path

from oculox.files import write_atomically
from oculox.training.log import read_log


def write_curves(folder: Path) -> Path | None:
    """Plot losses, learning rate and AP from a run's log to ``curves.png``.

    Returns:
        The image's path, or None while there is nothing to plot.

    Raises:
        OculoxError: when the image cannot be written.
    """
    # Here, since importing it takes as long as several training steps.
    from matplotlib.figure import Figure

    rows = read_log(folder)
    steps = [row for row in rows if row["kind"] == "train"]
    evals = [row for row in rows if row["kind"] == "eval"]
    if not steps:
        return None
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    losses, rates, scores = figure.subplots(1, 3)
    x = [row["step"] for row in steps]
    for key in ("loss", "box", "objectness", "classes", "l1"):
        losses.plot(x, [row[key] for row in steps], label=key, linewidth=1)
    losses.set(title="loss", xlabel="step", ylim=(0, None))
    losses.legend(fontsize=7)
    rates.plot(x, [row["lr"] for row in steps], linewidth=1)
    rates.set(title="learning rate", xlabel="step", ylim=(0, None))
    for key in ("ap", "ap50", "ap75"):
        points = [(row["step"], row[key]) for row in evals if row[key] >= 0]
        if points:
            scores.plot(*zip(*points, strict=True), label=key, marker=".", linewidth=1)
            scores.legend(fontsize=7)
    scores.set(title="validation", xlabel="step", ylim=(0, 1))
    for axes in (losses, rates, scores):
        axes.grid(alpha=0.3)
    path = folder / "curves.png"
    write_atomically(path, lambda temporary: figure.savefig(str(temporary), format="png"))
    return path
