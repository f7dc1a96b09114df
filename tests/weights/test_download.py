import contextlib
import hashlib
import http.server
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oculox import Detector
from oculox.cli.main import main
from oculox.errors import CheckpointError, OculoxError, UsageError
from oculox.files import cache_folder
from oculox.weights import download, load_weights
from oculox.weights.catalogue import PublishedWeights, find_published, published_weights
from oculox.weights.download import (
    Downloaded,
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
    with pytest.raises(OculoxError, match="leads to a URL that is not encrypted"):
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
        with pytest.raises(OculoxError, match="leads to a URL that is not encrypted"):
            fetch_weights(entry(), folder=tmp_path / "b", url=url)
    assert server.requests == []


def test_of_a_wrong_download_nothing_is_kept(server: Server, tmp_path: Path) -> None:
    server.content = b"something else"
    with pytest.raises(CheckpointError, match="not the published test") as caught:
        fetch(server, tmp_path)
    assert server.url in str(caught.value)
    assert "nothing was kept; download https://example.org" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_and_differs_is_kept(server: Server, tmp_path: Path) -> None:
    other = CONTENT[:-1]
    for path in (fetch(server, tmp_path).path, tmp_path / "by hand" / "weights.pth"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(other)
        for _ in range(2):
            with pytest.raises(CheckpointError, match="Delete or replace it") as caught:
                fetch(server, path.parent)
            for text in (str(path), SHA256, hashlib.sha256(other).hexdigest()):
                assert text in str(caught.value)
            assert path.read_bytes() == other
    assert len(server.requests) == 1


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


@pytest.fixture
def nano(server: Server, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `yolox-nano` is kept; the server is the mirror that has it, and it has no other."""
    monkeypatch.setenv("OCULOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OCULOX_MIRROR", server.url.removesuffix("/weights.pth"))
    monkeypatch.chdir(tmp_path)
    server.content = (shared / "weights/yolox_nano.pth").read_bytes()
    sha256 = hashlib.sha256(server.content).hexdigest()
    pinned = find_published("yolox-nano").model_copy(update={"sha256": sha256})
    others = [entry for entry in published_weights() if entry.name != "yolox-nano"]
    monkeypatch.setattr(download, "published_weights", lambda: (pinned, *others))
    find = {"yolox-nano": pinned}
    monkeypatch.setattr(
        download, "find_published", lambda name: find.get(name) or find_published(name)
    )
    return tmp_path / "cache/yolox_nano.pth"


def test_published_names_are_fetched_once(
    server: Server, nano: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_weights("yolox-nano").spec.model.name == "yolox-nano"
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("fetching yolox-nano (Apache-2.0) from http://127.0.0.1:")
    assert nano.read_bytes() == server.content
    assert locate_weights("yolox-nano") == locate_weights(Path("yolox-nano")) == nano
    assert len(server.requests) == 1
    assert capsys.readouterr().err == "", "what is here needs no word"
    nano.write_bytes(b"damaged")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="not the published yolox-nano"):
            load_weights("yolox-nano")
    nano.unlink()
    assert Detector("yolox-nano", device="cpu").names[0] == "person"
    assert len(server.requests) == 2


def test_a_published_name_in_the_first_command(
    server: Server, nano: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = shared / "coco_mini/val2017/000000005001.jpg"
    assert main(["predict", "yolox-nano", str(image), "--device", "cpu"]) == 0
    told = capsys.readouterr()
    assert told.err.startswith("fetching yolox-nano (Apache-2.0) from http://127.0.0.1:")
    assert re.search(r"^person +0\.\d\d", told.out, re.M)
    assert nano.is_file()


@pytest.mark.parametrize("closed", [True, False])
def test_published_names_where_the_network_is_closed(
    server: Server, nano: Path, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    if closed:
        monkeypatch.setenv("OCULOX_MIRROR", "http://127.0.0.1:9")
    else:
        server.status = [403]  # a gateway's
    with pytest.raises(OculoxError) as caught:
        Detector("yolox-nano")
    official = find_published("yolox-nano").url
    assert f"download {official} elsewhere and put it at {nano}, or set OCULOX_MIRROR" in str(
        caught.value
    )
    nano.parent.mkdir(exist_ok=True)
    nano.write_bytes(server.content)
    assert Detector("yolox-nano", device="cpu").path == Path("yolox-nano")


def test_weights_that_are_fetched_only_when_asked_for(
    server: Server, nano: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match=r"are GPL-3\.0-only .* get mmyolo-yolox-s$"):
        locate_weights("mmyolo-yolox-s")
    unknown = find_published("yolox-s").model_copy(update={"sha256": None})
    monkeypatch.setattr(download, "find_published", lambda name: unknown)
    with pytest.raises(CheckpointError, match=r"have no published checksum .* get yolox-s$"):
        locate_weights("yolox-s")
    assert server.requests == []


@pytest.mark.parametrize(
    ("name", "message"),
    [("yolox_s", "yolox_s: no such file, and .* did you mean 'yolox-s'"), ("best", "weights list")],
)
def test_names_that_are_nothing(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        locate_weights(name)


def test_other_names_are_paths(tmp_path: Path) -> None:
    assert locate_weights("runs/best.pt") == Path("runs/best.pt")
    assert locate_weights(tmp_path) == tmp_path
