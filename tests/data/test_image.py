import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from oculox.data.image import (
    IMAGE_SUFFIXES,
    decode_image,
    image_size,
    read_header,
    read_image,
    shrink_for,
)
from oculox.errors import DataError

HEIGHT, WIDTH = 48, 80


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Smooth, with a bright left half, so that turns and colours show."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, WIDTH)
    image[..., 1] = np.linspace(0, 255, HEIGHT)[:, None]
    image[:, : WIDTH // 2, 2] = 200
    return image


def encode(extension: str, image: np.ndarray, *options: int) -> bytes:
    ok, data = cv2.imencode(extension, image, options)
    assert ok
    return data.tobytes()


def with_exif_orientation(data: bytes, orientation: int) -> bytes:
    """A JPEG, PNG or WebP of the photo's size that says how it is to be turned."""
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">H HHIHH I", 1, 0x112, 3, 1, orientation, 0, 0)
    if data.startswith(b"\x89PNG"):
        check = struct.pack(">I", zlib.crc32(b"eXIf" + tiff))
        return data[:33] + struct.pack(">I", len(tiff)) + b"eXIf" + tiff + check + data[33:]
    if data.startswith(b"RIFF"):
        sides = (WIDTH - 1).to_bytes(3, "little") + (HEIGHT - 1).to_bytes(3, "little")
        head = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x08\0\0\0" + sides
        body = head + data[12:] + b"EXIF" + struct.pack("<I", len(tiff)) + tiff
        return b"RIFF" + struct.pack("<I", len(body)) + body
    body = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


@pytest.mark.parametrize("extension", [".png", ".bmp", ".webp", ".tiff", ".jpg"])
def test_reads_common_formats(tmp_path: Path, photo: np.ndarray, extension: str) -> None:
    path = tmp_path / f"ä image{extension}"
    path.write_bytes(encode(extension, photo))
    image = read_image(path)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - photo).mean() < 8


def test_grey_alpha_and_16_bits_become_8_bit_bgr(photo: np.ndarray) -> None:
    grey = cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY)
    from_grey = decode_image(encode(".png", grey), where="x")
    assert np.array_equal(from_grey, np.repeat(grey[..., None], 3, axis=2))
    alpha = np.dstack((photo, np.zeros((HEIGHT, WIDTH), np.uint8)))
    assert np.array_equal(decode_image(encode(".png", alpha), where="x"), photo)
    deep = photo.astype(np.uint16) * 257
    difference = decode_image(encode(".png", deep), where="x").astype(int) - photo
    assert np.abs(difference).max() <= 1


def test_avif_is_read_where_opencv_can(photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ".avif" in IMAGE_SUFFIXES
    if not cv2.haveImageWriter("a.avif"):
        pytest.skip("this OpenCV is built without AVIF")
    data = encode(".avif", photo)
    assert np.abs(decode_image(data, where="x").astype(int) - photo).mean() < 8
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: None)
    with pytest.raises(DataError, match=r"^x: .* this OpenCV is built without AVIF"):
        decode_image(data, where="x")


def test_cmyk_jpeg_is_converted() -> None:
    image_module = pytest.importorskip("PIL.Image", reason="writes the CMYK file")
    import io

    buffer = io.BytesIO()
    image_module.new("RGB", (32, 16), (250, 30, 60)).convert("CMYK").save(buffer, "JPEG")
    image = decode_image(buffer.getvalue(), where="x")
    assert np.abs(image[8, 16].astype(int) - (60, 30, 250)).max() < 40


