"""``oculox data``: the demo dataset, converters, tiles, shards, checks, statistics and caches."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from oculox.cli import options as o
from oculox.cli.console import file_size, note, print_json, progress_bar, say
from oculox.datasets.formats import LabelFormat, SourceFormat, TargetFormat
from oculox.errors import plural
from oculox.files import FileMode

app = typer.Typer(
    help="Make, convert, check and measure datasets.", no_args_is_help=True, rich_markup_mode=None
)

SplitOption = Annotated[
    Literal["train", "val", "test", "all"], typer.Option("--split", help="Which split.")
]
ModeOption = Annotated[
    FileMode,
    typer.Option("--mode", help="Copy the images, or link to those of the source."),
]
InputSize = Annotated[
    o.Size | None,
    typer.Option(
        "--imgsz",
        parser=o.parse_size,
        metavar="S|H,W",
        help="Network input that the statistics are about; 640 by default.",
    ),
]
ClassNames = Annotated[
    str | None, typer.Option(help="Class names in the order wanted, comma-separated.")
]
DeepOption = Annotated[
    bool, typer.Option("--deep/--no-deep", help="Decode every image, or only look for it.")
]
ShowOption = Annotated[int, typer.Option("--show", min=0, help="Faults to list of each kind.")]


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write it.")],
    seed: Annotated[int, typer.Option(help="Chooses the scenes.")] = 0,
    train: Annotated[int, typer.Option(help="Training images.")] = 300,
    val: Annotated[int, typer.Option(help="Validation images.")] = 60,
    width: Annotated[int, typer.Option(help="Width of the images in pixels.")] = 320,
    height: Annotated[int, typer.Option(help="Height of the images in pixels.")] = 240,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier demo dataset there.")
    ] = False,
    json: o.Json = False,
) -> None:
    """Write the built-in demo dataset.

    Rendered scenes with objects of six classes, in COCO layout; the same for the same --seed.
    """
    from oculox.datasets.demo.dataset import write_demo
    from oculox.types import counted

    with progress_bar("rendering") as progress:
        summary = write_demo(
            folder,
            seed=seed,
            train=train,
            val=val,
            size=(width, height),
            overwrite=overwrite,
            on_image=counted(progress, train + val),
        )
    if json:
        print_json(summary)
        return
    images, objects = summary.images, summary.objects
    say(
        f"{summary.folder}: {images['train']} training and "
        f"{plural(images['val'], 'validation image')}, "
        f"{objects['train']} and {plural(objects['val'], 'object')} of {', '.join(summary.classes)}"
    )


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Dataset to read.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="New or empty folder.")],
    source_format: Annotated[SourceFormat, typer.Option("--from", help="Format of SRC.")],
    target_format: Annotated[TargetFormat, typer.Option("--to", help="Format of DST.")] = "coco",
    classes: ClassNames = None,
    splits: Annotated[
        str | None,
        typer.Option(help="Splits to take, as SRC or SRC:DST, such as trainval:train,test:val."),
    ] = None,
    mode: ModeOption = "copy",
    skip_difficult: Annotated[
        bool, typer.Option("--skip-difficult", help="Leave out what VOC marks difficult.")
    ] = False,
    show: ShowOption = 10,
    json: o.Json = False,
) -> None:
    """Convert Pascal VOC, YOLO or COCO to COCO or YOLO.

    Faulty boxes and images are left out and listed.
    """
    from oculox import api
    from oculox.cli.data_view import show_conversion

    pairs = (part.partition(":") for part in o.split_names(splits) or ())
    with progress_bar("reading") as progress:
        summary = api.convert(
            source,
            target,
            source_format=source_format,
            target_format=target_format,
            classes=o.split_names(classes),
            splits={split: to or split for split, _, to in pairs} or None,
            mode=mode,
            skip_difficult=skip_difficult,
            progress=progress,
        )
    if json:
        print_json(summary.as_dict())
    else:
        show_conversion(summary, limit=show)


@app.command()
def split(
    data: Annotated[
        Path, typer.Argument(metavar="SRC", help="Dataset, or COCO JSON file, to read.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="New or empty folder.")],
    val: Annotated[float, typer.Option(help="Share of the images for the val split.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share of the images for the test split.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Another number gives another division.")] = 0,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Images whose names have the same match stay in one split, such as '^[^_]+'.",
        ),
    ] = None,
    classes: ClassNames = None,
    images: o.Images = None,
    mode: ModeOption = "copy",
    show: ShowOption = 10,
    json: o.Json = False,
) -> None:
    """Divide a dataset into train, val and test splits.

    COCO, YOLO and Pascal VOC are read, COCO is written. Copies of an image stay in one split.
    """
    from oculox.cli.data_view import show_conversion
    from oculox.datasets.split import split_data

    with progress_bar("reading") as progress:
        summary = split_data(
            data,
            target,
            val=val,
            test=test,
            seed=seed,
            group=group,
            classes=o.split_names(classes),
            images=images,
            mode=mode,
            progress=progress,
        )
    if json:
        print_json(summary.as_dict())
        return
    show_conversion(summary, limit=show)
    say(f"train on it with data.root={target}")


@app.command()
def tile(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="COCO dataset folder to read.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="New or empty folder.")],
    size: Annotated[int, typer.Option(min=32, help="Side of the tiles in pixels.")] = 640,
    overlap: Annotated[
        float, typer.Option(min=0, max=0.9, help="Part of a tile that the next tile shows too.")
    ] = 0.2,
    min_visible: Annotated[
        float, typer.Option(min=0, max=1, help="Share of a box that a tile must show to label it.")
    ] = 0.3,
    keep_empty: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the tiles without objects to keep.")
    ] = 1.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier dataset of tiles there.")
    ] = False,
    show: ShowOption = 10,
    json: o.Json = False,
) -> None:
    """Cut the images of a COCO dataset into tiles.

    Boxes are clipped to their tile; faulty boxes and images are left out and listed.
    """
    from oculox.cli.data_view import show_tiles
    from oculox.data.tiles import Tiling
    from oculox.datasets.tile import tile_data

    with progress_bar("cutting") as progress:
        summary = tile_data(
            source,
            target,
            tiling=Tiling(size, overlap),
            min_visible=min_visible,
            keep_empty=keep_empty,
            overwrite=overwrite,
            progress=progress,
        )
    if json:
        print_json(summary.as_dict())
    else:
        show_tiles(summary, limit=show)


@app.command()
def pack(
    data: o.DataPath,
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="New or empty folder.")],
    images: o.Images = None,
    shard_mb: Annotated[
        float, typer.Option(min=0, help="Largest shard in millions of bytes.")
    ] = 256,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier dataset of shards there.")
    ] = False,
    json: o.Json = False,
) -> None:
    """Write a dataset as tar shards with an index.

    Training, evaluation and the check read them as they are: data.root=OUTPUT.
    """
    from oculox.datasets.pack import pack_data

    with progress_bar("packing") as progress:
        packed = pack_data(
            data, target, images=images, shard_mb=shard_mb, overwrite=overwrite, progress=progress
        )
    if json:
        print_json({"output": str(target), "splits": packed})
        return
    for split, one in packed.items():
        say(
            f"{one.folder}: {plural(one.images, f'{split} image')}, "
            f"{plural(one.objects, 'object')}, {plural(one.shards, 'shard')}, "
            f"{file_size(one.bytes)}; index: {one.index}"
        )
    say(f"train on it with data.root={target}")


@app.command()
def check(
    data: o.DataPath,
    split: SplitOption = "all",
    images: o.Images = None,
    deep: DeepOption = True,
    fix: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Write a clean copy there; DATA is not touched."),
    ] = None,
    mode: ModeOption = "copy",
    imgsz: InputSize = None,
    show: ShowOption = 10,
    json: o.Json = False,
) -> None:
    """Find everything that is wrong with a dataset.

    The exit code is 1 when errors are found; with --fix it is that of the clean copy.
    """
    from oculox import api
    from oculox.cli.data_view import show_check, show_clean
    from oculox.datasets.clean import write_clean
    from oculox.errors import UsageError
    from oculox.files import require_free

    if fix is not None:
        if not deep:
            raise UsageError("--fix needs the images decoded; leave out --no-deep")
        require_free(fix)
    with progress_bar("checking") as progress:
        found = api.check_data(
            data, split=split, images=images, deep=deep, imgsz=imgsz or 640, progress=progress
        )
    if json:
        print_json(found.as_dict())
    else:
        show_check(found, limit=show, fixed=fix is not None)
    ok = found.ok
    if fix is not None:
        from oculox.types import counted

        with progress_bar("copying") as progress:
            summaries = write_clean(found, fix, mode=mode, on_image=counted(progress))
        again = api.check_data(fix, deep=False)
        show_clean(fix, found, summaries, again, on_error_stream=json)
        ok = again.ok
    if not ok:
        raise typer.Exit(1)


@app.command()
def view(
    data: o.DataPath,
    output: Annotated[Path, typer.Option(metavar="PAGE", help="The page: a new .html file.")],
    split: SplitOption = "all",
    images: o.Images = None,
    deep: DeepOption = True,
    side: Annotated[
        int, typer.Option(min=32, max=1024, help="Longest side of the thumbnails in pixels.")
    ] = 256,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Show a dataset with its boxes and faults as one page.

    The page is one file for any browser; thumbnails are in it.
    """
    from oculox import api
    from oculox.datasets.view import write_view
    from oculox.errors import UsageError
    from oculox.files import require_new_file
    from oculox.types import counted

    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{output}: `output` must end in .html")
    require_new_file(output, overwrite=overwrite)
    with progress_bar("checking") as progress:
        found = api.check_data(data, split=split, images=images, deep=deep, progress=progress)
    with progress_bar("shrinking images") as progress:
        write_view(found, output, title=str(data), side=side, on_image=counted(progress))
    shown = sum(len(one.checked.coco.images) for one in found.splits.values())
    size = output.stat().st_size
    if json:
        counts = {"images": shown, "bytes": size, "faults": len(found.faults)}
        print_json({"output": str(output), **counts})
    else:
        say(
            f"{output}: {plural(shown, 'image')}, {plural(len(found.faults), 'finding')}, "
            f"{file_size(size)}"
        )


