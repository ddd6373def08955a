"""JupyterLab of a container: asked over TLS with its own certificate as the only one that counts, and the one address that opens it."""

from __future__ import annotations

import contextlib
import hashlib
import html
import http.client
import re
import socket
import ssl
import time
import urllib.parse
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from stoker import settings, shell
from stoker.errors import NotReady
from stoker.files import write_text_atomically
from stoker.launch import reach
from stoker.launch.home import read_kept
from stoker.launch.own_certificate import OwnCertificate, need_readable
from stoker.launch.request import Mount, Port, Request
from stoker.launch.up import Up
from stoker.launch.waiting import not_ready, wait_for
from stoker.start.certificate import CERTIFICATE, KEY, NAMES_VARIABLE
from stoker.start.notebook import STATE

_TOKEN, _CERTIFICATE = f"{STATE}/token", f"{STATE}/tls.pem"
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_TOKEN_TEXT = re.compile(r"[!-~]{16,512}")
_ASK_S = 5.0
_INSIDE_S = 20.0
_STRANGE_S = 20.0
"""How long another certificate than expected may answer: meanwhile the notebook ends when somebody else has its port, and says so itself."""


@dataclass(frozen=True, kw_only=True)
class Notebook:
    """A JupyterLab that answers."""

    name: str
    host: str
    """As a browser names it."""
    port: int
    token: str = field(repr=False)
    fingerprint: str
    """SHA-256 of its certificate, as browsers show it: `AB:CD:...`"""
    started: bool
    """Whether it was started now."""

    @property
    def page(self) -> str:
        """Where it is, without the token."""
        return f"https://{reach.in_address(self.host)}:{self.port}/lab"

    @property
    def address(self) -> str:
        """What opens it in a browser."""
        return f"{self.page}?token={urllib.parse.quote(self.token, safe='')}"


def complete(request: Request, own: OwnCertificate | None) -> Request:
    """Add the certificate that somebody gave, and the names under which others reach it: Jupyter refuses to answer to any other name.

    Raises MountRefused where the container could not read the certificate or its key.
    """
    if own:
        need_readable(own, request.account)
    names = tuple(dict.fromkeys([*(own.names if own else ()), *(name for port in request.ports for name in reach.names(port.address))]))
    given = (Mount(source=own.certificate, target=str(CERTIFICATE)), Mount(source=own.key, target=str(KEY))) if own else ()
    fixed = ((NAMES_VARIABLE, " ".join(names)),) if names else ()
    return replace(request, mounts=(*request.mounts, *given), fixed=(*request.fixed, *fixed))


def wait(up: Up, own: OwnCertificate | None) -> Notebook:
    """Return the notebook as soon as it answers to its token. Raises NotReady."""
    door = _Door(up=up, own=own)
    token, fingerprint = wait_for(up, door.answer)
    return Notebook(
        name=up.container.name,
        host=_host(up.port.address, own),
        port=up.port.host,
        token=token,
        fingerprint=":".join(re.findall("..", fingerprint.upper())),
        started=up.started,
    )


def open_page(notebook: Notebook) -> bool:
    """Open the notebook in the person's browser; False: there is none here.

    The browser is given a file of mode 0600 that leads there: its command line can be read by everybody on this machine.
    """
    path = settings.cache_folder() / "open" / f"{notebook.name}.html"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    address = html.escape(notebook.address)
    write_text_atomically(path, f'<meta charset="utf-8"><meta http-equiv="refresh" content="0; url={address}"><a href="{address}">JupyterLab</a>\n')
    path.chmod(0o600)
    return webbrowser.open(path.as_uri())


def _unverified() -> ssl.SSLContext:
    """Verify neither by a name nor by an authority: the fingerprint is compared before the first byte is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@dataclass(kw_only=True)
class _Door:
    """The way in, tried again and again while it starts."""

    up: Up
    own: OwnCertificate | None
    strange_since: float | None = None
    context: ssl.SSLContext = field(default_factory=_unverified)

    def answer(self) -> tuple[str, str] | None:
        """Return token and fingerprint when the notebook answers to that token; None: not yet. Raises NotReady."""
        token = self._token()
        if token is None:
            return None
        try:
            with _connected(self.up.port, self.context) as (connection, fingerprint):
                if not self._is_known(fingerprint):
                    self._note_strange()
                    return None
                connection.request("GET", "/api/status", headers={"Authorization": f"token {token}"})
                status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        if status in (401, 403):
            raise not_ready(self.up, f"it refuses the token in {self.up.container.home}/{_TOKEN}: it was started with another one")
        return (token, fingerprint) if status == 200 else None

    def _token(self) -> str | None:
        home = self.up.container.home
        if home is None:
            raise NotReady(f"{self.up.container.name} was started without a home: its token is inside", hint="start it anew, with a home")
        text = (read_kept(home, _TOKEN) or b"").decode("ascii", "replace").strip()
        return text if _TOKEN_TEXT.fullmatch(text) else None

    def _is_known(self, fingerprint: str) -> bool:
        return any(fingerprint == pinned for pinned in self._pins())

    def _pins(self) -> Iterator[str]:
        """Yield the fingerprints that it may have: of what was given now, of what its start keeps in the home, of what was mounted once."""
        container = self.up.container
        if self.own:
            yield self.own.fingerprint
        if container.home:
            yield from _fingerprints(read_kept(container.home, _CERTIFICATE) or b"")
        if container.engine != "local":
            words = ["cat", str(CERTIFICATE)]
            session = self.up.keeper.exec_session(container, words, interactive=False, terminal=False, environment=(), folder=None, user=None)
            yield from _fingerprints(shell.run(list(session.words), timeout_s=_INSIDE_S).out.encode())

    def _note_strange(self) -> None:
        self.strange_since = self.strange_since or time.monotonic()
        if time.monotonic() - self.strange_since > _STRANGE_S:
            raise not_ready(self.up, f"on {self.up.port.text} answers a certificate that is not its own; the token was not sent there")


@contextlib.contextmanager
def _connected(port: Port, context: ssl.SSLContext) -> Iterator[tuple[http.client.HTTPSConnection, str]]:
    """Yield a connection on which nothing was said yet, with the fingerprint of the other side."""
    connection = http.client.HTTPSConnection(reach.connectable(port.address), port.host, timeout=_ASK_S, context=context)
    try:
        connection.connect()
        assert isinstance(connection.sock, ssl.SSLSocket)
        yield connection, hashlib.sha256(connection.sock.getpeercert(binary_form=True) or b"").hexdigest()
    finally:
        connection.close()


def _fingerprints(pem: bytes) -> Iterator[str]:
    """Yield the fingerprint of the first certificate of a PEM text: a server shows that one as its own."""
    for found in _PEM.findall(pem)[:1]:
        try:
            yield hashlib.sha256(ssl.PEM_cert_to_DER_cert(found.decode("ascii"))).hexdigest()
        except ValueError:
            return


def _host(address: str, own: OwnCertificate | None) -> str:
    """Return the host by which a browser reaches it."""
    if reach.is_loopback(address):
        return "localhost" if own and "localhost" in own.names else address
    candidates = [*(own.names if own else ()), *reach.names(address)]
    # The short name of a machine is known to nobody else; an address is.
    return next((name for name in candidates if "." in name or ":" in name), socket.gethostname())