@pytest.mark.parametrize("extension", [".jpg", ".png", ".bmp", ".webp"])
@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_smaller_copies_are_averages_of_areas(extension: str, shrink: int) -> None:
    # Stripes of one pixel: sampled, they would be black or white.
    stripes = np.zeros((64, 96, 3), np.uint8)
    stripes[:, ::2] = 200
    small = decode_image(encode(extension, stripes), where="x", shrink=shrink)
    assert small.shape == (64 // shrink, 96 // shrink, 3)
    assert np.abs(small.astype(int) - 100).max() <= 12
    turned = with_exif_orientation(encode(".jpg", stripes), 6)
    assert decode_image(turned, where="x", shrink=shrink).shape == (96 // shrink, 64 // shrink, 3)


@pytest.mark.parametrize(
    ("scale", "shrink"),
    [(2.0, 1), (1.0, 1), (0.51, 1), (0.5, 2), (0.3, 2), (0.25, 4), (0.1, 8), (0.01, 8)],
)
def test_a_copy_has_enough_pixels(scale: float, shrink: int) -> None:
    assert shrink_for(scale) == shrink


def test_exif_orientation_is_honoured(photo: np.ndarray) -> None:
    upright = encode(".jpg", photo)
    turned = decode_image(with_exif_orientation(upright, 6), where="x")
    expected = cv2.rotate(decode_image(upright, where="x"), cv2.ROTATE_90_CLOCKWISE)
    assert np.array_equal(turned, expected)


@pytest.mark.parametrize("extension", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
@pytest.mark.parametrize("part", [0.5, 0.9, 0.99])
def test_truncated_files_are_refused(
    tmp_path: Path, photo: np.ndarray, extension: str, part: float
) -> None:
    data = encode(extension, photo)
    path = tmp_path / f"half{extension}"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(DataError, match=r"half\."):
        read_image(path)


def test_what_there_is_of_a_truncated_photo_is_decoded_where_allowed(photo: np.ndarray) -> None:
    jpeg = encode(".jpg", np.tile(photo, (8, 8, 1)))
    image = decode_image(jpeg[: len(jpeg) // 2], where="x", allow_truncated=True)
    assert image.shape == (8 * HEIGHT, 8 * WIDTH, 3)
    whole = decode_image(jpeg, where="x")
    assert np.array_equal(image[: 3 * HEIGHT], whole[: 3 * HEIGHT])
    with pytest.raises(DataError, match="image x: the image is truncated"):
        decode_image(jpeg[:100], where="image x", allow_truncated=True)


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)])
def test_truncated_jpeg_is_found_by_its_missing_end(
    photo: np.ndarray, options: tuple[int, ...]
) -> None:
    jpeg = encode(".jpg", photo, *options)
    thumbnail_with_an_end = with_exif_orientation(jpeg, 1).replace(b"Exif\0\0", b"Exif\xff\xd9")
    assert not read_header(thumbnail_with_an_end).truncated
    assert not read_header(jpeg + b"\0\0maker's trailer").truncated
    for data in (jpeg[:-2], thumbnail_with_an_end[:-2], jpeg[: len(jpeg) // 2], jpeg[:3]):
        assert read_header(data).truncated
    with pytest.raises(DataError, match="image x: the image is truncated"):
        decode_image(jpeg[:-2], where="image x")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "not an image"),
        (b"\xff\xd8\xff\xe0", "truncated"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"BM", "not an image"),
        (b"RIFF\0\0\0\0WEBP", "not an image"),
        (b"GIF89a", "too large|not an image"),
    ],
)
def test_what_is_no_image_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"upload\.jpg: .*({message})"):
        decode_image(data, where="upload.jpg")


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jpg: no such image"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match="cannot read"):
        read_image(tmp_path)


@pytest.mark.parametrize("extension", [".png", ".bmp", ".webp", ".jpg"])
def test_header_tells_the_size(photo: np.ndarray, extension: str) -> None:
    assert read_header(encode(extension, photo)).size_hw == (HEIGHT, WIDTH)


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
@pytest.mark.parametrize("orientation", [0, 1, 3, 6])
def test_the_size_is_that_of_the_decoded_image(
    photo: np.ndarray, extension: str, orientation: int
) -> None:
    data = encode(extension, photo)
    if orientation and extension in (".jpg", ".png", ".webp"):
        data = with_exif_orientation(data, orientation)
    assert image_size(data, where="x") == decode_image(data, where="x").shape[:2]