@app.command()
def label(
    weights: o.Model,
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of images.")],
    output: Annotated[Path, typer.Option(help="New or empty folder for the annotations.")],
    label_format: Annotated[
        LabelFormat, typer.Option("--format", help="Format of the annotations.")
    ] = "coco",
    conf: o.Conf = 0.3,
    iou: o.Iou = 0.45,
    max_det: o.MaxDet = 1000,
    classes: o.Classes = None,
    imgsz: o.ImageSize = None,
    batch: o.Batch = 1,
    device: o.Device = "auto",
    json: o.Json = False,
) -> None:
    """Write a model's detections as annotations to correct.

    The files are for a labelling tool; the images stay where they are.
    """
    from oculox.api import Detector
    from oculox.files import require_free
    from oculox.predict.label import label_images, write_labels

    require_free(output)
    detector = Detector(
        weights,
        conf=conf,
        iou=iou,
        max_det=max_det,
        classes=o.split_names(classes),
        imgsz=imgsz,
        device=device,
        batch=batch,
    )
    with progress_bar("labelling") as progress:
        found = label_images(detector.pipeline, images, progress=progress)
    write_labels(found, output, label_format=label_format, root=images.resolve().name)
    labelled, faults = found.splits["train"], found.all_faults
    objects = sum(len(one.boxes) for one in labelled)
    for fault in faults:
        note(f"error: {fault}")
    if json:
        counts = {"images": len(labelled), "objects": objects}
        print_json({"output": str(output), **counts, "unreadable": faults})
    else:
        say(f"{output}: {plural(objects, 'object')} in {plural(len(labelled), 'image')}")
    if faults:
        raise typer.Exit(1)


