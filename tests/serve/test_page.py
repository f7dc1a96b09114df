"""The page, in headless Chromium: by mouse and keyboard, on a phone, in the dark."""

import base64
import dataclasses
import json
import re
import shutil
from importlib.resources import files

import numpy as np
import pytest
import torch

from red_images import RedBackend, red_image
from service_client import encoded, serving

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("chromium is not installed (Debian: chromium)", allow_module_level=True)

PAGE = (files("oculox.serve") / "page.html").read_text("utf-8")


class TwoBlocks(RedBackend):
    """Finds the red block as a square, and the whole input as a disc with a low score."""

    def select(self, outputs, settings):
        boxes, objects, classes = outputs
        height, width = self.spec.input.size
        whole = torch.tensor([0.0, 0.0, width, height]).expand_as(boxes)
        disc = torch.tensor([0.0, 1.0]).expand_as(classes)
        low = torch.full_like(objects, 0.2)
        pairs = ((boxes, whole), (objects, low), (classes, disc))
        return super().select(tuple(torch.cat(pair, 1) for pair in pairs), settings)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service():
    with serving(TwoBlocks()) as client:
        yield client


class Tab:
    """The page of a service, with what it asked for and what went wrong in it."""

    def __init__(self, browser, service, **options):
        self.context = browser.new_context(**options)
        self.context.grant_permissions(
            ["clipboard-read", "clipboard-write", "camera"], origin=service.address
        )
        self.page = self.context.new_page()
        self.asked, self.errors = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console",
            lambda message: self.errors.append(message.text) if message.type == "error" else None,
        )
        self.page.goto(service.address)

    def choose(self, image):
        self.page.set_input_files(
            "#file", {"name": "a.png", "mimeType": "image/png", "buffer": encoded(image)}
        )

    def says(self, text):
        sync_api.expect(self.page.locator("#status")).to_have_text(text)

    def slide(self, value):
        self.page.locator("#conf").fill(str(value))

    def clipboard(self):
        return json.loads(self.page.evaluate("navigator.clipboard.readText()"))

    def detections(self):
        return [url for url in self.asked if "/v1/detect" in url]


@pytest.fixture
def tab(browser, service):
    tab = Tab(browser, service)
    yield tab
    assert tab.errors == []
    assert [u for u in tab.asked if not u.startswith((service.address, "blob:", "data:"))] == []
    tab.context.close()


def test_boxes_thresholds_classes_and_copies(tab):
    page = tab.page
    tab.choose(red_image())
    tab.says("1 object found in 120 x 48 pixels.")
    assert page.locator("svg rect").count() == 1
    assert page.locator("#names").inner_text() == "square 0.90"
    box = page.locator("svg rect").bounding_box()
    shown = page.locator("#image").bounding_box()
    scale = shown["width"] / 120
    assert box["x"] - shown["x"] == pytest.approx(40 * scale, abs=2)
    assert box["width"] == pytest.approx(40 * scale, abs=4)

    tab.slide(0.1)
    tab.says("2 objects found in 120 x 48 pixels.")
    assert page.locator("#rows tr").count() == 2
    assert page.locator("#classes label").all_inner_texts() == ["disc\n1", "square\n1"]
    page.get_by_label("square").uncheck()
    tab.says("1 object found in 120 x 48 pixels.")
    assert page.locator("#names").inner_text() == "disc 0.20"
    page.get_by_role("button", name="Copy as JSON").click()
    tab.says("Copied 1 objects as JSON.")
    copied = tab.clipboard()
    assert (copied["width"], copied["height"]) == (120, 48)
    assert [one["name"] for one in copied["detections"]] == ["disc"]
    page.get_by_label("square").check()
    page.get_by_role("button", name="Copy as COCO").click()
    tab.says("Copied 2 objects as COCO.")
    square = tab.clipboard()[0]
    assert (square["category_id"], square["bbox"]) == (0, [40, 12.5, 40, 22.5])
    tab.slide(0.95)
    tab.says("Nothing found in 120 x 48 pixels.")
    assert len(tab.detections()) == 1  # no other request


