"""A real S3 server on loopback (moto's), with faults that a test puts in."""

import dataclasses
import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

_WORDS = {
    "busy": (503, "SlowDown", "Please reduce your request rate."),
    "broken": (500, "InternalError", "We encountered an internal error."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
    "denied": (403, "AccessDenied", "Access Denied"),
}


@dataclasses.dataclass
class Fault:
    """Answers the next `times` requests whose method and path fit, in place of the server.

    ``cut``: half of the body and no more; ``slow``: the body byte by byte, `seconds` apart;
    ``late``: the whole after `seconds`.
    """

    kind: Literal["busy", "broken", "expired", "denied", "cut", "slow", "late"]
    path: str = ""
    methods: tuple[str, ...] = ("GET", "HEAD", "PUT", "POST")
    times: int = 1_000_000
    seconds: float = 0.0


class S3Server:
    """The server, its address, what was asked of it, and a client to fill it."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def client(self) -> Any:
        import boto3

        return boto3.client("s3", endpoint_url=self.url)

    def put(self, bucket: str, files: dict[str, bytes]) -> None:
        """Make a bucket with files."""
        client = self.client()
        client.create_bucket(Bucket=bucket)
        for key, content in files.items():
            client.put_object(Bucket=bucket, Key=key, Body=content)

    def put_folder(self, bucket: str, folder: Path, *, below: str = "") -> None:
        """Make a bucket with all files of a folder."""
        files = (path for path in folder.rglob("*") if path.is_file())
        self.put(
            bucket, {f"{below}{p.relative_to(folder).as_posix()}": p.read_bytes() for p in files}
        )

    def get(self, bucket: str, key: str) -> bytes:
        content: bytes = self.client().get_object(Bucket=bucket, Key=key)["Body"].read()
        return content

    def keys(self, bucket: str) -> list[str]:
        found = self.client().list_objects_v2(Bucket=bucket).get("Contents", [])
        return [entry["Key"] for entry in found]

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with self._lock:
            self.requests.append((method, path))
            fits = (f for f in self.faults if f.times and f.path in path and method in f.methods)
            fault = next(fits, None)
            if fault is not None:
                fault.times -= 1
        if fault is not None and fault.kind in _WORDS:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            status, code, text = _WORDS[fault.kind]
            body = f"<Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()
            start(f"{status} {code}", [("Content-Type", "application/xml")])
            return [] if method == "HEAD" else [body]
        if fault is not None and fault.kind == "late":
            time.sleep(fault.seconds)
        body = b"".join(self._moto(environ, start))
        if fault is None or fault.kind == "late" or method != "GET":
            return [body]
        return _part(body, fault)


def _part(body: bytes, fault: Fault) -> Iterable[bytes]:
    if fault.kind == "cut":
        yield body[: len(body) // 2]
        return
    for i in range(len(body)):
        yield body[i : i + 1]
        time.sleep(fault.seconds)
