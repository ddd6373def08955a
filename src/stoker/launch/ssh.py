"""An SSH box: which keys may log in, and the host key that is trusted because it was read from its home on this machine, not from the network."""

from __future__ import annotations

import hashlib
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stoker import settings, shell
from stoker.errors import LaunchUnfit
from stoker.files import write_text_atomically, writing
from stoker.launch import reach, ssh_entries
from stoker.launch.account import NAME
from stoker.launch.caller import acting, ssh_folder
from stoker.launch.command import Option
from stoker.launch.home import read_kept
from stoker.launch.keys import OWN, Keys, PublicKey
from stoker.launch.request import Mount, Request
from stoker.launch.ssh_config import ENTRIES, Included
from stoker.launch.ssh_entries import Entry
from stoker.launch.up import Up
from stoker.launch.waiting import not_ready, wait_for
from stoker.start.ssh import KEYS, STATE

_HOST_KEY = f"{STATE}/ssh_host_ed25519_key.pub"
_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/]{60,80}={0,2}")
_AGENTS = "stoker"
_ASK_S = 5.0
_STRANGE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Box:
    """An SSH box that answers, and how ssh reaches it."""

    entry: Entry
    included: Included
    started: bool
    """Whether it was started now."""

    @property
    def command(self) -> tuple[str, ...]:
        """What is typed to log in."""
        if self.included.obstacle is None:
            return ("ssh", self.entry.host)
        return ("ssh", "-F", str(ssh_folder() / ENTRIES), self.entry.host)


def complete(request: Request) -> Request:
    """Add the file of the keys that may log in."""
    return replace(request, mounts=(*request.mounts, Mount(source=keys_file(request.name), target=str(KEYS))))


def keys_file(name: str) -> Path:
    """Return the file with the keys that may log in to a box: one for each, so that a box keeps what it was started with."""
    return settings.data_folder().absolute() / "authorized_keys" / name


def keys_commands(name: str, keys: Keys) -> tuple[Option, ...]:
    """Return what `prepare` does as commands to paste, which can be run again."""
    own = str(ssh_folder() / OWN)
    make = 'test -s "$0" || { mkdir -p -m 700 "${0%/*}" && ssh-keygen -q -t ed25519 -N "" -C stoker -f "$0"; }'
    made = [Option(words=("sh", "-c", make, own), why="a key for this machine, which has none of yours")] if keys.lacking else []
    write = 'mkdir -p "${0%/*}" && { cat "$1" && shift && for key; do printf "%s\\n" "$key"; done; } > "$0"'
    words = ("sh", "-c", write, str(keys_file(name)), f"{own}.pub" if keys.lacking else "/dev/null", *(key.line for key in keys.found))
    return (*made, Option(words=words, why="the public keys that may log in"))


def prepare(request: Request, keys: Keys) -> None:
    """Write the file with the keys that may log in. Raises as `make_key`."""
    path = keys_file(request.name)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, "".join(f"{key.line}\n" for key in keys.all()))
    # Another account reads it inside, and there is nothing secret in it.
    path.chmod(0o644)


def wait(up: Up, keys: Keys) -> Box:
    """Return the box as soon as its sshd answers with its own key, with ssh told about it.

    Raises NotReady, LaunchUnfit (it runs already, for other keys), DiskFull, RunFolderUnwritable.
    """
    fitting = _admitted(up, keys.all())
    host_key = wait_for(up, _Door(up=up).answer)
    entry = Entry(
        name=up.container.name,
        engine=up.container.engine,
        address=reach.connectable(up.port.address),
        port=up.port.host,
        user=up.request.account.name if up.request else _user(up),
        host_key=host_key,
        identities=_identities(fitting),
    )
    return Box(entry=entry, included=ssh_entries.add(entry), started=up.started)


def forget(name: str) -> bool:
    """Take away what ssh knows of a box that was stopped or removed; False: there was nothing."""
    keys_file(name).unlink(missing_ok=True)
    return ssh_entries.forget(name)


def _admitted(up: Up, keys: Sequence[PublicKey]) -> Sequence[PublicKey]:
    """Return those of the keys that the box was started for. Raises LaunchUnfit when it is none."""
    try:
        told = keys_file(up.container.name).read_text()
    except OSError:
        return keys
    fitting = [key for key in keys if key.body in told]
    if not fitting:
        name = up.container.name
        raise LaunchUnfit(f"{name} runs already, for other keys than these", hint=f"`stoker stop {name}`, then the same command again")
    return fitting


def _user(up: Up) -> str:
    """Return who logs in to a box that ran before."""
    words = up.keeper.exec_session(up.container, ["id", "-un"], interactive=False, terminal=False, environment=(), folder=None, user=None).words
    return shell.run(list(words), timeout_s=20).out.strip() or NAME


def _identities(keys: Sequence[PublicKey]) -> tuple[Path, ...]:
    """Return a file for each key of this machine; of one that only the agent has, its public half: ssh asks the agent for the other."""
    with acting():
        return tuple(key.identity or _kept(key) for key in keys if key.here)


def _kept(key: PublicKey) -> Path:
    # In a folder of its own: beside the person's keys it would be taken for one of them.
    path = ssh_folder() / _AGENTS / f"{hashlib.sha256(key.body.encode()).hexdigest()[:16]}.pub"
    with writing(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        write_text_atomically(path, f"{key.line}\n")
    return path


@dataclass(kw_only=True)
class _Door:
    """The way in, tried again and again while it starts."""

    up: Up
    strange_since: float | None = None

    def answer(self) -> str | None:
        """Return the host key when the sshd that answers has it; None: not yet. Raises NotReady."""
        home = self.up.container.home
        kept = _KEY.match((read_kept(home, _HOST_KEY) or b"").decode("ascii", "replace")) if home else None
        if kept is None or not _greets(self.up):
            return None
        shown = _shown(self.up)
        if shown is None or kept[0] in shown:
            return kept[0]
        self.strange_since = self.strange_since or time.monotonic()
        if time.monotonic() - self.strange_since > _STRANGE_S:
            raise not_ready(self.up, f"on {self.up.port.text} answers a host key that is not its own")
        return None


def _greets(up: Up) -> bool:
    """Whether an SSH server answers. An engine's proxy takes connections before there is one behind it."""
    try:
        with socket.create_connection((reach.connectable(up.port.address), up.port.host), timeout=_ASK_S) as connection:
            return connection.recv(8).startswith(b"SSH-2.0-")
    except OSError:
        return False


def _shown(up: Up) -> set[str] | None:
    """Return the keys that the server shows; None: nobody here can ask it (no OpenSSH client)."""
    words = ["ssh-keyscan", "-T", f"{_ASK_S:g}", "-t", "ed25519", "-p", str(up.port.host), reach.connectable(up.port.address)]
    told = shell.run(words, timeout_s=2 * _ASK_S)
    return {" ".join(line.split()[1:3]) for line in told.out.splitlines() if not line.startswith("#")} if told.code is not None else None