@app.command()
def stats(
    data: o.DataPath,
    split: SplitOption = "all",
    images: o.Images = None,
    imgsz: InputSize = None,
    json: o.Json = False,
) -> None:
    """Count and measure images and objects.

    Ends with advice on the input size and on what is rare in the data.
    """
    from oculox.cli.data_view import show_stats
    from oculox.data.coco import index_split
    from oculox.datasets.splits import scan_data
    from oculox.datasets.stats import index_stats

    found = {
        name: index_stats(index_split(*scanned), input_hw=imgsz or (640, 640))
        for name, scanned in scan_data(data, split=split, images=images).items()
    }
    if json:
        print_json(found)
    else:
        show_stats(found)


@app.command()
def cache(
    data: o.DataPath,
    clear: Annotated[
        bool, typer.Option("--clear", help="Delete those that no run uses just now.")
    ] = False,
    json: o.Json = False,
) -> None:
    """List the image caches beside a dataset's annotations.

    They are what runs with data.cache=disk leave there.
    """
    from oculox.addresses import is_address
    from oculox.data.cache import find_caches, remove_cache
    from oculox.data.coco import find_splits
    from oculox.datasets.splits import recognise
    from oculox.errors import UsageError

    if is_address(data):
        raise UsageError(f"{data}: image caches are beside annotations that are here")
    path = Path(data)
    if path.is_file():
        folders = {path.parent}
    elif recognise(path) in ("voc", "yolo"):
        folders = {path}
    else:
        folders = {Path(str(file)).parent for _, file in find_splits(path).values()}
    found = [one for folder in sorted(folders) for one in find_caches(folder)]
    removed = [clear and remove_cache(one.path) for one in found]
    rows = list(zip(found, removed, strict=True))
    if json:
        names = ("path", "bytes", "input_size", "removed")
        print_json([dict(zip(names, (*one, gone), strict=True)) for one, gone in rows])
        return
    for (path, size, side), gone in rows:
        state = "deleted" if gone else "in use, kept" if clear else f"input {side}"
        say(f"{path}: {size / 1e9:.3f} GB, {state}")
    if not rows:
        say("no image caches")
