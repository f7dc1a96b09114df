"""What an address is, and its parts."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from oculox.errors import UsageError
from oculox.files import require_local

S3_SCHEMES = ("s3", "s3a", "obs")
WEB_SCHEMES = ("http", "https")
WEB_PREFIXES = tuple(f"{scheme}://" for scheme in WEB_SCHEMES)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_SIGNATURE = re.compile(r"(x-(amz|goog|obs|oss)-)?sig(nature)?", re.IGNORECASE)
_SIGNING = re.compile(
    r"x-(amz|goog|obs|oss)-.+|sig(nature)?|expires|policy|key-pair-id|((aws|oss)?accesskey|"
    r"googleaccess)id|s[eprtv]|spr|sip|ss|srt|sk(oid|tid|t|e|s|v)",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True, order=True)
class Address:
    """The place of a file or folder that is not on this machine.

    The names are those of `pathlib.Path`. As a string it is fit for messages and logs: without
    the password and the query, which give access in signed links.

    Attributes:
        text: the whole address; may be secret.
    """

    text: str

    def __str__(self) -> str:
        parts = urlsplit(self.text)
        host = parts.netloc.rpartition("@")[2] if parts.scheme in WEB_SCHEMES else parts.netloc
        query = "?..." if self._query else ""
        return f"{parts.scheme}://{host}{self._before_query[self._path_start :]}{query}"

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __truediv__(self, name: str | Path) -> Address:
        """What has that name below it."""
        below = name.as_posix() if isinstance(name, Path) else name
        return Address(f"{self._before_query.rstrip('/')}/{below}{self._query}")

    @property
    def gives_access(self) -> bool:
        """Whether it may hold a secret, as signed links do: it has a query or a password."""
        return self.scheme in WEB_SCHEMES and (
            "?" in self.text or "@" in urlsplit(self.text).netloc
        )

    @property
    def content_query(self) -> str:
        """The query without what signs a link: that changes from day to day, the content does not.

        The fields are those of Amazon, Google, Huawei, Alibaba, Azure and CloudFront.
        """
        fields = parse_qsl(self._query.removeprefix("?"), keep_blank_values=True)
        signed = any(_SIGNATURE.fullmatch(name) for name, _ in fields)
        return urlencode(
            [field for field in fields if not (signed and _SIGNING.fullmatch(field[0]))]
        )

    @property
    def scheme(self) -> str:
        """Such as ``s3``, in lower case."""
        return self.text.partition("://")[0].lower()

    @property
    def name(self) -> str:
        """The last part."""
        return self._before_query.rstrip("/")[self._path_start :].rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The end of the name, from the last point on."""
        return Path(self.name).suffix

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return Path(self.name).stem

    @property
    def parent(self) -> Address:
        """The folder around it; a bucket's is itself."""
        path = self._before_query.rstrip("/")
        cut = path.rfind("/", self._path_start)
        return Address(path[: cut if cut >= 0 else None])

    def exists(self) -> bool:
        """Whether a file or folder is there."""
        from oculox.addresses.storage import describe

        return describe(self) is not None

    def is_file(self) -> bool:
        """Whether a file is there."""
        from oculox.addresses.storage import describe

        return (describe(self) or {}).get("type") == "file"

    def is_dir(self) -> bool:
        """Whether a folder is there: something has an address below it."""
        from oculox.addresses.storage import describe

        return (describe(self) or {}).get("type") == "directory"

    def read_bytes(self) -> bytes:
        """The content, out of the cache where that has it, whatever it is now at the address.

        Raises:
            AddressError: it cannot be fetched.
        """
        from oculox.addresses.cache import open_cached

        with open_cached(self) as file:
            return file.read()

    def read_text(self, encoding: str = "utf-8") -> str:
        """The content as it is now at the address.

        Raises:
            AddressError: it cannot be fetched.
            UnicodeDecodeError: it is not text.
        """
        from oculox.addresses.cache import local_copy

        return local_copy(self).read_text(encoding)

    @property
    def _path_start(self) -> int:
        """Where the part after scheme and bucket (or server) begins."""
        start = self.text.index("://") + 3
        cut = self._before_query.find("/", start)
        return len(self._before_query) if cut < 0 else cut

    @property
    def _before_query(self) -> str:
        # Only in web addresses: elsewhere a question mark is part of a name.
        return self.text.partition("?")[0] if self.scheme in WEB_SCHEMES else self.text

    @property
    def _query(self) -> str:
        return self.text[len(self._before_query) :]


Location = Path | Address


def is_address(value: object) -> bool:
    """Whether it is an `Address`, or a text with ``://`` after a name of two letters or more."""
    return isinstance(value, Address) or (
        isinstance(value, str) and _ADDRESS.match(value) is not None
    )


def as_text(location: Location) -> str:
    """What `to_location` takes; of an address the whole, for no message or log."""
    return location.text if isinstance(location, Address) else str(location)


def to_location(value: str | Path | Address) -> Location:
    """What a text means: an address, else a path.

    Raises:
        UsageError: it is a path that was made of an address, and has lost a slash; or an address
            with ``.`` or ``..`` among its folders, which storages take for names, or with half of
            a pair of brackets.
    """
    if isinstance(value, Address):
        return value
    if isinstance(value, str):
        if not is_address(value):
            return Path(value)
        address = Address(value)
        try:
            urlsplit(value)
        except ValueError as error:
            shown = re.sub(r"//[^/]*@", "//", value.partition("?")[0])
            raise UsageError(f"{shown}: not a URL ({error})") from None
        if {".", ".."} & set(address._before_query.split("/")):
            raise UsageError(f"{address}: expected a URL without '.' and '..' between slashes")
        return address
    return require_local(value)
