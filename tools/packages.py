"""A package index and its wheels: what is listed, a wheel's METADATA, and single files read out of a remote wheel."""

from __future__ import annotations

import datetime
import html
import json
import os
import re
import ssl
import struct
import sys
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from stoker import shell
from stoker.environment.mirror import pip_settings

_LIBRARY = "torch/lib/libtorch_python.so"
_JSON = "application/vnd.pypi.simple.v1+json"
_CODES = re.compile(rb"(?:(?:sm|compute)_\d{2,3}[af]? )+(?:sm|compute)_\d{2,3}[af]?")
_WHEEL = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)(?:-(?P<build>\d[^-]*))?-(?P<python>[^-]+)-(?P<abi>[^-]+)-(?P<platform>[^-]+)\.whl")
_TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A file of the index."""

    name: str
    url: str
    version: str
    build: str | None
    """The build tag: a wheel that was uploaded again has one."""
    python: str
    """As `3.12`, or `3.13t` for the free-threaded one."""
    platform: str
    uploaded: datetime.date | None


# --- the index ------------------------------------------------------------------------------------------------------


def index_address() -> str:
    """Return the address of the index that uv or pip use. Raises RuntimeError when none is configured and there is no pip to ask."""
    own = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL") or pip_settings(os.environ).get("index-url")
    if own:
        return own.rstrip("/")
    for python in (sys.executable, "python3", "python"):
        asked = shell.run([python, "-c", "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"], timeout_s=30)
        if asked.ok:
            return asked.out.strip().rstrip("/")
    raise RuntimeError("no package index is known here: set UV_DEFAULT_INDEX, or install pip")


def fetch(url: str, *, accept: str | None = None, span: tuple[int, int] | None = None) -> bytes:
    """Read an address, or the bytes from span[0] up to span[1]. Raises OSError, also when the server sends a whole file for a span."""
    headers = {"Accept": accept} if accept else {}
    if span:
        headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S, context=_context()) as answer:
        if span and answer.status != 206:
            raise OSError(f"{url} does not answer range requests")
        return bytes(answer.read())


def wheels(index: str, project: str) -> list[Wheel]:
    """Return the wheels of a project for Linux x86_64 and aarch64, from either form of the simple API."""
    url = f"{index}/{project}/"
    body = fetch(url, accept=f"{_JSON}, text/html;q=0.5").decode()
    listed = _from_json(body) if body.lstrip().startswith("{") else _from_html(body)
    return [wheel for name, link, time in listed if (wheel := _wheel(name, urllib.parse.urljoin(url, link), time))]


def _context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or pip_settings(os.environ).get("cert") or None)


def _from_json(body: str) -> Iterator[tuple[str, str, str | None]]:
    for file in json.loads(body)["files"]:
        if not file.get("yanked"):
            yield file["filename"], file["url"], file.get("upload-time")


def _from_html(body: str) -> Iterator[tuple[str, str, str | None]]:
    for attributes, name in re.findall(r"<a\s([^>]*)>([^<]+)</a>", body):
        known = {key: html.unescape(value) for key, value in re.findall(r'([\w-]+)="([^"]*)"', attributes)}
        if "data-yanked" not in known:
            yield html.unescape(name).strip(), known["href"].partition("#")[0], known.get("data-upload-time")


def _wheel(name: str, url: str, uploaded: str | None) -> Wheel | None:
    parts = _WHEEL.fullmatch(name)
    if not parts or not re.search(r"linux.*_(x86_64|aarch64)$|^any$", parts["platform"]):
        return None
    python = re.fullmatch(r"cp3(\d+)", parts["python"])
    plain = f"3.{python[1]}{'t' if parts['abi'].endswith('t') else ''}" if python else parts["python"]
    date = datetime.date.fromisoformat(uploaded[:10]) if uploaded else None
    return Wheel(name=name, url=url, version=parts["version"], build=parts["build"], python=plain, platform=parts["platform"], uploaded=date)


# --- one wheel ------------------------------------------------------------------------------------------------------


def metadata(wheel: Wheel) -> str:
    """Return a wheel's METADATA: the index's own copy (PEP 658), or else read out of the wheel."""
    try:
        return fetch(wheel.url + ".metadata").decode()
    except urllib.error.HTTPError:
        folder = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
        return b"".join(member(wheel.url, f"{folder}/METADATA")).decode()


def architectures(wheel: Wheel) -> tuple[tuple[str, ...], bool]:
    """Return the machine code in a torch wheel, as ("75", "80"), and whether it holds PTX: the list that torch.cuda.get_arch_list() gives."""
    tail, found = b"", b""
    for piece in member(wheel.url, _LIBRARY):
        found = max([found, *_CODES.findall(tail + piece)], key=len)
        tail = (tail + piece)[-1024:]
    codes = found.decode().split()
    if not codes:
        raise OSError(f"{wheel.name}: {_LIBRARY} holds no list of architectures")
    return tuple(code[3:] for code in codes if code.startswith("sm_")), any(code.startswith("compute_") for code in codes)


def member(url: str, name: str) -> Iterator[bytes]:
    """Yield the inflated bytes of one file of a remote zip, reading no more than that file. Raises OSError when it is not there."""
    size = _size(url)
    end = fetch(url, span=(max(0, size - 65_600), size))
    place = end.rfind(b"PK\x05\x06")
    length, start = struct.unpack("<LL", end[place + 12 : place + 20])
    directory = fetch(url, span=(start, start + length))
    position = 0
    while directory[position : position + 4] == b"PK\x01\x02":
        method, packed = (
            struct.unpack("<H", directory[position + 10 : position + 12])[0],
            struct.unpack("<L", directory[position + 20 : position + 24])[0],
        )
        names, extra, comment = struct.unpack("<HHH", directory[position + 28 : position + 34])
        offset = struct.unpack("<L", directory[position + 42 : position + 46])[0]
        if directory[position + 46 : position + 46 + names] == name.encode():
            yield from _inflated(url, offset, packed, method)
            return
        position += 46 + names + extra + comment
    raise OSError(f"there is no {name} in {url.rsplit('/', 1)[-1]}")


def _size(url: str) -> int:
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT_S, context=_context()) as answer:
        return int(answer.headers["Content-Length"])


def _inflated(url: str, offset: int, packed: int, method: int) -> Iterator[bytes]:
    names, extra = struct.unpack("<HH", fetch(url, span=(offset + 26, offset + 30)))
    start = offset + 30 + names + extra
    inflate = zlib.decompressobj(-15)
    for begin in range(start, start + packed, 1 << 22):
        piece = fetch(url, span=(begin, min(begin + (1 << 22), start + packed)))
        yield inflate.decompress(piece) if method == 8 else piece
