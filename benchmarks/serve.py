"""How many requests the service answers, and how fast, one by one and many at once.

    python benchmarks/serve.py yolox-nano docs/images/coffee.jpg --imgsz 160
    python benchmarks/serve.py best.onnx street.jpg --clients 50 --requests 1000 --json

A service is started on this machine, warmed up, and asked by one client after the other; then by
all clients at once, each of which sends its next request when the last one is answered. A request
that is refused, broken or answered with other objects than the first ends the program with 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

ONE_BY_ONE = 300
"""Requests of the single client."""


@contextlib.contextmanager
def service(model: str, options: list[str]) -> Iterator[str]:
    """The address of a service of its own."""
    words = ["serve", model, "--port", "0", "--json", *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "oculox", *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        told = ""
        while not told.endswith("}\n"):
            line = process.stdout.readline()
            if not line:
                raise SystemExit("the service did not start")
            told += line
        yield json.loads(told)["address"]
    finally:
        process.terminate()
        process.wait(60)


class Client:
    """One connection, which sends the same image again and again."""

    def __init__(self, address: str, image: bytes) -> None:
        self._host = urlsplit(address)
        head = f"POST /v1/detect HTTP/1.1\r\nHost: {self._host.netloc}\r\n"
        head += f"Content-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n"
        self._request = head.encode() + image

    async def ask(self, left: list[int], seconds: list[float], answers: set[bytes]) -> None:
        """Send requests while some are left; note the time and the text of each answer."""
        reader, writer = await asyncio.open_connection(self._host.hostname, self._host.port)
        while left:
            left.pop()
            start = time.perf_counter()
            writer.write(self._request)
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise SystemExit(f"a request was refused: {head.decode()}")
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            answers.add(await reader.readexactly(length))
            seconds.append(time.perf_counter() - start)
        writer.close()


async def measure(address: str, image: bytes, *, clients: int, requests: int) -> dict[str, float]:
    """Ask with so many clients at once; requests and failures, milliseconds, requests a second."""
    left, seconds, answers = list(range(requests)), list[float](), set[bytes]()
    start = time.perf_counter()
    await asyncio.gather(
        *(Client(address, image).ask(left, seconds, answers) for _ in range(clients))
    )
    total = time.perf_counter() - start
    if len(seconds) != requests:
        raise SystemExit(f"{requests - len(seconds)} of {requests} requests were lost")
    counts = {len(json.loads(answer)["detections"]) for answer in answers}
    if len(counts) != 1:
        raise SystemExit(f"the same image gave {sorted(counts)} objects")
    ordered = sorted(1000 * second for second in seconds)
    return {
        "clients": clients,
        "requests": requests,
        "p50_ms": ordered[len(ordered) // 2],
        "p99_ms": ordered[int(len(ordered) * 0.99)],
        "max_ms": ordered[-1],
        "per_second": requests / total,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="a model that `oculox serve` takes")
    parser.add_argument("image", type=Path, help="a JPEG that each request sends")
    parser.add_argument("--clients", type=int, default=200, help="at once")
    parser.add_argument("--requests", type=int, default=5000, help="of all of them together")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    # Options that are not known here, such as --imgsz, are those of the service.
    arguments, options = parser.parse_known_args()
    image = arguments.image.read_bytes()
    few = min(ONE_BY_ONE, arguments.requests)
    with service(arguments.model, options) as address:
        asyncio.run(measure(address, image, clients=1, requests=min(10, few)))
        rows = [
            asyncio.run(measure(address, image, clients=clients, requests=requests))
            for clients, requests in ((1, few), (arguments.clients, arguments.requests))
        ]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print("| clients | requests | lost | requests/s | p50 ms | p99 ms | longest ms |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        times = " | ".join(f"{row[key]:.1f}" for key in ("p50_ms", "p99_ms", "max_ms"))
        counts = f"{row['clients']} | {row['requests']} | 0 | {row['per_second']:.1f}"
        print(f"| {counts} | {times} |")


if __name__ == "__main__":
    main()
