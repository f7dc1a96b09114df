"""What an image file is: its size and bytes, or why it cannot be used."""

import dataclasses
import hashlib
from pathlib import Path

from oculox.addresses import AbsentError
from oculox.data.image import ImageFile, decode_image, image_size
from oculox.errors import DataError, UsageError
from oculox.files import FileMode, place_file


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """What is known about an image file.

    Attributes:
        problem: code and message of why it cannot be used; None when nothing was found.
        hw: height and width, upright; None where not looked at.
        digest: SHA-256 of the bytes; None where not looked at.
    """

    problem: tuple[str, str] | None = None
    hw: tuple[int, int] | None = None
    digest: str | None = None


def absent_image(path: ImageFile) -> ImageFacts:
    """Facts of a file that is not there."""
    return ImageFacts(("image-missing", f"no such image: {path}"))


def place_image(image: ImageFile, target: Path, *, mode: FileMode) -> None:
    """Copy an image byte by byte, or link to it; folders are made as needed.

    Raises:
        UsageError: a link to an image in a shard or at an address.
        DataError: the shard is damaged.
    """
    if isinstance(image, Path):
        place_file(image, target, mode=mode)
        return
    if mode == "symlink":
        raise UsageError(
            f"{image}: only files of this machine can be linked to; set `mode` to copy"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(image.read_bytes())


def look_at(path: ImageFile, *, decode: bool = False) -> ImageFacts:
    """Facts of one image file; a damaged or absent one is a fact, not an error.

    Args:
        path: the file.
        decode: decode it, which finds any damage, and take its SHA-256; otherwise size and
            completeness come from its header where that is enough.
    """
    try:
        data = path.read_bytes()
        if decode:
            height, width = decode_image(data, where=str(path)).shape[:2]
        else:
            height, width = image_size(data, where=str(path))
    except (FileNotFoundError, IsADirectoryError, AbsentError):
        return absent_image(path)
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror or error})"
        return ImageFacts(("image-unreadable", message))
    except DataError as error:
        return ImageFacts(("image-unreadable", str(error).removeprefix(f"{path}: ")))
    return ImageFacts(
        hw=(height, width), digest=hashlib.sha256(data).hexdigest() if decode else None
    )
