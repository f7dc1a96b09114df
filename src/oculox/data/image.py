"""Reading images: one decoder for training, evaluation and prediction.

Damaged images are refused rather than decoded with a grey rest, as a half-empty image with
full labels silently teaches the network the wrong thing. Prediction alone takes what there is.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import cv2
import numpy as np

from oculox.addresses import AbsentError
from oculox.errors import DataError
from oculox.types import ImageArray

IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"),
        *(".gif", ".ppm", ".pgm", ".jp2", ".avif"),
    )
)
"""Lower-case suffixes of the files that are taken for images."""

MAX_PIXELS = 200_000_000
"""Most pixels of an image that is read; a bigger one is far more often an attack than a photo."""

_JPEG = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_PNG = b"\x89PNG\r\n\x1a\n"
_PNM_SIZE = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,10})(?:\s|#[^\n]*\n)+(\d{1,10})\s")
# Markers without a length field: TEM, RST0-RST7, SOI.
_BARE_MARKERS = frozenset((0x01, *range(0xD0, 0xD9)))
# SOF0-SOF15 carry the size; C4, C8 and CC in the same range are tables.
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_TIFF_MARKS = (b"II*\0", b"MM\0*")
# Of a value, by the number of its type.
_TIFF_BYTES = dict(enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8), start=1))
# What comes before EXIF data in JPEG, PNG and WebP.
_EXIF_MARKS = (b"Exif\0\0", b"eXIf", b"EXIF")


# How much smaller than the file an image can be decoded.
_SHRINKS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def shrink_for(scale: float) -> int:
    """How much smaller an image may be decoded for a use at `scale` output pixels a pixel: 1 to 8.

    The copy never has fewer pixels than the output.
    """
    return max(shrink for shrink in _SHRINKS if shrink == 1 or shrink * scale <= 1)


class ImageFile(Protocol):
    """Where the bytes of an image file are: a path is one, so is `oculox.data.shards.ShardImage`.

    Its text names the image in messages.
    """

    def read_bytes(self) -> bytes:
        """All of them; OSError or DataError where they cannot be read."""
        ...


def read_image(path: ImageFile, *, shrink: int = 1) -> ImageArray:
    """Read an image file.

    Args:
        path: a JPEG, PNG, BMP, WebP, TIFF, GIF, PPM, PGM, JPEG 2000 or AVIF.
        shrink: 1, or 2, 4 or 8 for a copy of a half, a quarter or an eighth of its height and
            width (rounded), of area averages: a JPEG is decoded at that size, which is faster.

    Returns:
        uint8 (H, W, 3), BGR, turned upright by its EXIF orientation. Grey images are repeated
        over the channels, alpha is dropped, 16 bits are scaled to 8, CMYK is converted.

    Raises:
        DataError: the file is missing, empty, no image, truncated or too large.
    """
    return decode_image(read_file(path), where=str(path), shrink=shrink)


def read_file(path: ImageFile) -> bytes:
    """The bytes of an image file, for `decode_image`.

    OpenCV's own reader prints warnings about missing files, fails on some path encodings and
    fills truncated JPEGs with grey.

    Raises:
        DataError: the file is missing or cannot be read.
        AddressError: its storage cannot be reached, or refuses.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, AbsentError):
        raise DataError(f"{path}: no such image") from None
    except OSError as error:
        raise DataError(f"{path}: cannot read the image ({error.strerror or error})") from None


