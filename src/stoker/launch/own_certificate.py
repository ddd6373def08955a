"""The TLS certificate that somebody gives to a notebook: whether it and its key can be used, and the names in it."""

from __future__ import annotations

import hashlib
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker.errors import BadValue, MountRefused
from stoker.launch.request import Account


@dataclass(frozen=True, kw_only=True)
class OwnCertificate:
    """A certificate with its key, tried."""

    certificate: Path
    key: Path
    fingerprint: str
    """SHA-256, hexadecimal."""
    names: tuple[str, ...]
    """The hosts in it, without those with a `*`."""


def read_own(certificate: Path, key: Path) -> OwnCertificate:
    """Try a certificate and its key as a server would. Raises BadValue: unreadable, not a pair, with a password, expired, ..."""
    certificate, key = (Path(os.path.abspath(os.path.expanduser(path))) for path in (certificate, key))
    try:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate, key, password=_no_password)
        content, said = _presented(server, certificate)
    except (OSError, ValueError) as error:
        raise BadValue(
            f"the certificate {certificate} with the key {key} cannot be used: {error}",
            hint="give both as PEM files, the certificate first in its file, the key without a password; without either Stoker makes its own",
        ) from error
    hosts = tuple(str(value) for kind, value in said.get("subjectAltName", ()) if kind in ("DNS", "IP Address") and "*" not in value)
    return OwnCertificate(certificate=certificate, key=key, fingerprint=hashlib.sha256(content).hexdigest(), names=hosts)


def need_readable(own: OwnCertificate, account: Account) -> None:
    """Raise MountRefused where the container could not read the files."""
    for path in (own.certificate, own.key):
        status = path.stat()
        bit = 0o400 if status.st_uid == account.host_uid else 0o040 if status.st_gid == account.host_gid else 0o004
        if not status.st_mode & bit:
            raise MountRefused(
                f"{path} cannot be read by uid {account.host_uid}, which the container runs as",
                hint=f"give it a copy of its own: `sudo install -m 600 -o {account.host_uid} {path} ...`",
            )


def _presented(server: ssl.SSLContext, certificate: Path) -> tuple[bytes, dict[str, Any]]:
    """Return the certificate as a client meets it: its bytes and what stands in it. Raises ssl.SSLError, also when it has expired.

    Python reads a certificate only in a connection; this one needs no network. The certificate itself is what the client trusts.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        for side in (asking, answering):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        content = asking.getpeercert(binary_form=True) if asking.version() else None
        if content:
            return content, asking.getpeercert() or {}
    raise ValueError("it was not presented")


def _no_password() -> str:
    # Else OpenSSL would ask on the terminal.
    raise ValueError("the key has a password")
