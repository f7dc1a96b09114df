"""Files at addresses: ``s3://bucket/key``, ``https://...`` and what else fsspec knows.

Files are read through a folder of limited size that all processes of a machine share, and are
written here first, then sent. Faults of network and storage are tried again for a limited time.

Read from the environment, at every use: ``OCULOX_CACHE`` (see `oculox.files.cache_folder`),
``OCULOX_CACHE_GB`` and ``OCULOX_PATIENCE``, and ``OBS_ENDPOINT``, the server of ``obs://``.
Credentials are those that each storage's own tools find.
"""

from oculox.addresses.address import (
    WEB_PREFIXES,
    Address,
    Location,
    as_text,
    is_address,
    to_location,
)
from oculox.addresses.cache import (
    cache_limit,
    fetch_ahead,
    forget_changed,
    local_copy,
    local_folder,
    on_disk,
    open_cached,
)
from oculox.addresses.faults import AbsentError, AddressError
from oculox.addresses.sending import FileState, file_states, local_output, mirrored
from oculox.addresses.storage import (
    Found,
    attempt,
    list_files,
    list_names,
    open_filesystem,
    remove,
    stamp_at,
    upload,
)

__all__ = [
    "WEB_PREFIXES",
    "AbsentError",
    "Address",
    "AddressError",
    "FileState",
    "Found",
    "Location",
    "as_text",
    "attempt",
    "cache_limit",
    "fetch_ahead",
    "file_states",
    "forget_changed",
    "is_address",
    "list_files",
    "list_names",
    "local_copy",
    "local_folder",
    "local_output",
    "mirrored",
    "on_disk",
    "open_cached",
    "open_filesystem",
    "remove",
    "stamp_at",
    "to_location",
    "upload",
]
