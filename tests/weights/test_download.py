import contextlib
import hashlib
import http.server
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oculox.errors import CheckpointError, OculoxError, UsageError
from oculox.weights import download, load_weights
from oculox.weights.catalogue import PublishedWeights, find_published
from oculox.weights.download import (
    Downloaded,
    cache_folder,
    fetch_weights,
    locate_weights,
    source_url,
)

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """A file server that can be made to fail.

    stop_after: bytes of content to send before hanging up; status: answers to give instead, one
    for each request; location: where to redirect to; length: whether it announces the size.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.stop_after: int | None = None
        self.status: list[int] = []
        self.location = ""
        self.length = True
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/files/weights.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(self.path)
        if server.status:
            self.send_error(server.status.pop(0))
            return
        redirect = bool(server.location) and "files" in self.path
        self.send_response(302 if redirect else 200)
        if redirect:
            self.send_header("Location", server.location)
        if server.length:
            self.send_header("Content-Length", str(0 if redirect else len(server.content)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(b"" if redirect else server.content[: server.stop_after])

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(Server()) as running:
        yield running


def entry(sha256: str | None = SHA256) -> PublishedWeights:
    return PublishedWeights(
        name="test",
        recipe="yolox-nano",
        project="megvii",
        ap=25.8,
        license="Apache-2.0",
        url="https://example.org/files/weights.pth",
        sha256=sha256,
    )


def fetch(server: Server, folder: Path, sha256: str | None = SHA256, **options: bool) -> Downloaded:
    return fetch_weights(entry(sha256), folder=folder, url=server.url, **options)


@pytest.mark.parametrize("sha256", [SHA256, SHA256[:8]])
def test_a_download_is_verified_and_kept(server: Server, tmp_path: Path, sha256: str) -> None:
    done = fetch(server, tmp_path / "new" / "cache", sha256)
    assert done.path == tmp_path / "new" / "cache" / "weights.pth"
    assert (done.sha256, done.verified) == (SHA256, True)
    assert done.path.read_bytes() == CONTENT
    names = {path.name for path in done.path.parent.iterdir()}
    assert names == {"weights.pth", "weights.pth.sha256"}
    assert fetch(server, done.path.parent, sha256) == done
    assert len(server.requests) == 1


def test_progress_is_told(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    fetch_weights(
        entry(),
        folder=tmp_path,
        url=server.url,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("length", [True, False])
def test_a_lost_connection_leaves_nothing(server: Server, tmp_path: Path, length: bool) -> None:
    server.stop_after, server.length = 300_000, length
    message = r"300000 bytes read.*try again.*weights\.pth.*OCULOX_MIRROR"
    with pytest.raises(OculoxError, match=message if length else "not the published test"):
        fetch(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_hangs(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/weights.pth"
        with pytest.raises(OculoxError, match=r"cannot be downloaded .*timed out"):
            fetch_weights(entry(), folder=tmp_path, url=url)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_too_large(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_LARGEST", 1_000_000)
    server.length = False
    with pytest.raises(OculoxError, match="larger than 1000000 bytes"):
        fetch(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_redirects_are_followed_but_never_to_other_schemes(server: Server, tmp_path: Path) -> None:
    server.location = "/elsewhere/w.pth"
    assert fetch(server, tmp_path).path.read_bytes() == CONTENT
    server.location = (tmp_path / "weights.pth").as_uri()
    with pytest.raises(OculoxError, match="leads to an address that is not encrypted"):
        fetch(server, tmp_path / "other")


def test_https_is_never_redirected_to_http(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl program, to make a certificate")
    pem = tmp_path / "server.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    command += f" -addext subjectAltName=IP:127.0.0.1 -keyout {pem} -out {pem}.crt"
    subprocess.run(command.split(), check=True, capture_output=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", f"{pem}.crt")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{pem}.crt", pem)
    secure = Server()
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    with serving(secure):
        url = secure.url.replace("http:", "https:")
        done = fetch_weights(entry(), folder=tmp_path / "a", url=url)
        assert done.path.read_bytes() == CONTENT
        secure.location = server.url
        with pytest.raises(OculoxError, match="leads to an address that is not encrypted"):
            fetch_weights(entry(), folder=tmp_path / "b", url=url)
    assert server.requests == []


def test_a_wrong_file_is_deleted(server: Server, tmp_path: Path) -> None:
    server.content = b"something else"
    with pytest.raises(CheckpointError, match="not the published test") as caught:
        fetch(server, tmp_path)
    assert server.url in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_damaged_later_is_fetched_again(server: Server, tmp_path: Path) -> None:
    path = fetch(server, tmp_path).path
    path.write_bytes(CONTENT[:-1])
    assert fetch(server, tmp_path).path.read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_without_a_checksum_the_user_has_to_agree(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not pinned: no published checksum"):
        fetch(server, tmp_path, None)
    assert server.requests == []
    done = fetch(server, tmp_path, None, allow_unverified=True)
    assert (done.sha256, done.verified) == (SHA256, False)


@pytest.mark.parametrize(
    ("status", "requests", "message"),
    [([404], 1, r"404 \(Not Found\)"), ([403], 1, "403"), ([503] * 9, 4, "503")],
)
def test_servers_that_refuse(
    server: Server, tmp_path: Path, status: list[int], requests: int, message: str
) -> None:
    server.status = status
    with pytest.raises(OculoxError, match=message):
        fetch(server, tmp_path)
    assert len(server.requests) == requests


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.status = [503, 429]
    assert fetch(server, tmp_path).verified


def test_a_server_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(OculoxError, match=r"refused.*weights\.pth, or set OCULOX_MIRROR") as caught:
        fetch_weights(entry(), folder=tmp_path, url="http://127.0.0.1:9/weights.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://example.org/w.pth", "data:,x", "weights.pth", ""])
def test_other_schemes_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="expected a URL with https, http, file"):
        fetch_weights(entry(), folder=tmp_path, url=url)


def test_file_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a folder"
    source.mkdir()
    (source / "weights.pth").write_bytes(CONTENT)
    monkeypatch.setenv("OCULOX_MIRROR", source.as_uri())
    url = source_url(entry())
    done = fetch_weights(entry(), folder=tmp_path / "cache", url=url)
    assert done.path.read_bytes() == CONTENT
    with pytest.raises(OculoxError, match="no such file"):
        fetch_weights(entry(), folder=tmp_path / "b", url=(tmp_path / "none.pth").as_uri())


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OculoxError, match="could not be written"):
        fetch(server, tmp_path / "taken" / "cache")


def set_environment(values: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OCULOX_CACHE", "OCULOX_MIRROR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"OCULOX_CACHE": "/data/weights"}, "/data/weights"),
        ({"XDG_CACHE_HOME": "/var/cache"}, "/var/cache/oculox"),
        ({"OCULOX_CACHE": "", "XDG_CACHE_HOME": ""}, str(Path.home() / ".cache/oculox")),
        ({}, str(Path.home() / ".cache/oculox")),
    ],
)
def test_cache_folder(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(environment, monkeypatch)
    assert str(cache_folder()) == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "https://example.org/files/weights.pth"),
        ({"OCULOX_MIRROR": ""}, "https://example.org/files/weights.pth"),
        ({"OCULOX_MIRROR": "http://mirror/a/"}, "http://mirror/a/weights.pth"),
    ],
)
def test_source_url(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(environment, monkeypatch)
    assert source_url(entry()) == expected


def test_published_names_stand_for_the_cached_file(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCULOX_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="run: oculox weights get yolox-nano"):
        load_weights("yolox-nano")
    content = (shared / "weights/yolox_nano.pth").read_bytes()
    cached = tmp_path / "yolox_nano.pth"
    cached.write_bytes(content)
    with pytest.raises(CheckpointError, match="not the published yolox-nano"):
        load_weights("yolox-nano")
    cached.write_bytes(content)
    pinned = find_published("yolox-nano").model_copy(
        update={"sha256": hashlib.sha256(content).hexdigest()}
    )
    monkeypatch.setattr(download, "find_published", lambda name: pinned)
    assert locate_weights("yolox-nano") == cached
    assert load_weights("yolox-nano").spec.model.name == "yolox-nano"


def test_other_names_are_paths(tmp_path: Path) -> None:
    assert locate_weights("runs/best.pt") == Path("runs/best.pt")
    assert locate_weights(tmp_path) == tmp_path
