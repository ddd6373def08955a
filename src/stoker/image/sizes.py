"""Length and hash of a file that an index tells nothing more about than its address."""

from __future__ import annotations

import hashlib
import http.client
import re

from stoker.errors import DownloadFailed
from stoker.image.web import Web, host_of, why

_STEP_BYTES = 2**20


def file_size(address: str, web: Web) -> int:
    """Return the bytes of a file without fetching it, where the server can say so. Raises DownloadFailed."""
    try:
        with web.open(address, method="HEAD") as reply:
            if reply.status == 200 and reply.length is not None:
                return reply.length
        # A server that knows no HEAD, or does not tell there.
        with web.open(address, headers={"Range": "bytes=0-0"}) as reply:
            total = re.fullmatch(r"bytes \d+-\d+/(\d+)", reply.headers.get("content-range", ""))
            if reply.status == 206 and total:
                return int(total[1])
            if reply.status == 200 and reply.length is not None:
                return reply.length
            status = reply.status
    except (OSError, http.client.HTTPException) as error:
        raise _unknown(address, why(error)) from error
    return hash_and_size(address, web)[1] if status == 200 else _refuse(address, status)


def hash_and_size(address: str, web: Web) -> tuple[str, int]:
    """Return sha256 and bytes of a file by reading it through. Raises DownloadFailed."""
    digest, size, buffer = hashlib.sha256(), 0, memoryview(bytearray(_STEP_BYTES))
    try:
        with web.open(address) as reply:
            if reply.status != 200:
                _refuse(address, reply.status)
            while count := reply.read_into(buffer):
                digest.update(buffer[:count])
                size += count
            if not reply.ended:
                raise _unknown(address, f"it broke off after {size:,} bytes")
    except (OSError, http.client.HTTPException) as error:
        raise _unknown(address, why(error)) from error
    return digest.hexdigest(), size


def _refuse(address: str, status: int) -> int:
    raise _unknown(address, f"status {status}")


def _unknown(address: str, what: str) -> DownloadFailed:
    file = address.rpartition("/")[2].partition("?")[0].partition("#")[0]
    return DownloadFailed(
        f"{host_of(address)} does not say how large {file} is: {what}", hint="run the same command again; another mirror may do better (stoker.toml)"
    )