def decode_image(
    data: bytes, *, where: str, allow_truncated: bool = False, shrink: int = 1
) -> ImageArray:
    """Decode an image held in memory; see `read_image` for the result and its conversions.

    Args:
        data: the bytes of an image file.
        where: its name, for error messages.
        allow_truncated: decode as much as there is of a truncated JPEG, the rest is grey; other
            formats are refused all the same.
        shrink: see `read_image`.

    Raises:
        DataError: the bytes are empty, no image, truncated or too large.
    """
    if not data:
        raise DataError(f"{where}: the image is empty (0 bytes)")
    header = read_header(data)
    truncated = DataError(
        f"{where}: the image is truncated (its end is missing); fetch it again or remove it"
    )
    if header.truncated and not allow_truncated:
        raise truncated
    # Before anything is decoded: a few bytes may promise an image that fills the memory.
    stated = header.size_hw or _other_size(data)
    if stated is not None:
        _check_pixels(*stated, where=where)
    elif not data.startswith(_JPEG):  # one without a size ends by itself
        raise DataError(f"{where}: not an image that can be decoded (damaged or unknown format)")
    if header.truncated and data.startswith(_JPEG):
        data += _JPEG_END  # without it OpenCV waits for more, and gives nothing
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _SHRINKS[shrink])
    except cv2.error as error:
        raise DataError(f"{where}: cannot decode the image ({error.err})") from None
    if image is None and header.truncated:
        raise truncated
    if image is None or image.dtype != np.uint8:
        why = "damaged or unknown format"
        if data[4:12] == b"ftypavif":
            why = "damaged, or this OpenCV is built without AVIF: install a newer one"
        raise DataError(f"{where}: not an image that can be decoded ({why})")
    height, width = image.shape[:2]
    _check_pixels(height * shrink, width * shrink, where=where)
    return np.asarray(image, np.uint8)


def image_size(data: bytes, *, where: str) -> tuple[int, int]:
    """Height and width that `decode_image` gives, without decoding where the header is enough.

    It is not enough where EXIF data of another format than JPEG may turn the image, or is not as it
    should be, and for formats without a known header.

    Args:
        data: the bytes of an image file.
        where: its name, for error messages.

    Raises:
        DataError: the image is truncated, too large or, where it is decoded, damaged.
    """
    turned: bool | None
    if data.startswith(_JPEG):
        (size, truncated), notes = _jpeg_header(data)
        turned = _jpeg_turns(notes)
    else:
        size, truncated = read_header(data)
        turned = None if any(mark in data for mark in _EXIF_MARKS) else False
    if size is None or truncated or turned is None:
        height, width = decode_image(data, where=where).shape[:2]
        return height, width
    _check_pixels(*size, where=where)
    return size[::-1] if turned else size


class ImageHeader(NamedTuple):
    """What the first bytes of an image say without decoding it.

    size_hw: height and width before any EXIF turn, None where the format is not understood;
    truncated: true where the end of the file is certainly missing.
    """

    size_hw: tuple[int, int] | None
    truncated: bool


def read_header(data: bytes) -> ImageHeader:
    """Size and completeness of an image from its bytes (microseconds, no decoding).

    Understands JPEG, PNG, BMP, GIF and WebP; nothing is known of other formats.
    """
    if data.startswith(_JPEG):
        return _jpeg_header(data)[0]
    if data.startswith(_PNG):
        width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
        return ImageHeader((height, width), b"IEND" not in data)
    if data.startswith(b"BM") and len(data) >= 26:
        width, height = (int.from_bytes(data[i : i + 4], "little", signed=True) for i in (18, 22))
        return ImageHeader((abs(height), abs(width)), truncated=False)
    if data.startswith((b"GIF87a", b"GIF89a")):
        width, height = (int.from_bytes(data[i : i + 2], "little") for i in (6, 8))
        return ImageHeader((height, width), truncated=False)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        declared = int.from_bytes(data[4:8], "little") + 8
        return ImageHeader(_webp_size(data), len(data) < declared)
    return ImageHeader(None, truncated=False)


def _check_pixels(height: int, width: int, *, where: str) -> None:
    if height * width > MAX_PIXELS:
        raise DataError(
            f"{where}: the image is too large ({width} x {height}, "
            f"at most {MAX_PIXELS:,} pixels are read)"
        )


