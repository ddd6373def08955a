"""The pages of package indexes: the Simple API as JSON (PEP 691) or HTML (PEP 503), and find-links pages and folders."""

from __future__ import annotations

import html.parser
import http.client
import json
import re
import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker.errors import DownloadFailed
from stoker.image.web import Web, host_of, local_path, masked, why

_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"
_ATTEMPTS = 4


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A file that an index has."""

    file: str
    address: str
    """Where it lies; may hold a login: show it with `web.masked`."""
    sha256: str | None
    """None: the index does not say."""
    size: int | None
    """In bytes; None: the index does not say."""


def as_address(place: str) -> str:
    """Return an address for what may be a path: `~/wheels`, `/srv/wheels`, `file:///srv/wheels`, `https://...`."""
    return place if "://" in place else Path(place).expanduser().absolute().as_uri()


def project_offers(address: str, name: str, web: Web) -> list[Offer]:
    """Return the files of a project at a Simple API; none when the index does not have it. Raises DownloadFailed."""
    page = f"{address.rstrip('/')}/{name}/"
    if page.startswith("file://"):
        folder = local_path(page)
        return flat_offers((folder / "index.html").as_uri() if (folder / "index.html").is_file() else page, web) if folder.is_dir() else []
    return _page_offers(page, web, absent=[])


def flat_offers(address: str, web: Web) -> list[Offer]:
    """Return the wheels of a find-links folder or page. Raises DownloadFailed."""
    if address.startswith("file://"):
        path = local_path(address)
        if path.is_dir():
            # Its hash is found out when it is fetched.
            return [Offer(file=one.name, address=one.as_uri(), sha256=None, size=one.stat().st_size) for one in sorted(path.glob("*.whl"))]
        if not path.is_file():
            raise DownloadFailed(
                f"there is nothing at {path}, where wheels should be", hint="correct the mirror in stoker.toml, or the setting of pip or uv"
            )
    return _page_offers(address, web, absent=None)


def _page_offers(address: str, web: Web, *, absent: list[Offer] | None) -> list[Offer]:
    """Fetch and read one page. `absent`: what a 404 means; None: an error."""
    for attempt in range(_ATTEMPTS):
        last = attempt == _ATTEMPTS - 1
        try:
            with web.open(address, headers={"Accept": _ACCEPT, "Accept-Encoding": "gzip"}) as reply:
                if reply.status in (404, 410) and absent is not None:
                    return absent
                if reply.status == 200:
                    kind = reply.headers.get("content-type", "")
                    return read_page(reply.page(), kind, reply.address)
                if last or (reply.status not in (408, 429) and reply.status < 500):
                    raise _refused(address, reply.status)
        except (OSError, http.client.HTTPException, ValueError, DownloadFailed) as error:
            if last or isinstance(error, http.client.InvalidURL | ValueError | DownloadFailed):
                raise error if isinstance(error, DownloadFailed) else _unread(address, error) from error
        time.sleep(0.3 * 3**attempt)
    raise AssertionError("the last attempt raises")


def read_page(page: bytes, kind: str, address: str) -> list[Offer]:
    """Return the wheels that a page lists: JSON (PEP 691) or HTML (PEP 503). Raises ValueError for what is neither."""
    if "json" in kind:
        try:
            files = json.loads(page)["files"]
            return [_json_offer(file, address) for file in files if str(file["filename"]).endswith(".whl")]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"JSON, but no list of files: {error}") from error
    links = _Links(address)
    links.feed(page.decode(errors="replace"))
    return links.offers


def _json_offer(file: dict[str, Any], address: str) -> Offer:
    size = file.get("size")
    return Offer(
        file=str(file["filename"]),
        address=urllib.parse.urljoin(address, str(file["url"])),
        sha256=file.get("hashes", {}).get("sha256"),
        size=size if isinstance(size, int) else None,
    )


class _Links(html.parser.HTMLParser):
    """The links to wheels on a page."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.offers: list[Offer] = []
        self._base = address

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href")
        if not target:
            return
        if tag == "base":
            self._base = urllib.parse.urljoin(self._base, target)
        elif tag == "a":
            address, _, fragment = urllib.parse.urljoin(self._base, target.strip()).partition("#")
            file = file_of(address)
            if file.endswith(".whl"):
                digest = re.fullmatch(r"sha256=([0-9a-f]{64})", fragment)
                self.offers.append(Offer(file=file, address=address, sha256=digest[1] if digest else None, size=None))


def file_of(address: str) -> str:
    return urllib.parse.unquote(urllib.parse.urlsplit(address).path.rpartition("/")[2])


def _refused(address: str, status: int) -> DownloadFailed:
    meaning = {401: "wants a login", 403: "refuses", 404: "has no such page", 407: "is behind a proxy that wants a login"}.get(status, "failed")
    return DownloadFailed(
        f"the package index {host_of(address)} {meaning} (status {status} for {masked(address)})",
        hint="is the address right? A login goes into the address (https://USER:PASSWORD@HOST/...) or into ~/.netrc; it is never shown"
        if status < 500
        else "run the same command again later, or name another mirror (mirrors in stoker.toml)",
    )


def _unread(address: str, error: Exception) -> DownloadFailed:
    what = "did not send a page of an index" if isinstance(error, ValueError) else f"could not be asked: {why(error)}"
    return DownloadFailed(
        f"the package index {host_of(address)} {what}  ({masked(address)})",
        hint="is the network up? Behind a proxy set HTTPS_PROXY; behind a mirror name it in stoker.toml (mirrors) or in UV_DEFAULT_INDEX, and its "
        "certificate in SSL_CERT_FILE. Then run the same command again",
    )
