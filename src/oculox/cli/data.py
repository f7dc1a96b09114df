"""``oculox data``: the demo data set, converters, the check and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from oculox.cli.console import print_json
from oculox.cli.data_view import show_check, show_clean, show_conversion, show_stats
from oculox.data.coco import Split as SplitName
from oculox.data.coco import find_splits, load_coco
from oculox.datasets.check import check_data
from oculox.datasets.clean import write_clean
from oculox.datasets.demo.dataset import write_demo
from oculox.datasets.formats.convert import convert
from oculox.datasets.stats import SplitStats, index_stats
from oculox.errors import UsageError
from oculox.files import require_free, write_json

app = typer.Typer(
    name="data",
    help="Make, convert, check and measure data sets.",
    no_args_is_help=True,
    add_completion=False,
)


class Source(str, Enum):
    """Formats that are read."""

    voc = "voc"
    yolo = "yolo"
    coco = "coco"


class Target(str, Enum):
    """Formats that are written."""

    coco = "coco"
    yolo = "yolo"


class Split(str, Enum):
    """Which splits to look at."""

    train = "train"
    val = "val"
    test = "test"
    all = "all"


class Mode(str, Enum):
    """How images get to the new folder."""

    copy = "copy"
    symlink = "symlink"


DataPath = Annotated[
    Path, typer.Argument(metavar="DATA", help="Data set folder, or a COCO JSON file.")
]
SplitOption = Annotated[Split, typer.Option(help="Which split.")]
ImagesOption = Annotated[
    Path | None, typer.Option(help="Folder of the images, when DATA is a JSON file.")
]
ModeOption = Annotated[Mode, typer.Option(help="Copy the images, or link to those of the source.")]
InputOption = Annotated[
    int, typer.Option("--input-size", min=32, help="Network input the metrics are about.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write it.")],
    *,
    seed: Annotated[int, typer.Option(help="Chooses the scenes.")] = 0,
    train: Annotated[int, typer.Option(help="Training images.")] = 300,
    val: Annotated[int, typer.Option(help="Validation images.")] = 60,
    width: Annotated[int, typer.Option(help="Width of the images in pixels.")] = 320,
    height: Annotated[int, typer.Option(help="Height of the images in pixels.")] = 240,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier demo there.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write the built-in demo data set: rendered scenes with six classes, in COCO layout."""
    with _progress("rendering", total=train + val) as step:
        summary = write_demo(
            folder,
            seed=seed,
            train=train,
            val=val,
            size=(width, height),
            overwrite=force,
            on_image=step,
        )
    if as_json:
        print_json(
            {
                "folder": str(summary.folder),
                "classes": list(summary.classes),
                "images": {"train": summary.train_images, "val": summary.val_images},
                "objects": {"train": summary.train_objects, "val": summary.val_objects},
            }
        )
        return
    Console().print(
        f"{escape(str(summary.folder))}: {summary.train_images} training and "
        f"{summary.val_images} validation images, {summary.train_objects} and "
        f"{summary.val_objects} objects of {', '.join(summary.classes)}",
        soft_wrap=True,
        highlight=False,
    )


@app.command("convert")
def convert_command(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Data set to read.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="New or empty folder.")],
    *,
    source_format: Annotated[Source, typer.Option("--from", help="Format of SRC.")],
    target_format: Annotated[Target, typer.Option("--to", help="Format of DST.")] = Target.coco,
    classes: Annotated[
        str | None, typer.Option(help="Class names in the order wanted, with commas between.")
    ] = None,
    splits: Annotated[
        str | None,
        typer.Option(help="Splits to take, as SRC or SRC:DST, such as trainval:train,test:val."),
    ] = None,
    mode: ModeOption = Mode.copy,
    skip_difficult: Annotated[
        bool, typer.Option("--skip-difficult", help="Leave out what VOC marks difficult.")
    ] = False,
    show: Annotated[int, typer.Option(min=0, help="Faults to list of each kind.")] = 10,
    as_json: JsonFlag = False,
) -> None:
    """Convert Pascal VOC, YOLO or COCO to COCO or YOLO; faults are left out and listed."""
    with _progress("reading") as step:
        summary = convert(
            source,
            target,
            source_format=source_format.value,
            target_format=target_format.value,
            classes=None if classes is None else [c.strip() for c in classes.split(",")],
            splits=_parse_splits(splits),
            mode=mode.value,
            skip_difficult=skip_difficult,
            on_image=step,
        )
    if as_json:
        print_json(summary.as_dict())
    else:
        show_conversion(Console(), summary, limit=show)


@app.command()
def check(
    data: DataPath,
    *,
    split: SplitOption = Split.all,
    images: ImagesOption = None,
    deep: Annotated[
        bool, typer.Option("--deep/--no-deep", help="Decode every image, or only look for it.")
    ] = True,
    fix: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Write a clean copy there; DATA is not touched."),
    ] = None,
    mode: ModeOption = Mode.copy,
    report: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write all findings there; - for the screen."),
    ] = None,
    input_size: InputOption = 640,
    show: Annotated[int, typer.Option(min=0, help="Faults to list of each kind.")] = 10,
) -> None:
    """Look for everything that is wrong with a COCO data set; exit code 1 when errors are found.

    With --fix the exit code is that of the clean copy.
    """
    if fix is not None:
        if not deep:
            raise UsageError("--fix needs the images decoded; leave out --no-deep")
        require_free(fix)
    splits = _locate(data, images, split)
    with _progress("checking") as step:
        found = check_data(splits, deep=deep, input_size=input_size, on_image=step)
    if report == "-":
        print_json(found.as_dict())
    elif report is not None:
        write_json(Path(report), found.as_dict())
    console = Console(stderr=report == "-")
    if report != "-":
        show_check(console, found, limit=show)
    ok = found.ok
    if fix is not None:
        with _progress("copying") as step:
            summaries = write_clean(found, fix, mode=mode.value, on_image=step)
        again = check_data(find_splits(fix), deep=False)
        show_clean(console, fix, summaries, again)
        ok = again.ok
    if not ok:
        raise typer.Exit(1)


@app.command()
def stats(
    data: DataPath,
    *,
    split: SplitOption = Split.all,
    images: ImagesOption = None,
    input_size: InputOption = 640,
    as_json: JsonFlag = False,
) -> None:
    """Count and measure images and objects, with advice on the input size."""
    found: dict[str, SplitStats] = {
        name: index_stats(load_coco(annotations, folder), input_size=input_size)
        for name, (folder, annotations) in _locate(data, images, split).items()
    }
    if as_json:
        print_json({name: metrics.as_dict() for name, metrics in found.items()})
    else:
        show_stats(Console(), found)


def _locate(data: Path, images: Path | None, split: Split) -> Mapping[SplitName, tuple[Path, Path]]:
    """The splits asked for: of a folder, or the one file that was named."""
    if images is None and not data.is_file():
        return find_splits(data, split.value)
    if images is None:
        raise UsageError(f"{data} is a file; name the folder of its images with --images")
    if not data.is_file():
        raise UsageError(f"--images goes with a COCO JSON file, and {data} is none")
    return {"train" if split is Split.all else split.value: (images, data)}


def _parse_splits(text: str | None) -> dict[str, str] | None:
    """``a,b:c`` -> {a: a, b: c}."""
    if text is None:
        return None
    pairs = (part.strip().partition(":") for part in text.split(","))
    return {source: target or source for source, _, target in pairs}


@contextmanager
def _progress(what: str, *, total: int | None = None) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, nothing elsewhere; yields what advances it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
