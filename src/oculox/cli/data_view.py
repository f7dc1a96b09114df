"""What ``oculox data`` shows on the screen."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from oculox.data.coco import Split
from oculox.data.faults import Fault, Severity, count_faults
from oculox.datasets.check import CheckReport
from oculox.datasets.clean import CleanSummary
from oculox.datasets.formats.convert import ConvertSummary
from oculox.datasets.stats import Percentiles, SizeHistogram, SplitStats
from oculox.datasets.tile import TileSummary
from oculox.errors import plural

_COLORS: dict[Severity, str] = {"error": "red", "warning": "yellow", "info": "cyan"}


def show_check(report: CheckReport, *, limit: int, fixed: bool) -> None:
    """The check's findings: counts of each split, faults by kind, and the result.

    Args:
        report: of `check_data`.
        limit: faults listed of each kind.
        fixed: whether a clean copy is written next; else the result tells of it.
    """
    console = Console(emoji=False)
    for name, checked in report.splits.items():
        stats = checked.stats
        sizes = stats.sizes
        _say(
            console,
            f"[bold]{name}[/bold]: {plural(stats.images, 'image')} ({stats.backgrounds} without "
            f"objects), {plural(stats.objects, 'object')} of "
            f"{plural(len(stats.per_class), 'class')}; "
            f"{sizes.small} small, {sizes.medium} medium, {sizes.large} large",
        )
    _class_table(console, {name: checked.stats for name, checked in report.splits.items()})
    _show_faults(console, report.faults, limit=limit)
    tally = [
        f"{n} info" if severity == "info" else plural(n, severity)
        for severity in _COLORS
        if (n := sum(f.severity == severity for f in report.faults))
    ]
    result = "[green]usable[/green]" if report.ok else "[red]faulty[/red]"
    advice = "" if report.ok or fixed else "; --fix OUT writes a copy without the faults"
    _say(console, f"{result}: {', '.join(tally) if tally else 'nothing wrong'}{advice}")


def _show_faults(console: Console, faults: Sequence[Fault], *, limit: int) -> None:
    """Faults by kind, errors first, at most `limit` of each kind."""
    for severity, color in _COLORS.items():
        chosen = [f for f in faults if f.severity == severity]
        for code, count in count_faults(chosen).items():
            _say(console, f"[{color}]{severity}[/{color}] {code} ({count})")
            for fault in [f for f in chosen if f.code == code][:limit]:
                _say(console, f"  {escape(str(fault))}")
            if count > limit:
                _say(console, f"  ... and {count - limit} more (--show N, --json for all)")


def show_conversion(summary: ConvertSummary, *, limit: int) -> None:
    """What a conversion wrote and left out."""
    console = Console(emoji=False)
    _show_faults(console, summary.faults, limit=limit)
    parts = [
        f"{split} {plural(count, 'image')}, {plural(summary.objects[split], 'object')}"
        for split, count in summary.images.items()
    ]
    _say(console, f"{escape(str(summary.target))}: {'; '.join(parts)}")
    _say(console, f"classes in order: {escape(', '.join(summary.classes))}")


def show_tiles(summary: TileSummary, *, limit: int) -> None:
    """As `show_conversion`, and how many objects no tile shows enough of."""
    show_conversion(summary, limit=limit)
    lost = ", ".join(f"{split} {count}" for split, count in summary.unseen.items() if count)
    if lost:
        _say(
            Console(emoji=False),
            f"objects that no tile labels, below --min-visible in each: {lost}",
        )


def show_clean(
    target: Path,
    report: CheckReport,
    summaries: Mapping[Split, CleanSummary],
    again: CheckReport,
    *,
    on_error_stream: bool,
) -> None:
    """What the clean copy holds and what was done to get it.

    Faulty lines of label files are not among the entries that a summary counts.
    """
    console = Console(stderr=on_error_stream, emoji=False)
    for split, s in summaries.items():
        done = {
            "images dropped": s.dropped_images,
            "objects dropped": s.dropped_objects,
            "boxes clipped": s.clipped,
            "annotations renumbered": s.renumbered,
            "entries of one file joined": s.merged,
            "sizes corrected": s.resized,
        }
        faulty = any(fault.severity == "error" for fault in report.splits[split].faults)
        unchanged = "without what is faulty" if faulty else "nothing to change"
        changes = ", ".join(f"{what}: {n}" for what, n in done.items() if n)
        _say(
            console,
            f"{escape(str(target))} {split}: "
            f"{plural(s.images, 'image')}, {plural(s.objects, 'object')}; "
            f"{changes or unchanged}",
        )
    if not again.ok:
        errors = [f for f in again.faults if f.severity == "error"]
        _say(console, "[red]the copy still has errors[/red]")
        _show_faults(console, errors, limit=10)


def show_stats(found: Mapping[Split, SplitStats]) -> None:
    """Counts and sizes of every split side by side, then classes and advice."""
    console = Console(emoji=False)
    table = Table(title="Images and objects")
    table.add_column("", no_wrap=True)
    for name in found:
        table.add_column(name, justify="right")
    height, width = next(iter(found.values())).input_hw
    size = str(height) if height == width else f"{height} x {width}"
    rows: list[tuple[str, Iterable[str]]] = [
        ("images", (str(s.images) for s in found.values())),
        ("without objects", (str(s.backgrounds) for s in found.values())),
        ("objects", (str(s.objects) for s in found.values())),
        ("objects per image", (_percentiles(s.per_image) for s in found.values())),
        ("image width", (_percentiles(s.image_width) for s in found.values())),
        ("image height", (_percentiles(s.image_height) for s in found.values())),
        ("box width / height", (_percentiles(s.aspect, digits=2) for s in found.values())),
        ("small / medium / large", (_sizes(s.sizes) for s in found.values())),
        (f"the same at {size}", (_sizes(s.sizes_at_input) for s in found.values())),
        (f"under 8 pixels at {size}", (str(s.below_cell) for s in found.values())),
    ]
    for label, cells in rows:
        table.add_row(label, *cells)
    console.print(table)
    _class_table(console, found)
    for name, stats in found.items():
        for hint in stats.hints:
            _say(console, f"{name}: {escape(hint)}")


def _class_table(console: Console, found: Mapping[Split, SplitStats]) -> None:
    names = dict.fromkeys(name for stats in found.values() for name in stats.per_class)
    table = Table()
    # The other columns get narrower first, since their titles have two words.
    table.add_column("class", no_wrap=True)
    for split in found:
        table.add_column(f"{split} objects", justify="right")
        table.add_column(f"{split} images", justify="right")
    for name in names:
        cells = []
        for stats in found.values():
            cells.append(str(stats.per_class.get(name, 0)))
            cells.append(str(stats.images_per_class.get(name, 0)))
        table.add_row(escape(name), *cells)
    console.print(table)


def _percentiles(s: Percentiles, *, digits: int = 0) -> str:
    """Median and the range that holds all."""
    return f"{s.median:.{digits}f} ({s.low:.{digits}f} to {s.high:.{digits}f})"


def _sizes(sizes: SizeHistogram) -> str:
    return f"{sizes.small} / {sizes.medium} / {sizes.large}"


def _say(console: Console, text: str) -> None:
    # Paths must not be broken into lines, so that they can be copied.
    console.print(text, soft_wrap=True, highlight=False)