def give(page, kind, png):
    """Drop or paste a file, as the browser would tell the page of it."""
    page.evaluate(
        """([kind, data]) => {
            const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0))
            const transfer = new DataTransfer()
            transfer.items.add(new File([bytes], "a.png", { type: "image/png" }))
            const event = kind === "paste"
                ? new ClipboardEvent(kind, { clipboardData: transfer, bubbles: true })
                : new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true })
            document.body.dispatchEvent(event)
        }""",
        [kind, base64.b64encode(png).decode()],
    )


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_dropped_and_pasted_images(tab, red_png, kind):
    give(tab.page, kind, red_png)
    tab.says("1 object found in 120 x 48 pixels.")


def test_what_is_refused_is_said(tab):
    tab.choose(np.zeros((4, 4, 3), np.uint8))
    tab.says("Nothing found in 4 x 4 pixels.")
    tab.page.set_input_files(
        "#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"no image"}
    )
    sync_api.expect(tab.page.locator("#status.bad")).to_contain_text("expected an image as JPEG")
    assert not tab.page.locator("#found").is_visible()
    [told] = tab.errors  # that of the browser about the status
    assert "415" in told
    tab.errors.clear()


def test_by_keyboard_alone(tab, red_png):
    page, reached = tab.page, []
    tab.choose(red_image())
    tab.says("1 object found in 120 x 48 pixels.")
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.type"))
        if reached[-1] == "conf":
            page.keyboard.press("Home")
            tab.says("2 objects found in 120 x 48 pixels.")
        if reached[-1] == "checkbox" and reached.count("checkbox") == 1:
            page.keyboard.press("Space")
            tab.says("1 object found in 120 x 48 pixels.")
        if reached[-1] == "json":
            page.keyboard.press("Enter")
            tab.says("Copied 1 objects as JSON.")
    expected = ["file", "camera", "conf", "checkbox", "checkbox", "json", "coco"]
    assert [name for name in reached if name in expected][:7] == expected
    assert page.locator("#image").get_attribute("alt") == "The image: 1 object found"


def test_the_camera(tab):
    page = tab.page
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the photo").click()
    sync_api.expect(page.locator("#status")).to_contain_text(" pixels.")
    assert not page.locator("#video").is_visible()
    assert page.get_by_role("button", name="Use the camera").is_visible()


def test_on_a_phone_and_in_the_dark(browser, service):
    tab = Tab(
        browser,
        service,
        viewport={"width": 360, "height": 700},
        has_touch=True,
        color_scheme="dark",
    )
    tab.choose(red_image())
    tab.says("1 object found in 120 x 48 pixels.")
    width = tab.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360
    ground = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", ground))) < 64
    assert tab.errors == []
    tab.context.close()


def test_names_of_classes_are_no_html(browser):
    backend = RedBackend()
    name = "<img src=x onerror=alert(1)>"
    backend.spec = dataclasses.replace(backend.spec, names=(name, "disc"))
    with serving(backend) as service:
        tab = Tab(browser, service)
        tab.choose(red_image())
        tab.says("1 object found in 120 x 48 pixels.")
        assert name in tab.page.locator("#classes").inner_text()
        assert tab.page.locator("img").count() == 1
        assert tab.errors == []
        tab.context.close()


def test_the_key_is_asked_for(browser):
    with serving(RedBackend(), api_key="k2") as service:
        tab = Tab(browser, service)
        sync_api.expect(tab.page.locator("#status.bad")).to_contain_text("the API key is missing")
        tab.page.get_by_label("This service needs its API key").fill("k2")
        tab.page.keyboard.press("Enter")
        sync_api.expect(tab.page.locator("#model")).to_have_text("red, 2 classes")
        tab.choose(red_image())
        tab.says("1 object found in 120 x 48 pixels.")
        tab.context.close()


def test_nothing_from_outside(service):
    assert re.findall(r"https?://[^\s\"']+", PAGE) == ["http://www.w3.org/2000/svg"]
    policy = service.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r" (?:style|on\w+)=", PAGE)
