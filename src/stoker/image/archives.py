"""The two archives of Debian: the specification's mirrors, else those that the host's own apt is set up with. No lock holds their addresses."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stoker.errors import SpecificationBroken
from stoker.image.lock import Deb
from stoker.image.specification import Mirrors
from stoker.image.web import Web
from stoker.shell import run

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""Where the package debian-archive-keyring puts Debian's keys."""

_SCHEMES = ("http://", "https://", "file:/", "copy:/")
# The host may run another release than the image: its mirror has them all.
_SUITES = ("stable", "testing", "unstable", "sid", "bullseye", "bookworm", "trixie", "forky")


@dataclass(frozen=True, kw_only=True)
class Archives:
    """Where Debian's packages come from."""

    debian: str
    """An address without a slash at its end."""
    security: str
    keyring: Path = KEYRING
    """The keys that must have signed them."""

    def address(self, deb: Deb) -> str:
        """Return where a package lies."""
        # A mirror is asked for the name as apt asks for it: only `%` and blanks would have to be quoted, and no package has them.
        return f"{self.security if deb.archive == 'security' else self.debian}/{deb.file}"


def find_archives(mirrors: Mirrors) -> Archives:
    """Return the specification's mirrors, else those of the host's apt. Raises SpecificationBroken when neither names one, ProgramMissing."""
    found = {} if mirrors.debian and mirrors.security else _host_archives()
    debian = mirrors.debian or found.get("debian")
    if not debian:
        raise SpecificationBroken(
            "this machine's apt knows no mirror of Debian",
            hint="name one in stoker.toml: [image.mirrors] debian = ..., security = ...",
        )
    # Debian's own mirrors keep the two side by side under these names, and so do most others.
    security = mirrors.security or (None if mirrors.debian else found.get("security")) or f"{debian.rstrip('/')}-security"
    return Archives(debian=_address(debian), security=_address(security))


def _address(mirror: str) -> str:
    mirror = mirror.rstrip("/")
    if mirror.startswith("/"):
        return f"file://{mirror}"
    if not mirror.startswith(_SCHEMES) or any(letter.isspace() or letter in "'\"[]" for letter in mirror):
        raise SpecificationBroken(f"{mirror!r} is no address of a Debian mirror", hint="a mirror is http://..., https://..., file:///... or a path")
    return mirror


def _host_archives() -> dict[str, str]:
    """Return the mirrors of Debian that the host's apt is set up with, by `debian` and `security`."""
    asked = run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"], timeout_s=30)
    if asked.code is None:
        return {}
    found: dict[str, str] = {}
    for line in asked.out.splitlines():
        address, _, suite = line.strip().partition(" ")
        if not address.startswith(_SCHEMES):
            continue
        if suite.endswith("-security") and suite.removesuffix("-security") in _SUITES:
            found.setdefault("security", address)
        elif suite.removesuffix("-updates") in _SUITES:
            found.setdefault("debian", address)
    return found


def apt_web(environ: Mapping[str, str]) -> Web:
    """Return connections that go apt's way to the mirrors: through its proxies, with its certificates and logins, else as `environ` says."""
    said = run(["apt-config", "dump"], timeout_s=30).out
    texts = []
    for file in (Path("/etc/apt/auth.conf"), *sorted(Path("/etc/apt/auth.conf.d").glob("*.conf"))):
        with contextlib.suppress(OSError, UnicodeDecodeError):  # a file for root's eyes
            texts.append(file.read_text())
    return Web(apt_environment(environ, said), apt_logins("\n".join(texts)))


def apt_environment(environ: Mapping[str, str], said: str) -> dict[str, str]:
    """Return the environment with the proxies and certificates that `apt-config dump` says: for apt, they come before the environment's."""
    changed = {name: value for name, value in environ.items() if name not in ("HTTP_PROXY", "HTTPS_PROXY")}
    for scheme in ("http", "https"):
        if upper := environ.get(f"{scheme.upper()}_PROXY"):
            changed.setdefault(f"{scheme}_proxy", upper)
    for key, value in re.findall(r'^Acquire::(https?::Proxy|https::CaInfo) "(.+)";$', said, re.MULTILINE):
        if key == "https::CaInfo":
            changed["CURL_CA_BUNDLE"] = value
        else:
            changed[f"{key.partition(':')[0]}_proxy"] = "" if value == "DIRECT" else value
    return changed


def apt_logins(text: str) -> dict[str, tuple[str, str]]:
    """Return host (with port) -> (user, password) of `auth.conf` (apt_auth.conf(5)); a path behind the host is not looked at."""
    rows = re.findall(r"machine\s+(?:https?://)?([^/\s]+)\S*\s+login\s+(\S+)\s+password\s+(\S+)", text)
    return {host: (user, password) for host, user, password in rows}
