"""Whether what is to be mounted is there, and may be read and written by who runs inside."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from stoker.doctor.finding import Finding, Severity
from stoker.launch.checks.gathering import Before
from stoker.launch.checks.places import ENTER, READ, WRITE, Place


def mount_missing(before: Before) -> Iterator[Finding]:
    """What is to be mounted is not there, or does not answer."""
    for place in before.places:
        source = place.mount.source
        if not place.answered:
            yield Finding(
                severity=Severity.ERROR,
                what=f"the file system of {source} gives no answer",
                evidence=(f"stat {source}: nothing within a second",),
                consequence="the start hangs as long as it does (a network disk whose server is away?)",
                fix=f"findmnt --target {shlex.quote(str(source))}   # which server; then bring it back, or leave the mount out",
            )
        elif place.error is not None:
            yield Finding(
                severity=Severity.ERROR,
                what=f"{source}, to be {place.mount.target} inside, cannot be mounted: {place.error}",
                evidence=(f"stat {source}: {place.error}",),
                consequence="the engine refuses to start the container",
                fix=f"mkdir -p {shlex.quote(str(source))}"
                if place.mount.writable
                else f"ls -ld {shlex.quote(str(source.parent))}   # is the name right?",
            )


def mount_forbidden(before: Before) -> Iterator[Finding]:
    """Who runs inside may not read what is mounted, or not write where it should."""
    account = before.request.account
    for place in _seen(before):
        allowed = place.allows(account.host_uid, account.host_gid)
        missing = 0 if allowed is None else _needed(place) & ~allowed
        if not missing:
            continue
        path = shlex.quote(str(place.mount.source))
        verb = "write to" if missing & WRITE else "read"
        letters = ("rwx" if place.folder else "rw") if place.mount.writable else ("rx" if place.folder else "r")
        yield Finding(
            severity=Severity.ERROR,
            what=f"uid {account.host_uid}, as which it runs, may not {verb} {place.mount.source} ({place.mount.target} inside)",
            evidence=(
                f"{place.mount.source}: mode {place.mode:04o}, owner {place.uid}:{place.gid}; inside it is {account.host_uid}:{account.host_gid}",
            ),
            consequence="Permission denied, where the program saves or loads" if missing & WRITE else "Permission denied, where the program loads",
            fix=f"sudo chown -R {account.host_uid}:{account.host_gid} {path}\n"
            f"or leave the owner: sudo setfacl -R -m u:{account.host_uid}:{letters} {path}"
            + ("" if before.site.engine.rootless else _as_owner(place)),
        )


def _as_owner(place: Place) -> str:
    return (
        f"\nor run as its owner: --user {place.uid}:{place.gid}" if place.uid else "\nor run as root inside, as is done for programs only: --user 0"
    )


def mount_read_only(before: Before) -> Iterator[Finding]:
    """A folder is to be written to, and its file system is mounted read-only."""
    for place in _seen(before):
        if place.mount.writable and place.read_only:
            yield Finding(
                severity=Severity.ERROR,
                what=f"{place.mount.source} ({place.mount.target} inside) is on a read-only file system",
                evidence=(f"statvfs {place.mount.source}: read-only",),
                consequence='"Read-only file system", where the program saves',
                fix=f"findmnt --target {shlex.quote(str(place.mount.source))}   # then mount it writable; a volume that is only read: add :ro",
            )


def _seen(before: Before) -> list[Place]:
    return [place for place in before.places if place.answered and place.error is None]


def _needed(place: Place) -> int:
    return READ | (ENTER if place.folder else 0) | (WRITE if place.mount.writable else 0)


CHECKS = (mount_missing, mount_forbidden, mount_read_only)
