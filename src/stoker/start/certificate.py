"""The certificate of JupyterLab: the one that is mounted, or one of its own, made at the first start and signed by itself."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stoker import shell
from stoker.errors import ServiceUnfit

CERTIFICATE = Path("/run/stoker/tls.crt")
KEY = Path("/run/stoker/tls.key")
CERTIFICATE_VARIABLE = "STOKER_TLS_CERTIFICATE_FILE"
KEY_VARIABLE = "STOKER_TLS_KEY_FILE"
NAMES_VARIABLE = "STOKER_NAMES"
"""Names and addresses under which people reach the container, separated by spaces or commas."""

DAYS = 397
"""The longest life that browsers accept (CA/Browser Forum, Baseline Requirements 6.3.2)."""
RENEW_DAYS = 30
_FILE = "tls.pem"
_CONTAINER_ID = re.compile(r"[0-9a-f]{12}")
_NAME = re.compile(r"(?!-)[A-Za-z0-9_*-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_REQUEST = """\
[req]
prompt = no
distinguished_name = name
x509_extensions = extensions
[name]
CN = {common}
[extensions]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = {names}
"""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Files that a TLS server needs."""

    certificate: Path
    key: Path
    fingerprint: str | None
    """SHA-256, of one that was made here: people compare it with what their browser shows. None: mounted."""


def server_names(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names and addresses of this container. Raises ServiceUnfit for what is neither.

    A hostname that is the container's id counts as none: nobody uses it, and a new one would mean a new certificate for each container.
    """
    given = re.split(r"[\s,]+", environment.get(NAMES_VARIABLE, "").strip())
    for name in filter(None, given):
        if not is_address(name) and not _NAME.fullmatch(name):
            raise ServiceUnfit(f"{NAMES_VARIABLE}: {name!r} is neither a host's name nor an address", hint="write it as `gpu1.example.org 192.0.2.7`")
    host = socket.gethostname()
    own = [host] if _NAME.fullmatch(host) and not _CONTAINER_ID.fullmatch(host) else []
    return tuple(dict.fromkeys([*filter(None, given), *own, "localhost", "127.0.0.1", "::1"]))


def is_address(name: str) -> bool:
    """Whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def find_certificate(environment: Mapping[str, str], folder: Path, names: Sequence[str]) -> Certificate:
    """Return the mounted certificate, else the one in `folder`, made anew where it does not fit. Raises ServiceUnfit."""
    certificate = Path(environment.get(CERTIFICATE_VARIABLE) or CERTIFICATE)
    key = Path(environment.get(KEY_VARIABLE) or KEY)
    if certificate.exists() or key.exists() or environment.get(CERTIFICATE_VARIABLE) or environment.get(KEY_VARIABLE):
        _check(certificate, key)
        return Certificate(certificate=certificate, key=key, fingerprint=None)
    path = folder / _FILE
    fingerprint = _usable(path, names)
    if fingerprint is None:
        _make(path, names)
        fingerprint = _usable(path, names)
    return Certificate(certificate=path, key=path, fingerprint=fingerprint)


def _check(certificate: Path, key: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:
        raise ServiceUnfit(
            f"the TLS certificate {certificate} with the key {key} cannot be used: {error}",
            hint=f"mount both as PEM files that uid {os.getuid()} may read, the key without a password; without either Stoker makes its own",
        ) from error


def _no_password() -> str:
    # Else OpenSSL would ask on the terminal and the container would hang.
    raise ValueError("the key has a password")


def _usable(path: Path, names: Sequence[str]) -> str | None:
    """Return the fingerprint of a certificate that has all the names and lasts; None: a new one is needed."""
    ends = str(RENEW_DAYS * 86400)
    told = shell.run(
        ["openssl", "x509", "-in", str(path), "-noout", "-fingerprint", "-sha256", "-ext", "subjectAltName", "-checkend", ends], timeout_s=20
    )
    found = re.search(r"Fingerprint=([0-9A-F:]+)", told.out, re.IGNORECASE)
    listed = {_plain(part) for line in told.out.splitlines() for part in line.split(",") if ":" in part}
    return found[1] if told.ok and found and {_plain(_written(name)) for name in names} <= listed else None


def _make(path: Path, names: Sequence[str]) -> None:
    """Make key and certificate in one file, so that a crash or a second container never leaves a key with another one's certificate."""
    common = next((name for name in names if not is_address(name)), "localhost")[:64]
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        request, key, certificate = (Path(place) / name for name in ("request", "key", "certificate"))
        request.write_text(_REQUEST.format(common=common, names=",".join(map(_written, names))))
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-sha256"]
        files = ["-config", str(request), "-keyout", str(key), "-out", str(certificate)]
        done = shell.run(["openssl", "req", "-x509", *curve, "-days", str(DAYS), *files], timeout_s=60)
        if not done.ok:
            last = (done.err.strip() or "no word from openssl").splitlines()[-1]
            raise ServiceUnfit(f"no TLS certificate can be made: {last}", hint=f"mount your own as {CERTIFICATE} and {KEY}")
        both = Path(place) / _FILE
        both.touch(mode=0o600)
        both.write_bytes(key.read_bytes() + certificate.read_bytes())
        os.replace(both, path)


def _written(name: str) -> str:
    return f"IP:{name}" if is_address(name) else f"DNS:{name}"


def _plain(part: str) -> str:
    """Return a name of a certificate so that two ways to write it are equal: openssl writes ::1 as 0:0:0:0:0:0:0:1."""
    kind, _, name = part.strip().partition(":")
    return f"IP {ipaddress.ip_address(name)}" if kind.startswith("IP") and is_address(name) else name.lower()