def with_notes(data: bytes, *bodies: bytes) -> bytes:
    """A JPEG with APP1 segments."""
    notes = (b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body for body in bodies)
    return data[:2] + b"".join(notes) + data[2:]


def exif(*entries: tuple[int, int, int, int], order: str = "<") -> bytes:
    """EXIF data of tags, types, counts and values; a value of a short is at the start of four."""
    data = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(entries))
    for tag, kind, count, value in entries:
        data += struct.pack(f"{order}HHI", tag, kind, count)
        data += struct.pack(f"{order}H2x" if kind == 3 else f"{order}I", value)
    return b"Exif\0\0" + data + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(10))
def test_the_turn_of_a_jpeg_is_known_without_decoding(
    photo: np.ndarray, monkeypatch: pytest.MonkeyPatch, orientation: int, order: str
) -> None:
    jpeg = encode(".jpg", photo)
    turn = (0x112, 3, 1, orientation)
    other = (0x128, 3, 1, 6)
    datas = [with_notes(jpeg, exif(*rows, order=order)) for rows in ([turn], [other, turn], [])]
    expected = [decode_image(data, where="x").shape[:2] for data in datas]
    monkeypatch.delattr("oculox.data.image.decode_image")
    assert [image_size(data, where="x") for data in datas] == expected
    assert (expected[0] == (WIDTH, HEIGHT)) == (orientation in range(5, 9))
    assert expected[2] == (HEIGHT, WIDTH)


TURN = (0x112, 3, 1, 6)


@pytest.mark.parametrize(
    "notes",
    [
        [b"http://ns.adobe.com/xap/1.0/\0", exif(TURN)],
        [exif(TURN), exif((0x112, 3, 1, 1))],
        [exif(TURN, (0x112, 3, 1, 1))],
        [exif((0x112, 4, 1, 6))],
        [exif((0x112, 3, 2, 6))],
        [exif((0x10F, 2, 9, 1 << 20), TURN)],
        [exif((0x10F, 99, 9, 8), TURN)],
        [exif(TURN)[:20]],
        [b"Exif\0\0"],
        [b""],
    ],
)
def test_odd_exif_data_gives_the_size_of_the_decoded_image(
    photo: np.ndarray, notes: list[bytes]
) -> None:
    data = with_notes(encode(".jpg", photo), *notes)
    assert image_size(data, where="x") == decode_image(data, where="x").shape[:2]


def test_header_of_a_gif() -> None:
    data = b"GIF89a" + struct.pack("<HH", WIDTH, HEIGHT)  # not every OpenCV writes one
    assert read_header(data).size_hw == (HEIGHT, WIDTH)


def test_lossless_and_extended_webp_sizes(photo: np.ndarray) -> None:
    lossless = encode(".webp", photo, cv2.IMWRITE_WEBP_QUALITY, 101)
    assert read_header(lossless).size_hw == (HEIGHT, WIDTH)
    extended = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\x4f\0\0" + b"\x2f\0\0"
    assert read_header(extended) == ((HEIGHT, WIDTH), False)


def test_huge_image_is_refused_before_decoding() -> None:
    header = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + struct.pack(">II", 60_000, 60_000)
    with pytest.raises(DataError, match="too large"):
        decode_image(header + b"\x08\x02\0\0\0IEND", where="bomb.png")


@pytest.mark.parametrize("extension", [".jpg", ".tiff"])
def test_one_pixel_too_many_is_refused(
    photo: np.ndarray, extension: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(extension, photo)
    monkeypatch.setattr("oculox.data.image.MAX_PIXELS", HEIGHT * WIDTH)
    assert decode_image(data, where="x").size
    monkeypatch.setattr("oculox.data.image.MAX_PIXELS", HEIGHT * WIDTH - 1)
    with pytest.raises(DataError, match=f"{WIDTH} x {HEIGHT}"):
        decode_image(data, where="x")
