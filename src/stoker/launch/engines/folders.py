"""What of the host is mounted, in no engine's syntax, and the commands that make it where it is not there yet."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from stoker.errors import MountRefused
from stoker.launch.account import HOME, group_lines, passwd_lines
from stoker.launch.command import Option
from stoker.launch.request import Account, Mount, Request

WORKSPACE = "/workspace"
_MAKE_HOME = 'test -d "$0" || install -d -m 700 -o {uid} -g {gid} "$0"'
# Renamed into place, and only once: other containers may have the file mounted.
_WRITE_FILE = 'test -s "$0" || { umask 022 && mkdir -p "${0%/*}" && printf "%s\\n" "$@" > "$0.$$" && mv "$0.$$" "$0"; }'


def folders(request: Request) -> list[tuple[Mount, str]]:
    """Return everything that is mounted, with its reason. Raises MountRefused for what no engine can mount."""
    found = _account_mounts(request.account)
    if request.project is not None:
        found.append((Mount(source=request.project, target=WORKSPACE, writable=True), "the project; what is written there stays"))
    if request.home is not None:
        found.append((Mount(source=request.home, target=HOME, writable=True), "your home in all containers: settings, keys, compile caches"))
    found += [(mount, "yours, to read and write" if mount.writable else "yours, to read") for mount in request.mounts]
    _check(mount for mount, _ in found)
    return found


def made_home(request: Request) -> tuple[Option, ...]:
    """Return the command that makes the home where there is none, for the one who owns what is written there."""
    if request.home is None:
        return ()
    script = _MAKE_HOME.format(uid=request.account.host_uid, gid=request.account.host_gid)
    return (Option(words=("sh", "-c", script, str(request.home)), why="makes the home folder where there is none"),)


def made_account(request: Request) -> tuple[Option, ...]:
    """Return the commands that write the files with the account, where they are not there yet."""
    return tuple(
        Option(words=("sh", "-c", _WRITE_FILE, str(path), *lines), why=f"writes an {target} with your number where there is none")
        for target, (path, lines) in _account_files(request.account).items()
    )


def _account_mounts(account: Account) -> list[tuple[Mount, str]]:
    why = "the image has no account with your number; shells and sshd need one"
    return [(Mount(source=path, target=target), why) for target, (path, _) in _account_files(account).items()]


def _account_files(account: Account) -> dict[str, tuple[Path, tuple[str, ...]]]:
    """Return the account files by their place inside: where they are on the host, and their lines."""
    if account.files is None:
        return {}
    name = f"{account.name}-{account.uid}-{account.gid}"
    return {
        "/etc/passwd": (account.files / f"passwd-{name}", passwd_lines(account)),
        "/etc/group": (account.files / f"group-{name}", group_lines(account)),
    }


def _check(mounts: Iterable[Mount]) -> None:
    taken: dict[str, Path] = {}
    for mount in mounts:
        if any(letter in f"{mount.source}{mount.target}" for letter in "\n\r\0"):
            raise MountRefused(f"{str(mount.source)!r} has a line break in its name, which engines cannot mount", hint="rename it")
        target = mount.target.rstrip("/") or "/"
        if target in taken:
            raise MountRefused(f"{taken[target]} and {mount.source} would both be {target} inside", hint="mount one of them somewhere else")
        taken[target] = mount.source
