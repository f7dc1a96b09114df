"""Addresses: what may be fetched, and what a hostile one leads to."""

import asyncio
import http.server
import ipaddress
import socket
import threading
import time

import pytest

pytest.importorskip("h11", reason="uvicorn is not installed (extra `serve`)")

from oculox.serve.fetch import fetch_image, is_public
from oculox.serve.limits import RefusedError


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses(address):
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",  # noqa: S104
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.1.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::",
        "2001:0:0:0:0:0:80ff:fffe",
        "fc00::1",
        "fe80::1%1",
        "fec0::1",
        "ff02::1",
    ],
)
def test_addresses_that_are_not_public(address):
    assert not is_public(ipaddress.ip_address(address))


class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, self.headers["Host"]))
        kind, _, rest = self.path[1:].partition("/")
        if kind == "to":
            self.send_response(302)
            self.send_header("Location", rest)
            self.end_headers()
        elif kind == "slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(40):
                self.wfile.write(b"x")
                time.sleep(0.1)
        elif kind == "again":
            self.send_response(302)
            self.send_header("Location", "/again")
            self.end_headers()
        elif kind == "short":
            self.send_response(200)
            self.send_header("Content-Length", "99")
            self.end_headers()
        else:
            self.send_response(200 if kind == "image" else 404)
            self.end_headers()
            self.wfile.write(b"content" * 10)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        server.asked = []
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def fetch(server, path, *, host="localhost", most=1000, allowed=lambda a: str(a) == "127.0.0.1"):
    url = f"http://{host}:{server.server_port}/{path}"
    return asyncio.run(fetch_image(url, max_bytes=most, allowed=allowed))


@pytest.fixture(autouse=True)
def names(monkeypatch):
    """Names that a hostile server of names could give; each is asked for once."""
    answers = {
        "localhost": ["127.0.0.1"],
        "mixed.example": ["127.0.0.1", "127.0.0.2"],
        "other.example": ["127.0.0.2"],
        "rebound.example": ["127.0.0.1"],
    }
    real, asked = socket.getaddrinfo, []

    def getaddrinfo(host, port, *rest, **more):
        if host in answers:
            asked.append(host)
            found = answers[host]
            if host == "rebound.example":
                answers[host] = ["127.0.0.2"]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in found]
        return real(host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_an_image_is_fetched_with_its_name(server):
    assert fetch(server, "image/a?b=1") == b"content" * 10
    assert server.asked == [("/image/a?b=1", f"localhost:{server.server_port}")]


def test_redirects_are_followed_and_checked(server):
    assert fetch(server, "to//image") == b"content" * 10
    target = f"http://other.example:{server.server_port}/image"
    with pytest.raises(RefusedError, match="not public"):
        fetch(server, f"to/{target}")
    assert [path for path, _ in server.asked] == ["/to//image", "/image", f"/to/{target}"]


def test_a_name_is_resolved_once_and_that_address_connected_to(server, names):
    """A second look-up would give another address."""
    assert fetch(server, "image", host="rebound.example") == b"content" * 10
    assert names == ["rebound.example"]
    with pytest.raises(RefusedError, match="not public"):
        fetch(server, "image", host="rebound.example")


def test_private_addresses_are_never_connected_to(server):
    for host in ("localhost", "127.0.0.1", "2130706433", "0x7f.1"):
        with pytest.raises(RefusedError, match="not public"):
            fetch(server, "image", host=host, allowed=is_public)
    with pytest.raises(RefusedError, match="not public"):
        fetch(server, "image", host="mixed.example")
    assert server.asked == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("none", "answered with status 404"),
        ("again", "redirects more than 3 times"),
        ("to/file:///etc/passwd", "must be http:// or https://"),
        ("to/http://a:b@localhost/", "without a user name"),
        ("short", "cannot be fetched"),
        ("image/\x80 x", "cannot be fetched"),
    ],
)
def test_answers_that_are_refused(server, path, reason):
    with pytest.raises(RefusedError, match=reason) as error:
        fetch(server, path)
    assert error.value.status == 422


def test_content_that_is_too_large_or_too_slow(server, monkeypatch):
    with pytest.raises(RefusedError, match="larger than") as error:
        fetch(server, "image", most=69)
    assert error.value.status == 413
    monkeypatch.setattr("oculox.serve.fetch._SECONDS", 0.4)
    with pytest.raises(RefusedError, match=r"within 0.4 s"):
        fetch(server, "slow")
