"""A dataset divided anew into training, validation and test images."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from oculox.data.faults import Fault
from oculox.datasets.check import class_empty
from oculox.datasets.formats.coco import read_coco, write_coco
from oculox.datasets.formats.convert import READERS, ConvertSummary
from oculox.datasets.formats.dataset import SPLITS, ImageReader, LabelledData, LabelledImage
from oculox.datasets.splits import images_of_file, recognise
from oculox.distributed.ahead import usable_threads, work_ahead
from oculox.errors import DataError, UsageError, plural
from oculox.files import FileMode, new_folder, require_free, require_local
from oculox.types import Progress, counted


def split_data(
    source: str | Path,
    target: str | Path,
    *,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    group: str | None = None,
    classes: Sequence[str] | None = None,
    images: str | Path | None = None,
    mode: FileMode = "copy",
    progress: Progress | None = None,
) -> ConvertSummary:
    """Divide all images of a dataset into splits, and write them as a COCO dataset.

    The order in which images are given out depends on their names and the seed alone. Images of
    equal bytes stay in one split. Splits that the source has already are joined first, but for
    those without any label. Faulty boxes and images are left out and listed, and so is each class
    that a split has no object of.

    Args:
        source: a COCO, YOLO or Pascal VOC dataset, or a COCO JSON file; it is not touched.
        target: a new or empty folder; the dataset appears whole or not at all.
        val: share of the images that become validation images.
        test: share of the images that become test images.
        seed: another one divides differently.
        group: regular expression; images whose names have the same match stay in one split: that
            of its first group, where it has one. Names without a match are on their own.
        classes: class names in the order wanted; needed for YOLO labels without a data.yaml.
        images: image folder of a COCO JSON file; by default the one that it lies in.
        mode: copy the images byte by byte, or link to them.
        progress: called with the number of images read; how many there are is not known.

    Raises:
        UsageError: shares or the expression make no sense, or the target is in use.
        DataError: the source cannot be read, or has too few images.
    """
    source, target = require_local(Path(source)), Path(target)
    shares = {"val": val, "test": test}
    if not (min(shares.values()) >= 0 and 0 < sum(shares.values()) < 1):
        raise UsageError(
            f"`val` and `test` are shares of the images: from 0 on, and together between 0 and 1, "
            f"got {val:g} and {test:g}"
        )
    try:
        pattern = None if group is None else re.compile(group)
    except re.error as error:
        raise UsageError(f"`group` {group!r} is no regular expression: {error}") from None
    require_free(target)
    data = _read(source, classes=classes, images=images, progress=progress)
    everything, left_out = _joined(data)
    if not everything:
        faults = (*data.all_faults, *left_out)
        first = f"; the first fault: {faults[0]}" if faults else ""
        hint = "; name the folder of its images with `images`" if source.suffix == ".json" else ""
        raise DataError(f"{source}: no usable image{first}{hint}")
    names = [] if pattern is None else [one.name for one in everything]
    found = {} if pattern is None else {name: pattern.search(name) for name in names}
    odd = [name for name in names if found[name] is None]
    if odd and len(odd) == len(everything):
        raise UsageError(f"`group` {group!r} matches none of the names, such as {odd[0]!r}")
    divided, groups = _divide(everything, shares, matches=found, seed=seed)
    for split in ("train", *(name for name, share in shares.items() if share)):
        if not divided[split]:
            raise DataError(
                f"{source}: {plural(len(everything), 'usable image')} in {plural(groups, 'group')} "
                f"cannot be divided so that {split} gets one; label more images, or change the "
                "shares or `group`"
            )
    splits = {name: many for name in SPLITS if (many := divided[name])}
    with new_folder(target) as scratch:
        write_coco(LabelledData(data.classes, splits, {}), scratch, mode=mode)
    absent = _absent_classes(data.classes, splits)
    faults = (*data.all_faults, *left_out, *_unmatched(odd), *absent)
    return ConvertSummary.of(target, data.classes, splits, faults)


def _read(
    source: Path,
    *,
    classes: Sequence[str] | None,
    images: str | Path | None,
    progress: Progress | None,
) -> LabelledData:
    on_image = counted(progress)
    folder = images_of_file(source, images)
    if folder is not None:
        return read_coco(source, images=folder, classes=classes, splits=None, on_image=on_image)
    # Without a known format the reader of COCO says what it looked for.
    read = READERS[recognise(source) or "coco"]
    return read(source, classes=classes, splits=None, on_image=on_image)


def _joined(data: LabelledData) -> tuple[list[LabelledImage], list[Fault]]:
    """Each image of the labelled splits once, under a name of its own; the splits left out.

    The images of a split without any label are not labelled yet, such as those of a test.
    """
    reader, seen = ImageReader(), set[str]()
    images = []
    for split, many in data.splits.items():
        if not any(len(image.boxes) for image in many):
            message = f"the {plural(len(many), f'{split} image')} have no labels and were left out"
            reader.fault("split-unlabelled", split, message, severity="warning")
            continue
        for image in many:
            if str(image.source) not in seen:
                seen.add(str(image.source))
                images.append(dataclasses.replace(image, name=reader.free_name(image.name)))
    return images, reader.faults


def _divide(
    images: Sequence[LabelledImage],
    shares: Mapping[str, float],
    *,
    matches: Mapping[str, re.Match[str] | None],
    seed: int,
) -> tuple[dict[str, tuple[LabelledImage, ...]], int]:
    """Images of each split, in the order given, and the number of groups.

    Groups that would exceed a share go to train.
    """
    groups = _groups(images, matches)
    # By hash, not by a shuffle: one more image changes the order of the others not at all.
    order = sorted(groups, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest())
    wanted = {split: round(len(images) * share) for split, share in shares.items()}
    wanted = {s: max(n, 1) if shares[s] else 0 for s, n in wanted.items()}
    chosen: dict[str, list[int]] = {split: [] for split in SPLITS}
    for name in order:
        members = groups[name]
        room = (s for s, most in wanted.items() if len(chosen[s]) + len(members) <= most)
        chosen[next(room, "train")] += members
    found = {split: tuple(images[i] for i in sorted(rows)) for split, rows in chosen.items()}
    return found, len(groups)


def _groups(
    images: Sequence[LabelledImage], matches: Mapping[str, re.Match[str] | None]
) -> dict[str, list[int]]:
    """Rows of the images that stay together, by a name of their group.

    `matches` has what the expression found in each name; without one it is empty.
    """
    parents: dict[str, str] = {}
    keys = []

    def first(key: str) -> str:
        parents.setdefault(key, key)
        while parents[key] != key:
            parents[key] = parents[parents[key]]  # or chains of thousands of copies would be slow
            key = parents[key]
        return key

    digests = work_ahead(_digest, images, threads=usable_threads())
    for image, digest in zip(images, digests, strict=True):
        match = matches.get(image.name)
        key = f"name:{image.name}"
        if match is not None:
            key = f"group:{match[1 if match.re.groups else 0]}"
        parents[first(f"bytes:{digest}")] = first(key)
        keys.append(key)
    groups = defaultdict(list)
    for row, key in enumerate(keys):
        groups[first(key)].append(row)
    return dict(groups)


def _digest(image: LabelledImage) -> str:
    return hashlib.sha256(image.source.read_bytes()).hexdigest()


def _unmatched(names: Sequence[str]) -> list[Fault]:
    if not names:
        return []
    message = f"`group` does not match {plural(len(names), 'name')}, which are on their own"
    return [Fault(severity="warning", code="group-unmatched", file=names[0], message=message)]


def _absent_classes(
    classes: Sequence[str], splits: Mapping[str, Sequence[LabelledImage]]
) -> list[Fault]:
    found = []
    for split, images in splits.items():
        there = {label for image in images for label in image.labels[~image.crowd].tolist()}
        for label, name in enumerate(classes):
            if label not in there:
                found.append(class_empty(name, split, file=f"instances_{split}2017.json"))
    return found
