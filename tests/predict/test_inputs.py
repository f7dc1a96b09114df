import http.server
import io
import threading

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from oculox.addresses import Address
from oculox.errors import UsageError
from oculox.predict.inputs import as_bgr, images_in, load_image

RGB = np.zeros((4, 6, 3), np.uint8)
RGB[..., 0], RGB[..., 1], RGB[..., 2] = 200, 100, 50
BGR = RGB[..., ::-1]


@pytest.mark.parametrize(
    ("image", "color"),
    [
        (BGR, "bgr"),
        (RGB, "rgb"),
        (np.dstack([BGR, np.full((4, 6), 9, np.uint8)]), "bgr"),
        (np.dstack([RGB, np.full((4, 6), 9, np.uint8)]), "rgb"),
        (Image.fromarray(RGB), "bgr"),
        (Image.fromarray(RGB), "rgb"),
        (Image.fromarray(RGB).convert("RGBA"), "bgr"),
    ],
    ids=["bgr", "rgb", "bgra", "rgba", "pillow", "pillow, rgb said", "pillow rgba"],
)
def test_colours_become_bgr(image, color):
    before = np.array(image)
    np.testing.assert_array_equal(as_bgr(image, color=color), BGR)
    np.testing.assert_array_equal(np.array(image), before)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1)])
@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_grey_is_repeated(shape, color):
    grey = np.arange(24, dtype=np.uint8).reshape(shape)
    out = as_bgr(grey, color=color)
    assert out.shape == (4, 6, 3)
    assert all((out[..., c] == grey.reshape(4, 6)).all() for c in range(3))
    out[0, 0] = 255  # a writeable copy, not a view with shared memory
    assert grey.flat[0] == 0


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_16_bits_of_pillow_are_scaled_as_those_of_a_file(mode, tmp_path):
    grey = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    cv2.imwrite(str(tmp_path / "a.png"), grey)
    order = ">u2" if mode == "I;16B" else "<u2"
    image = Image.frombytes(mode, (6, 4), grey.astype(order).tobytes())
    np.testing.assert_array_equal(as_bgr(image), load_image(tmp_path / "a.png"))


def test_pillow_is_turned_upright():
    image = Image.fromarray(RGB)
    image.getexif()[0x0112] = 6  # the camera was turned by 90 degrees
    assert as_bgr(image).shape == (6, 4, 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (RGB.astype(np.float32), "expected uint8.*got float32.*astype"),
        (RGB.astype(np.uint16), "got uint16"),
        (np.zeros((2, 4, 6, 3), np.uint8), r"\(2, 4, 6, 3\); pass a list"),
        (torch.zeros(2, 3, 4, 6), r"tensor of shape \(3, height, width\), got \(2, 3, 4, 6\)"),
        (np.zeros((3, 40, 60), np.uint8), r"expected shape \(height, width, 3\)"),
        (np.zeros(5, np.uint8), r"got \(5,\)"),
        (np.zeros((0, 6, 3), np.uint8), r"empty, its shape is \(0, 6, 3\)"),
        (np.zeros((0, 0), np.uint8), "empty"),
        (Image.new("I", (6, 4)), r"mode I has no known range; scale .* \.convert\('L'\)"),
        (Image.new("F", (6, 4)), "mode F has no known range"),
        ("image.jpg", "got str"),
        (None, "got NoneType"),
    ],
)
def test_wrong_images_are_named(image, message):
    with pytest.raises(UsageError, match=message) as caught:
        as_bgr(image, where="frame 3")
    assert str(caught.value).startswith("frame 3: ")


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_tensors_are_rgb(channels, dtype):
    pixels = {1: RGB[..., :1], 3: RGB, 4: np.dstack([RGB, np.full((4, 6), 9, np.uint8)])}[channels]
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    tensor = tensor if dtype == torch.uint8 else (tensor.float() / 255).to(dtype)
    expected = np.repeat(pixels, 3, axis=2) if channels == 1 else BGR
    np.testing.assert_array_equal(as_bgr(tensor), expected)
    if channels == 3:
        np.testing.assert_array_equal(as_bgr(tensor, color="bgr"), RGB)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_pillow_file_is_one_image(kind):
    data = io.BytesIO()
    Image.fromarray(RGB).save(data, kind)
    assert images_in(Image.open(data)) is None
    assert load_image(Image.open(data)).shape == (4, 6, 3)


def test_what_is_several_images():
    assert images_in("a.jpg") is images_in(b"") is images_in(io.BytesIO()) is images_in(RGB) is None
    assert list(images_in(("a.jpg", "b.jpg"))) == ["a.jpg", "b.jpg"]
    assert [one.shape for one in images_in(np.zeros((2, 4, 6, 3)))] == [(4, 6, 3)] * 2


def test_wrong_colour_order():
    with pytest.raises(UsageError, match="'hsv'"):
        as_bgr(RGB, color="hsv")


def test_a_signed_address_is_fetched_with_its_query(monkeypatch):
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "png")

    class Signed(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path.endswith("?key=1") else 403)
            self.end_headers()
            self.wfile.write(file.getvalue())

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), Signed) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        image = load_image(Address(f"http://127.0.0.1:{server.server_port}/a.png?key=1"))
        thread.join()
    assert np.array_equal(image, BGR)
