"""Addresses opened: http(s) and file, proxies, certificates, redirects, and credentials that are sent but never shown."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import netrc
import os
import re
import socket
import ssl
import threading
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stoker import __version__
from stoker.environment.mirror import pip_settings
from stoker.errors import DownloadFailed

_REDIRECTS = 10
_MAX_PAGE_BYTES = 200 * 2**20
_SECRET = re.compile(r"(?<=://)[^\s/@'\"]*(?:@[^\s/@'\"]*)*@")
_QUERY = re.compile(r"(://[^\s?'\"<>]*)\?[^\s'\"<>)]*")
# As pip's and uv's own.
_TIMEOUT_S = 30.0


def masked(text: str) -> str:
    """Return a text in which no address shows its user, password or query (signed addresses carry their key there)."""
    return _QUERY.sub(r"\1", _SECRET.sub("***@", text))


def host_of(address: str) -> str:
    """Return the place that an address names, for people: a host with its port, or a folder."""
    parts = urllib.parse.urlsplit(address)
    return _host(parts) if parts.scheme in ("http", "https") else masked(address)


def why(error: BaseException) -> str:
    """Say what went wrong with a connection, without secrets."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate cannot be trusted ({error.verify_message})"
    if isinstance(error, socket.gaierror):
        return f"its name is not known ({error.strerror})"
    return masked((isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How connections are made: from uv's, pip's and the usual variables."""

    proxies: Mapping[str, str]
    """Scheme -> the proxy's address."""
    bundle: Path | None
    """A file of certificates that are trusted beside the system's."""
    client_certificate: Path | None
    trusted_hosts: frozenset[str]
    """Hosts whose certificate is not checked: `name` or `name:port`."""
    timeout_s: float
    """How long a silence may last."""


def connection_settings(environ: Mapping[str, str]) -> Settings:
    """Read the variables and pip's files. SSL_CERT_FILE and SSL_CERT_DIR are OpenSSL's own affair."""
    pip = pip_settings(environ)
    proxies = {name[:-6].lower(): value for name, value in sorted(environ.items()) if value and name.lower().endswith("_proxy")}
    if every := pip.get("proxy") or proxies.get("all"):
        proxies = {"http": every, "https": every} | ({} if "proxy" in pip else proxies)
    bundles = (pip.get("cert"), environ.get("REQUESTS_CA_BUNDLE"), environ.get("CURL_CA_BUNDLE"))
    trusted = " ".join((pip.get("trusted-host", ""), environ.get("UV_INSECURE_HOST", "")))
    timeout = environ.get("UV_HTTP_TIMEOUT") or pip.get("timeout") or pip.get("default-timeout") or ""
    certificate = pip.get("client-cert") or environ.get("SSL_CLIENT_CERT")
    return Settings(
        proxies=proxies,
        bundle=next((Path(bundle) for bundle in bundles if bundle and os.path.isfile(bundle)), None),
        client_certificate=Path(certificate) if certificate else None,
        trusted_hosts=frozenset(re.sub(r"^https?://", "", host) for host in trusted.split()),
        timeout_s=float(timeout) if re.fullmatch(r"[1-9]\d*", timeout) else _TIMEOUT_S,
    )


class Reply:
    """An answer: its status, its head and its body, which is read piece by piece."""

    def __init__(self, address: str, status: int, headers: Mapping[str, str], body: http.client.HTTPResponse | io.BufferedReader) -> None:
        self.address = address
        """Where the answer came from in the end, after redirects."""
        self.status = status
        self.headers = headers
        length = headers.get("content-length", "")
        self.length = int(length) if length.isdigit() else None
        """Bytes that the body should have; None: not said."""
        self.ended = False
        """Whether the whole body was read."""
        self._body = body
        # http.client's own count of what is left is wrong after `read1` in Python before 3.12: it waits for more than there is.
        self._left = body.length if isinstance(body, http.client.HTTPResponse) else self.length
        self.ended = self._left == 0

    def read_into(self, view: memoryview) -> int:
        """Fill the view with what there is by now, and return how many bytes that is; 0: the end, or the connection broke off."""
        if self.ended or not len(view):
            return 0
        if isinstance(self._body, http.client.HTTPResponse) and self._body.chunked:
            part = self._body.read1(len(view))
            view[: len(part)] = part
            self.ended = not part
            return len(part)
        source = self._body.fp if isinstance(self._body, http.client.HTTPResponse) else self._body
        count = source.readinto1(view if self._left is None else view[: self._left])
        if self._left is not None:
            self._left -= count
        self.ended = self._left == 0 if self._left is not None else not count
        return count

    def page(self) -> bytes:
        """Return the whole body, unpacked. Raises DownloadFailed when it is no page (too large) or broke off."""
        buffer = memoryview(bytearray(2**16))
        unpack = zlib.decompressobj(47) if self.headers.get("content-encoding") in ("gzip", "deflate") else None
        page = bytearray()
        try:
            while count := self.read_into(buffer):
                page += unpack.decompress(bytes(buffer[:count]), _MAX_PAGE_BYTES) if unpack else buffer[:count]
                if len(page) >= _MAX_PAGE_BYTES:
                    raise self._failed("its page is too large to be one")
        except (http.client.HTTPException, zlib.error) as error:
            raise self._failed(f"its page broke off ({why(error)})") from error
        if not self.ended or (unpack and not unpack.eof):
            raise self._failed("its page broke off")
        return bytes(page)

    def _failed(self, what: str) -> DownloadFailed:
        return DownloadFailed(f"{masked(self.address)}: {what}", hint="run the same command again; another mirror may do better")


class Web:
    """Connections that are kept and used again, by any number of threads.

    `logins`: as `logins_of` returns them; an address that brings its own wins, `~/.netrc` comes last. A login is sent to its own host
    only, whatever a redirect says, and one for https never over plain http.
    """

    def __init__(self, environ: Mapping[str, str], logins: Mapping[str, tuple[str, str]] | None = None) -> None:
        self.settings = connection_settings(environ)
        self._environ = environ
        self._logins = dict(logins or {})
        self._idle: dict[tuple[str, str], list[http.client.HTTPConnection]] = {}
        self._busy: set[http.client.HTTPConnection] = set()
        self._guard = threading.Lock()
        self._closed = False
        self._contexts: dict[bool, ssl.SSLContext] = {}

    @contextlib.contextmanager
    def open(self, address: str, *, headers: Mapping[str, str] | None = None, method: str = "GET", body: bytes | None = None) -> Iterator[Reply]:
        """Yield the answer of an address, whatever its status, after following redirects (a `body` is sent once only, to the address itself).

        Raises OSError and HTTPException.
        """
        asked = {"User-Agent": f"stoker/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity", **(headers or {})}
        for _ in range(_REDIRECTS):
            parts = urllib.parse.urlsplit(address)
            if parts.scheme == "file":
                with _open_file(address, asked) as reply:
                    yield reply
                return
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise http.client.InvalidURL(f"no address that can be fetched: {masked(address)}")
            connection, response = self._send(parts, asked, method, body)
            reply = Reply(address, response.status, {key.lower(): value for key, value in response.headers.items()}, response)
            try:
                target = response.headers.get("Location")
                if response.status in (301, 302, 303, 307, 308) and target and body is None:
                    with contextlib.suppress(DownloadFailed):  # so that the connection can be used again
                        reply.page()
                    found = urllib.parse.urljoin(address, target)
                    if urllib.parse.urlsplit(found).scheme not in ("http", "https"):
                        raise http.client.InvalidURL(f"redirected to {masked(found)}, which is no address of the web")
                    address = found
                    continue
                yield reply
                return
            finally:
                self._give_back(parts, connection, response, ended=reply.ended)
        raise http.client.InvalidURL(f"redirected more than {_REDIRECTS} times")

    def close(self) -> None:
        """End all connections, also those that other threads wait on."""
        with self._guard:
            self._closed = True
            connections = [*self._busy, *(connection for idle in self._idle.values() for connection in idle)]
            self._idle.clear()
        for connection in connections:
            with contextlib.suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)
            if connection not in self._busy:
                connection.close()

    def _send(
        self, parts: urllib.parse.SplitResult, headers: Mapping[str, str], method: str, body: bytes | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send a request over a connection that is kept, or a new one: the other side may have closed a kept one meanwhile."""
        own = dict(headers)
        if login := self._login(parts):
            own["Authorization"] = "Basic " + base64.b64encode(":".join(login).encode()).decode()
        path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._") + (f"?{parts.query}" if parts.query else "")
        proxy = self._proxy(parts)
        if proxy and parts.scheme == "http":
            path = f"http://{_host(parts)}{path}"
            own.update(_proxy_login(proxy))
        while True:
            connection, fresh = self._connection(parts, proxy)
            try:
                connection.request(method, path, body=body, headers=own)
                return connection, connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                self._drop(connection)
                broken = isinstance(error, ConnectionError | http.client.BadStatusLine | http.client.CannotSendRequest)
                if fresh or not broken or self._closed:
                    raise
            except BaseException:
                self._drop(connection)
                raise

    def _connection(self, parts: urllib.parse.SplitResult, proxy: urllib.parse.SplitResult | None) -> tuple[http.client.HTTPConnection, bool]:
        key = (parts.scheme, _host(parts))
        with self._guard:
            if self._closed:
                raise ConnectionAbortedError("stopped")
            kept = self._idle.get(key)
            connection = kept.pop() if kept else self._new(parts, proxy)
            self._busy.add(connection)
            return connection, connection.sock is None

    def _new(self, parts: urllib.parse.SplitResult, proxy: urllib.parse.SplitResult | None) -> http.client.HTTPConnection:
        place = proxy or parts
        host, port = place.hostname or "", place.port
        timeout = self.settings.timeout_s
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=timeout)
        trusted = not self.settings.trusted_hosts.isdisjoint((parts.hostname, _host(parts)))
        connection = http.client.HTTPSConnection(host, port or (80 if proxy else None), timeout=timeout, context=self._context(trusted))
        if proxy:
            connection.set_tunnel(parts.hostname or "", parts.port or 443, headers=_proxy_login(proxy))
        return connection

    def _context(self, trusted: bool) -> ssl.SSLContext:
        if trusted not in self._contexts:
            context = ssl.create_default_context()
            if self.settings.bundle:
                context.load_verify_locations(self.settings.bundle)
            if self.settings.client_certificate:
                context.load_cert_chain(self.settings.client_certificate)
            if trusted:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self._contexts[trusted] = context
        return self._contexts[trusted]

    def _proxy(self, parts: urllib.parse.SplitResult) -> urllib.parse.SplitResult | None:
        address = self.settings.proxies.get(parts.scheme)
        # Of urllib, which knows the forms of `no_proxy`.
        bypass: Callable[..., bool] = vars(urllib.request)["proxy_bypass_environment"]  # which the stubs do not know
        if not address or bypass(_host(parts), dict(self.settings.proxies)):
            return None
        proxy = urllib.parse.urlsplit(address if "://" in address else f"http://{address}")
        if proxy.scheme not in ("http", "https") or not proxy.hostname:
            raise http.client.InvalidURL(f"a proxy of this kind cannot be used: {masked(proxy.geturl())}")
        return proxy

    def _login(self, parts: urllib.parse.SplitResult) -> tuple[str, str] | None:
        if parts.username is not None:
            return urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
        for scheme in ("http", "https") if parts.scheme == "https" else ("http",):
            if found := self._logins.get(f"{scheme}://{_host(parts)}"):
                return found
        path = self._environ.get("NETRC") or (f"{self._environ['HOME']}/.netrc" if self._environ.get("HOME") else "")
        try:
            known = netrc.netrc(path).authenticators(parts.hostname or "") if path else None
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
            return None
        return (known[0], known[2] or "") if known else None

    def _give_back(
        self, parts: urllib.parse.SplitResult, connection: http.client.HTTPConnection, response: http.client.HTTPResponse, *, ended: bool
    ) -> None:
        """Keep a connection whose answer was read to its end."""
        keep = ended and not response.will_close and connection.sock is not None
        response.close()
        with self._guard:
            self._busy.discard(connection)
            if keep and not self._closed:
                self._idle.setdefault((parts.scheme, _host(parts)), []).append(connection)
                return
        connection.close()

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        with self._guard:
            self._busy.discard(connection)
        connection.close()


def logins_of(addresses: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return the logins that addresses bring along, by scheme and host: the files of an index often lie beside it, under addresses without one."""
    found = {}
    for address in addresses:
        parts = urllib.parse.urlsplit(address)
        if parts.username is not None:
            found[f"{parts.scheme}://{_host(parts)}"] = (urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or ""))
    return found


def _host(parts: urllib.parse.SplitResult) -> str:
    return parts.netloc.rpartition("@")[2].lower()


def _proxy_login(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    login = f"{urllib.parse.unquote(proxy.username)}:{urllib.parse.unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(login.encode()).decode()}


@contextlib.contextmanager
def _open_file(address: str, headers: Mapping[str, str]) -> Iterator[Reply]:
    """Yield a file of this machine as if a server that knows ranges had sent it."""
    path = local_path(address)
    start = re.fullmatch(r"bytes=(\d+)-", headers.get("Range", ""))
    with open(path, "rb") as file:
        size, begin = os.fstat(file.fileno()).st_size, int(start[1]) if start else 0
        file.seek(begin)
        head = {"content-length": str(max(size - begin, 0))} | ({"content-range": f"bytes {begin}-{size - 1}/{size}"} if start else {})
        yield Reply(address, 206 if start else 200, head, file)


def local_path(address: str) -> Path:
    """Return the path of a file:// address."""
    return Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path))
