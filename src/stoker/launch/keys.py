"""Public keys that may log in: those that are named, else the person's own, else one that is made now."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stoker import console, shell
from stoker.errors import DataMissing, ProgramMissing, RunFolderUnwritable, StokerError, UsageError
from stoker.files import write_text_atomically, writing
from stoker.launch.caller import acting, ssh_folder
from stoker.start.home import put_once

OWN = "stoker_ed25519"
MOST = 40
RSA_BITS = 3072
"""Shorter ones are refused by the sshd of our images (RequiredRSASize, start/ssh.py)."""
_RSA_FRAME_BITS = 23 * 8
"""Of the name, the exponent and the lengths (RFC 4253, 6.6)."""
_LINE = re.compile(r"(?P<type>(?:sk-)?(?:ssh|ecdsa)-[a-z0-9-]+(?:@openssh\.com)?)\s+(?P<body>[A-Za-z0-9+/]{40,}={0,2})(?:\s+(?P<comment>.*))?")


@dataclass(frozen=True, kw_only=True)
class PublicKey:
    """A key that may log in."""

    line: str
    """As it stands in authorized_keys."""
    identity: Path | None
    """The private half's file; None: the agent has it, or it is on another machine."""
    here: bool
    """Whether one can log in with it from this machine."""

    @property
    def body(self) -> str:
        """What two writings of one key have in common."""
        return self.line.split()[1]


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The keys that may log in."""

    found: tuple[PublicKey, ...]
    lacking: bool
    """Whether one is to be made: none was named, and none of the person's own is on this machine."""

    def all(self) -> tuple[PublicKey, ...]:
        """Return them with the one that is made now, or was before. Raises as `make_key`."""
        return (*self.found, make_key()) if self.lacking else self.found


def find_keys(named: Sequence[Path]) -> Keys:
    """Return the keys that may log in.

    The person's own are those of the agent, those of `~/.ssh/*.pub` whose private half lies beside them (others may be a colleague's), and those of
    `~/.ssh/authorized_keys`: who has one of these can do all that this person can.
    Raises DataMissing, UsageError (what was named is no public key, or one that sshd refuses).
    """
    with acting():
        agent, folder = _of_agent(), ssh_folder()
        if named:
            bodies = {key.body for key in agent}
            found = [key for path in named for key in _named(Path(os.path.expanduser(path)))]
            return Keys(found=_once(replace(key, here=key.here or key.body in bodies) for key in found), lacking=False)
        own = _once(_strong([*_of_folder(folder), *agent, *_of_file(folder / "authorized_keys")]))[:MOST]
        return Keys(found=own, lacking=not any(key.here for key in own))


def make_key() -> PublicKey:
    """Make an ed25519 key of Stoker's own in the person's ssh folder; two at once end with the same one, and a killed one leaves none.

    Raises ProgramMissing, UsageError, DiskFull, RunFolderUnwritable.
    """
    with acting():
        return _made(ssh_folder())


def _named(path: Path) -> list[PublicKey]:
    """Return the keys of a file; of a private one its public half, which lies beside it."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        if "PRIVATE KEY" in text and path.suffix != ".pub":
            path = path.with_name(f"{path.name}.pub")
            text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataMissing(f"the key {path} cannot be read: {error.strerror}", hint="name the public half: `--key ~/.ssh/id_ed25519.pub`") from error
    found = _read(text, _private(path))
    if not found:
        raise UsageError(f"{path} holds no public key", hint="a line of it looks like `ssh-ed25519 AAAA... name`")
    if not _strong(found):
        raise UsageError(
            f"{path} is an RSA key of fewer than {RSA_BITS} bits, which the image's sshd refuses", hint="make a new one: `ssh-keygen -t ed25519`"
        )
    return _strong(found)


def _of_folder(folder: Path) -> list[PublicKey]:
    # The key of Stoker's own comes last: it is there only because there was no other once.
    files = sorted(folder.glob("*.pub"), key=lambda path: (path.stem == OWN, path.name))
    return [key for path in files for key in _of_file(path)[:1] if key.identity]


def _of_file(path: Path) -> list[PublicKey]:
    try:
        return _read(path.read_text(encoding="utf-8", errors="replace"), _private(path))
    except OSError:
        return []


def _of_agent() -> list[PublicKey]:
    told = shell.run(["ssh-add", "-L"], timeout_s=5)
    return [replace(key, here=True) for key in _read(told.out, None)] if told.ok else []


def _private(public: Path) -> Path | None:
    """Return the private half's file, where it lies beside the public one."""
    path = public.with_suffix("") if public.suffix == ".pub" else public
    return path.absolute() if path != public and path.exists() else None


def _read(text: str, identity: Path | None) -> list[PublicKey]:
    """Return the keys of a text; lines with options (`command=...`) are for other purposes, certificates are no keys."""
    found = (_LINE.fullmatch(line.strip()) for line in text.splitlines())
    return [
        PublicKey(
            line=" ".join(filter(None, (line["type"], line["body"], (line["comment"] or "").strip()))), identity=identity, here=identity is not None
        )
        for line in found
        if line and "-cert-" not in line["type"]
    ]


def _strong(keys: Iterable[PublicKey]) -> list[PublicKey]:
    """Return the keys that sshd accepts."""
    return [key for key in keys if not key.line.startswith("ssh-dss") and not _is_short(key)]


def _once(keys: Iterable[PublicKey]) -> tuple[PublicKey, ...]:
    """Return each key once, as it was found first: with its file, or in the agent."""
    found: dict[str, PublicKey] = {}
    for key in keys:
        found.setdefault(key.body, key)
    return tuple(found.values())


def _is_short(key: PublicKey) -> bool:
    # The modulus is nearly all of an RSA key; base64 has 6 bits a letter.
    return key.line.startswith("ssh-rsa") and (len(key.body) * 6 - _RSA_FRAME_BITS) < RSA_BITS


def _made(folder: Path) -> PublicKey:
    path = folder / OWN
    try:
        with writing(path):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists():
                console.say(f"no key of yours is on this machine, neither in an agent nor in {folder}: {path} is made")
                _make_once(path)
            public = shell.run(["ssh-keygen", "-y", "-P", "", "-f", str(path)], timeout_s=20)
            if not public.ok:
                raise UsageError(f"the key {path} cannot be used: {public.err.strip()}", hint="remove it, or name another one with --key")
            write_text_atomically(path.with_suffix(".pub"), public.out)
    except OSError as error:
        raise RunFolderUnwritable(f"no key can be made in {folder}: {error.strerror}", hint="name one of yours with --key") from error
    return PublicKey(line=public.out.strip(), identity=path, here=True)


def _make_once(path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as place:
        made = Path(place) / path.name
        done = shell.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "stoker", "-f", str(made)], timeout_s=20)
        if not done.ok:
            raise _no_keygen(done.err.strip() or done.out.strip())
        put_once(made, path)


def _no_keygen(told: str) -> StokerError:
    return ProgramMissing(
        f"no key could be made: {told}", hint="install the OpenSSH client (Debian, Ubuntu: apt install openssh-client), or name a key with --key"
    )
