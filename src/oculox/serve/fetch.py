"""Images from addresses that strangers name: public ones only, and checked before connecting.

The name is resolved once, every address it stands for is checked, and the connection goes to the
address that was checked: a name that is resolved anew in between leads nowhere else. Redirects go
the same way. Proxies of the environment are not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

import h11

from oculox.serve.limits import RefusedError
from oculox.version import __version__

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
PORTS = {"http": 80, "https": 443}
MAX_REDIRECTS = 3
_SECONDS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
# Networks whose addresses stand for one of IPv4, public or not.
_TRANSLATED = tuple(
    map(
        ipaddress.IPv6Network,
        ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96", "::ffff:0:0:0/96"),
    )
)


class _Answer(NamedTuple):
    """Status, address of a redirect (empty where there is none), and content."""

    status: int
    location: str
    content: bytes


def is_public(address: Address) -> bool:
    """Whether an address is on the open internet, and not of this machine or network."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address.is_site_local or any(address in network for network in _TRANSLATED):
            return False
    return address.is_global and not address.is_multicast


async def fetch_image(
    url: str, *, max_bytes: int, allowed: Callable[[Address], bool] = is_public
) -> bytes:
    """The content of an address.

    Args:
        url: http or https.
        max_bytes: most bytes of the content.
        allowed: which addresses may be connected to.

    Raises:
        RefusedError: 422 the address is not allowed, or gives no content; 413 it is too large.
    """
    try:
        async with asyncio.timeout(_SECONDS):
            for _ in range(MAX_REDIRECTS + 1):
                answer = await _get(_checked(url), max_bytes=max_bytes, allowed=allowed)
                if answer.status not in _REDIRECTS or not answer.location:
                    break
                url = urljoin(url, answer.location)
            else:
                raise RefusedError(422, f"the URL redirects more than {MAX_REDIRECTS} times")
    except TimeoutError:
        raise RefusedError(422, f"the URL gave no image within {_SECONDS} s") from None
    except (OSError, h11.ProtocolError, UnicodeError, ValueError):
        raise RefusedError(422, "the URL cannot be fetched") from None
    if answer.status != 200:
        raise RefusedError(422, f"the URL answered with status {answer.status}")
    return answer.content


def _checked(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname or parts.username is not None:
        raise RefusedError(422, "the URL must be http:// or https:// without a user name")
    return parts


async def _get(url: SplitResult, *, max_bytes: int, allowed: Callable[[Address], bool]) -> _Answer:
    host, port = str(url.hostname), url.port or PORTS[url.scheme]
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(entry[4][0])) for entry in found]
    # A name that stands for a private address beside a public one may be an attack: refuse it.
    if not addresses or not all(map(allowed, addresses)):
        raise RefusedError(422, "the URL leads to an IP address that is not public")
    secure = url.scheme == "https"
    reader, writer = await asyncio.open_connection(
        str(addresses[0]),
        port,
        ssl=ssl.create_default_context() if secure else None,
        server_hostname=host if secure else None,
    )
    try:
        return await _exchange(url, reader, writer, max_bytes=max_bytes)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _exchange(
    url: SplitResult, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, max_bytes: int
) -> _Answer:
    """One request and its answer."""
    connection = h11.Connection(h11.CLIENT)
    headers = {
        "Host": url.netloc.encode("idna").decode(),
        "User-Agent": f"oculox/{__version__}",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    request = h11.Request(method="GET", target=target, headers=list(headers.items()))
    writer.write((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
    await writer.drain()
    status, location, content = 0, "", bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(1 << 16))
        elif isinstance(event, h11.Response):
            status = event.status_code
            location = dict(event.headers).get(b"location", b"").decode("latin-1")
            if status != 200:
                return _Answer(status, location, b"")
        elif isinstance(event, h11.Data):
            content += event.data
            if len(content) > max_bytes:
                raise RefusedError(413, f"the image is larger than {max_bytes / (1 << 20):g} MiB")
        elif isinstance(event, h11.EndOfMessage):
            return _Answer(status, location, bytes(content))
        elif not isinstance(event, h11.InformationalResponse):
            raise RefusedError(422, "the URL gave no whole answer")
