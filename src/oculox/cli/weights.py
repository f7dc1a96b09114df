"""``oculox weights``: what a file is, conversions, and published weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oculox.cli import options as o
from oculox.cli.console import note, print_json, say, with_options
from oculox.errors import plural

if TYPE_CHECKING:
    from oculox.weights.catalogue import PublishedWeights

app = typer.Typer(
    help="Inspect, convert and fetch weights.", no_args_is_help=True, rich_markup_mode=None
)


@app.command()
def info(
    weights: Annotated[
        Path,
        typer.Argument(metavar="WEIGHTS", help="A file of any project, or a published name."),
    ],
    json: o.Json = False,
) -> None:
    """Show project, network and classes of a weights file."""
    from oculox.weights.convert import describe_weights

    found = describe_weights(weights)
    if json:
        print_json(found)
        return
    pixels, names = found["input"], found["names"]
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    rows = {
        "file": f"{found['file']} ({found['bytes'] / 1e6:.1f} MB)",
        "origin": found["origin"],
        "network": f"{found['network']} ({found['parameters']:,} parameters)",
        "classes": f"{len(names)}: {shown}",
        "input": f"{pixels['size'][0]}x{pixels['size'][1]} (height x width)",
        "pixels": f"{pixels['color'].upper()}, 0-{pixels['pixel_max']}",
        "letterbox": f"{pixels['placement']}, padded with {pixels['pad_value']}",
        "tensors": ", ".join(found["dtypes"]),
    }
    for key, value in rows.items():
        say(f"{key:<10} {value}")


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A file of any project, or a published name.")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="Ends in .pt, .safetensors, .pth or .ckpt.")
    ],
    layout: Annotated[
        str | None, typer.Option(help="Layout of a .ckpt file: mindyolo (default) or modelzoo.")
    ] = None,
    adapt_input: Annotated[
        bool,
        typer.Option(
            "--adapt-input", help="Make the weights take the pixels that OUT's project feeds."
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
    json: o.Json = False,
) -> None:
    """Convert weights to the file of another project.

    Tensors are carried over bit for bit.
    """
    from oculox.weights.convert import convert_weights

    done = convert_weights(
        source, target, layout=layout, adapt_input=adapt_input, overwrite=overwrite
    )
    for text in done.notes:
        note(f"note: {with_options(text)}")
    if json:
        print_json({"file": target, "layout": done.layout, "notes": done.notes})
        return
    spec = done.weights.spec
    classes = plural(spec.num_classes, "class")
    say(f"{target}: {spec.model.name}, {classes}, in the layout of {done.layout}")


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="A name of `oculox weights list`.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder for the file; the cache by default.")
    ] = None,
    allow_unverified: Annotated[
        bool, typer.Option("--allow-unverified", help="Accept a file without a checksum.")
    ] = False,
    json: o.Json = False,
) -> None:
    """Download and verify published weights.

    Prints where they are. Set OCULOX_MIRROR to fetch from a mirror (http, https or file URL of a
    folder), OCULOX_CACHE to move the cache.
    """
    from oculox.files import cache_folder
    from oculox.weights.catalogue import find_published
    from oculox.weights.download import fetch_weights, show_download, source_url

    entry = find_published(name)
    url = source_url(entry)
    with show_download(f"{entry.filename} from {url}") as progress:
        done = fetch_weights(
            entry,
            folder=cache_folder() if output is None else output,
            url=url,
            allow_unverified=allow_unverified,
            progress=progress,
        )
    if json:
        print_json(
            {
                "file": done.path,
                "url": url,
                "sha256": done.sha256,
                "verified": done.verified,
                **_row(entry),
            }
        )
        return
    if not done.verified:
        note(f"not pinned: no published checksum; SHA-256 {done.sha256}")
    elif len(entry.sha256 or "") < len(done.sha256):
        note(f"SHA-256 {done.sha256} begins with the published digits {entry.sha256}")
    note(f"{entry.name}: {entry.license}, AP {entry.ap} on COCO val2017 as published")
    say(str(done.path))


@app.command("list")
def list_published(json: o.Json = False) -> None:
    """List the published weights that `get` knows."""
    from oculox.weights.catalogue import published_weights
    from oculox.weights.download import MIRROR_VARIABLE

    rows = [_row(entry) for entry in published_weights()]
    if json:
        print_json(rows)
        return
    say(f"{'name':<24} {'AP':>5} {'input':>6} {'pixels':<10} {'license':<13} {'here':<5} source")
    for row in rows:
        pixels = f"{row['input']['color'].upper()} 0-{row['input']['pixel_max']}"
        say(
            f"{row['name']:<24} {row['ap']:>5.1f} {row['input']['size'][0]:>6} {pixels:<10} "
            f"{row['license']:<13} {'yes' if row['cached'] else 'no':<5} {row['url']}"
        )
    mirror = os.environ.get(MIRROR_VARIABLE)
    say(f"fetched from the mirror {mirror}" if mirror else "fetch one: oculox weights get NAME")


@app.command()
def clear(json: o.Json = False) -> None:
    """Remove the networks converted for --backend.

    The choices that auto measured go too; downloaded weights stay.
    """
    from oculox.exporting.open_with import clear_runtimes, runtimes_folder

    folder, size = runtimes_folder(), clear_runtimes()
    if json:
        print_json({"folder": folder, "bytes": size})
    else:
        say(f"{size / 1e6:.1f} MB removed from {folder}")


def _row(entry: PublishedWeights) -> dict[str, Any]:
    from oculox.files import cache_folder

    return {
        **entry.model_dump(),
        "input": entry.input.model_dump(mode="json"),
        "cached": (cache_folder() / entry.filename).is_file(),
    }
