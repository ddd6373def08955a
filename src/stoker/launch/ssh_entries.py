"""`ssh stoker-NAME`: entries in a file of Stoker's own that `~/.ssh/config` includes, and the host keys that they trust."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stoker import console
from stoker.errors import StokerError
from stoker.files import writing
from stoker.launch.caller import acting, ssh_folder
from stoker.launch.ssh_config import CONFIG, ENTRIES, Included, include, replace_file

HOSTS = "stoker_known_hosts"
_HEAD = "# Written by Stoker, an entry for each container of `stoker up ssh`. What is changed by hand is lost.\n"
_MARK = re.compile(r"# (?P<name>\S+): (?P<origin>\S+ of uid \d+ on \S+)")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What ssh must know to reach one container."""

    name: str
    """The person's name for it; ssh knows it as `stoker-NAME`."""
    engine: str
    address: str
    port: int
    user: str
    host_key: str
    """`ssh-ed25519 AAAA...`"""
    identities: tuple[Path, ...]
    """Files of the keys that may log in; the public half where only the agent has the other."""

    @property
    def host(self) -> str:
        """What is written after `ssh`."""
        return host_of(self.name)


def host_of(name: str) -> str:
    """Return what is written after `ssh` for a container of this name."""
    return f"stoker-{name}"


def add(entry: Entry) -> Included:
    """Write an entry and the host key that it trusts, in the place of an older one of that name. Raises DiskFull, RunFolderUnwritable.

    The key is there before the entry, and the entry before the line that includes it: killed anywhere, ssh finds all of it or nothing.
    """
    with _locked() as folder:
        hosts = [line for line in _lines(folder / HOSTS) if line.split(" ", 1)[0] != entry.host]
        _write(folder / HOSTS, "".join(f"{line}\n" for line in [*hosts, f"{entry.host} {entry.host_key}"]))
        blocks = [block for block in _blocks(folder / ENTRIES) if _name(block) != entry.name]
        _write(folder / ENTRIES, _HEAD + "".join(f"\n{block}\n" for block in [*blocks, entry_text(entry, folder)]))
        return include(folder)


def entry_text(entry: Entry, folder: Path) -> str:
    """Return an entry as ssh_config(5) has it. Stoker's file is included first, and of every option ssh takes the first value that it finds."""
    options = [
        ("HostName", entry.address),
        ("Port", str(entry.port)),
        ("User", entry.user),
        # A proxy or jump host that the person has for all hosts does not lead to this machine.
        ("ProxyCommand", "none"),
        ("HostKeyAlias", entry.host),
        ("UserKnownHostsFile", _path(folder / HOSTS)),
        ("StrictHostKeyChecking", "yes"),
        *(("IdentityFile", _path(path)) for path in entry.identities),
        # sshd hangs up after three wrong keys: an agent with many others would not come to the right one.
        ("IdentitiesOnly", "yes"),
    ]
    return "\n".join([f"# {entry.name}: {_origin(entry.engine)}", f"Host {entry.host}", *(f"    {name} {value}" for name, value in options)])


def forget(name: str) -> bool:
    """Take away the entry of a container, and its host key; False: there was none. What cannot be done is a warning."""
    return bool(_take_away(lambda known, origin: known == name))


def written() -> object:
    """Return what tells the entries of this moment from those after somebody has written any, for `clean`. Raises nothing."""
    with contextlib.suppress(OSError), acting():
        status = (ssh_folder() / ENTRIES).stat()
        return status.st_ino, status.st_mtime_ns
    return None


def clean(before: object, alive: Iterable[str], engines: Iterable[str]) -> tuple[str, ...]:
    """Take away the entries of containers that are gone, and return their names.

    `before` is what `written` said before the engines were asked: an entry that was written since may be of a box that was
    started since, and then all stay until the next time.
    `alive` are the names of the SSH boxes that there are, `engines` the engines that were asked: entries of others, of other people's engines and of
    other machines with this home folder stay.
    """
    there, asked = set(alive), {_origin(engine) for engine in engines}
    return _take_away(lambda known, origin: known not in there and origin in asked and written() == before)


def _take_away(chosen: Callable[[str, str], bool]) -> tuple[str, ...]:
    try:
        with acting():
            # Nearly always there is nothing to do, and nothing is to be locked, written or made for that.
            if not any(_chosen(block, chosen) for block in _blocks(ssh_folder() / ENTRIES)):
                return ()
        with _locked() as folder:
            blocks = _blocks(folder / ENTRIES)
            gone = [_name(block) for block in blocks if _chosen(block, chosen)]
            _write(folder / ENTRIES, _HEAD + "".join(f"\n{block}\n" for block in blocks if not _chosen(block, chosen)))
            hosts = [line for line in _lines(folder / HOSTS) if line.split(" ", 1)[0] not in map(host_of, gone)]
            _write(folder / HOSTS, "".join(f"{line}\n" for line in hosts))
            return tuple(gone)
    except (OSError, StokerError) as error:
        console.warn(f"an entry of a container that is gone stays in {ssh_folder() / ENTRIES}: {error}")
        return ()


def _chosen(block: str, chosen: Callable[[str, str], bool]) -> bool:
    mark = _MARK.match(block)
    return mark is not None and chosen(mark["name"], mark["origin"])


def _name(block: str) -> str:
    mark = _MARK.match(block)
    return mark["name"] if mark else ""


def _origin(engine: str) -> str:
    """Return what tells the containers of one engine from others: home folders are shared by machines, and each person's podman is another one."""
    return f"{engine} of uid {os.getuid()} on {socket.gethostname() or 'localhost'}"


def _path(path: Path) -> str:
    """Return a path as one word of ssh_config, where % begins a token."""
    return '"' + str(path).replace("%", "%%") + '"'


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return []


def _blocks(path: Path) -> list[str]:
    """Return the entries of Stoker's file; each begins with its mark and ends before the next."""
    blocks: list[list[str]] = []
    for line in _lines(path):
        if _MARK.fullmatch(line):
            blocks.append([])
        if blocks and line.strip():
            blocks[-1].append(line)
    return ["\n".join(block) for block in blocks]


def _write(path: Path, text: str) -> None:
    replace_file(path, text.encode(errors="surrogateescape"), 0o600)


@contextlib.contextmanager
def _locked() -> Iterator[Path]:
    """Have the person's ssh folder for oneself, as that person."""
    with acting():
        folder = ssh_folder()
        with writing(folder / ENTRIES):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # A network disk without locks: then the last of two at once wins, whole.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                _sweep(folder)
            yield folder
        finally:
            os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove what a killed process left: whoever writes one of these files holds the lock."""
    for name in (ENTRIES, HOSTS, CONFIG):
        for left in folder.glob(f".{name}.*.tmp"):
            left.unlink(missing_ok=True)
