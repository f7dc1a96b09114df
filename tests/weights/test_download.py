import contextlib
import hashlib
import http.server
import re
import threading
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
    """A file server that can be told to misbehave.

    stop_after: bytes of content to send before hanging up, one entry for each request;
    ranges: whether it honours Range; tag: its ETag; status: answer with this instead.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.stop_after: list[int | None] = []
        self.ranges = True
        self.tag: str | None = '"one"'
        self.status: list[int] = []
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/files/weights.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append((self.path, wanted))
        if server.status:
            self.send_error(server.status.pop(0))
            return
        start = 0
        if_range = self.headers.get("If-Range")
        if wanted and server.ranges and if_range in (None, server.tag):
            match = re.fullmatch(r"bytes=(\d+)-", wanted)
            assert match is not None
            start = int(match[1])
            if start >= len(server.content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header(
                "Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}"
            )
        else:
            self.send_response(200)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        stop = server.stop_after.pop(0) if server.stop_after else None
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body if stop is None else body[:stop])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


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
    assert not list(tmp_path.rglob("*.part*"))
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


def test_a_lost_connection_is_continued(server: Server, tmp_path: Path) -> None:
    server.stop_after = [300_000, 400_000]
    assert fetch(server, tmp_path).path.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [
        None,
        "bytes=300000-",
        "bytes=700000-",
    ]


def test_a_later_call_continues(server: Server, tmp_path: Path) -> None:
    server.stop_after = [500_000] + [0] * 10
    with pytest.raises(OculoxError, match=r"500000 of 1280000 bytes; 500000 bytes are kept"):
        fetch(server, tmp_path)
    server.stop_after = []
    assert fetch(server, tmp_path).path.read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=500000-"


@pytest.mark.parametrize("change", ["file", "ranges", "url", "state"])
def test_what_cannot_be_continued_starts_again(server: Server, tmp_path: Path, change: str) -> None:
    server.stop_after = [500_000] + [0] * 10
    with pytest.raises(OculoxError):
        fetch(server, tmp_path)
    server.stop_after = []
    url = server.url
    if change == "file":
        server.content, server.tag = CONTENT[::-1], '"two"'
    elif change == "ranges":
        server.ranges = False
    elif change == "url":
        url += "?again"
    else:
        (tmp_path / "weights.pth.part.json").write_text("{")
    expected = hashlib.sha256(server.content).hexdigest()
    done = fetch_weights(entry(expected), folder=tmp_path, url=url)
    assert done.path.read_bytes() == server.content


def test_more_than_the_whole_file_starts_again(server: Server, tmp_path: Path) -> None:
    server.stop_after = [500_000] + [0] * 10
    with pytest.raises(OculoxError):
        fetch(server, tmp_path)
    server.stop_after = []
    (tmp_path / "weights.pth.part").write_bytes(CONTENT + b"more")
    assert fetch(server, tmp_path).path.read_bytes() == CONTENT


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


def test_without_checksum_or_validator_nothing_is_continued(server: Server, tmp_path: Path) -> None:
    server.tag = None
    server.stop_after = [500_000]
    assert fetch(server, tmp_path, None, allow_unverified=True).path.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, None]


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
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    with pytest.raises(OculoxError, match=r"cannot be reached .*OCULOX_MIRROR"):
        fetch_weights(entry(), folder=tmp_path, url="http://127.0.0.1:9/weights.pth")


@pytest.mark.parametrize("url", ["ftp://example.org/w.pth", "data:,x", "weights.pth", ""])
def test_other_schemes_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="expected a URL with https, http, file"):
        fetch_weights(entry(), folder=tmp_path, url=url)


def test_file_urls(tmp_path: Path) -> None:
    source = tmp_path / "a folder"
    source.mkdir()
    (source / "weights.pth").write_bytes(CONTENT)
    url = source_url(entry(), {"OCULOX_MIRROR": source.as_uri()})
    done = fetch_weights(entry(), folder=tmp_path / "cache", url=url)
    assert done.path.read_bytes() == CONTENT
    with pytest.raises(OculoxError, match="no such file"):
        fetch_weights(entry(), folder=tmp_path / "b", url=(tmp_path / "none.pth").as_uri())


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OculoxError, match="could not be written"):
        fetch(server, tmp_path / "taken" / "cache")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"OCULOX_CACHE": "/data/weights"}, "/data/weights"),
        ({"XDG_CACHE_HOME": "/var/cache"}, "/var/cache/oculox"),
        ({"OCULOX_CACHE": "", "XDG_CACHE_HOME": ""}, str(Path.home() / ".cache/oculox")),
        ({}, str(Path.home() / ".cache/oculox")),
    ],
)
def test_cache_folder(environment: dict[str, str], expected: str) -> None:
    assert str(cache_folder(environment)) == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "https://example.org/files/weights.pth"),
        ({"OCULOX_MIRROR": ""}, "https://example.org/files/weights.pth"),
        ({"OCULOX_MIRROR": "http://mirror/a/"}, "http://mirror/a/weights.pth"),
    ],
)
def test_source_url(environment: dict[str, str], expected: str) -> None:
    assert source_url(entry(), environment) == expected


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