def _jpeg_header(data: bytes) -> tuple[ImageHeader, list[bytes]]:
    """Walk the segments up to the compressed data; the header, and what is in those called APP1.

    Walking, not searching: an embedded thumbnail has a size and an end marker of its own. In
    the compressed data a byte FF is always followed by 00 or a restart marker, so FF D9 there is
    the true end; a search forgives the bytes that some cameras append after it.
    """
    size: tuple[int, int] | None = None
    notes = []
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # padding before a marker
            position += 1
            continue
        if marker in _BARE_MARKERS:
            position += 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in _FRAME_MARKERS and position + 9 <= len(data):
            height, width = (
                int.from_bytes(data[position + i : position + i + 2], "big") for i in (5, 7)
            )
            size = (height, width)
        elif marker == 0xE1:
            notes.append(data[position + 4 : position + 2 + length])
        position += 2 + length
        if marker == 0xDA:  # start of scan: compressed data follows
            complete = data.endswith(_JPEG_END) or data.find(_JPEG_END, position) >= 0
            return ImageHeader(size, not complete), notes
    # The segments end early or are nonsense: only running out of bytes is truncation.
    return ImageHeader(size, position + 4 > len(data)), notes


def _jpeg_turns(notes: Sequence[bytes]) -> bool | None:
    """Whether the APP1 segments of a JPEG turn it by a quarter; None where only decoding tells.

    Source: Exif 2.3, section 4.6: tag 0x0112 of the first directory is 5 to 8. What breaks its
    rules may be taken or left by a decoder, and OpenCV looks at the first of the segments alone.
    """
    mark = _EXIF_MARKS[0]
    if not any(note.startswith(mark) for note in notes):
        return False
    exif = notes[0].removeprefix(mark)
    order: Literal["little", "big"] = "little" if exif.startswith(b"I") else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(exif[at : at + size], order)

    first = number(4, 4) + 2
    end = first + 12 * number(first - 2, 2)
    if not notes[0].startswith(mark) or exif[:4] not in _TIFF_MARKS or end > len(exif):
        return None
    found = []
    for entry in range(first, end, 12):
        tag, kind, count = (number(entry + at, size) for at, size in ((0, 2), (2, 2), (4, 4)))
        size = _TIFF_BYTES.get(kind, len(exif)) * count
        if not size or (size > 4 and number(entry + 8, 4) + size > len(exif)):
            return None
        if tag == 0x0112:
            found.append(number(entry + 8, 2) if (kind, count) == (3, 1) else -1)
    return None if len(found) > 1 or -1 in found else bool(found) and found[0] in range(5, 9)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8X":
        return (
            int.from_bytes(body[7:10], "little") + 1,
            int.from_bytes(body[4:7], "little") + 1,
        )
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return ((bits >> 14) & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    width, height = (int.from_bytes(body[i : i + 2], "little") & 0x3FFF for i in (6, 8))
    return height, width


def _other_size(data: bytes) -> tuple[int, int] | None:
    """Height and width of a TIFF, PPM, PGM, JPEG 2000 or AVIF, before any turn; None for others."""

    def big(at: int) -> int:
        return int.from_bytes(data[at : at + 4], "big")

    if data.startswith(_TIFF_MARKS):
        return _tiff_size(data)
    if (plain := _PNM_SIZE.match(data[:4096])) is not None:
        return int(plain[2]), int(plain[1])
    if data.startswith(b"\xff\x4f\xff\x51"):
        return big(12), big(8)
    if data[4:8] == b"jP  " and (box := data.find(b"ihdr", 0, 4096)) >= 0:
        return big(box + 4), big(box + 8)
    # An AVIF of several images states several sizes.
    boxes = [at for at in range(min(len(data), 4096)) if data.startswith(b"ispe", at)]
    if data[4:8] == b"ftyp" and boxes:
        return max(big(at + 12) for at in boxes), max(big(at + 8) for at in boxes)
    return None


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    """From the first directory: tag 256 is the width, 257 the height, of type 3 (short) or 4."""

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little" if data[:1] == b"I" else "big")

    start, sides = number(4, 4), dict[int, int]()
    for entry in range(start + 2, start + 2 + 12 * number(start, 2), 12):
        if (tag := number(entry, 2)) in (256, 257):
            sides[tag] = number(entry + 8, 2 if number(entry + 2, 2) == 3 else 4)
    return (sides[257], sides[256]) if len(sides) == 2 else None
