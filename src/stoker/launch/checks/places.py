"""Folders and files of this machine that appear inside: whether they are there, who may write to them, and how full their disks are."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from stoker.launch.request import Mount

READ, WRITE, ENTER = 4, 2, 1


@dataclass(frozen=True, kw_only=True)
class Place:
    """What is mounted, as it is here."""

    mount: Mount
    answered: bool = True
    """False: its file system gave no answer in time."""
    error: str | None = None
    """Why it cannot be looked at, as `No such file or directory`."""
    folder: bool = True
    mode: int = 0
    """Permission bits."""
    uid: int = 0
    gid: int = 0
    rules: bool = False
    """Whether it has an access list of its own, which the bits do not tell of."""
    read_only: bool = False
    """Whether its file system is."""

    def allows(self, uid: int, gid: int) -> int | None:
        """Return what the bits allow to an account without further groups, as READ | WRITE | ENTER; None: they do not decide."""
        if uid == 0 or self.rules:
            return None
        return self.mode >> (6 if uid == self.uid else 3 if gid == self.gid else 0) & 7


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The file system under a folder."""

    use: str
    """project, home, podman's storage."""
    folder: Path
    """Where it does not exist yet: its nearest parent."""
    device: int
    """Equal for two folders of one file system."""
    free_bytes: int
    files_free: int | None
    """Files that can still be made; None: any number."""


def read_place(mount: Mount) -> Place:
    """Look at what is mounted. Raises nothing."""
    try:
        status, volume = os.stat(mount.source), os.statvfs(mount.source)
    except OSError as error:
        return Place(mount=mount, error=error.strerror or str(error))
    return Place(
        mount=mount,
        folder=stat.S_ISDIR(status.st_mode),
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        rules=_has_rules(mount.source),
        read_only=bool(volume.f_flag & os.ST_RDONLY),
    )


def read_disk(use: str, folder: Path) -> Disk | None:
    """Look at the file system under a folder; None: it does not tell."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        volume, device = os.statvfs(folder), os.stat(folder).st_dev
    except OSError:
        return None
    return Disk(
        use=use, folder=folder, device=device, free_bytes=volume.f_frsize * volume.f_bavail, files_free=volume.f_favail if volume.f_files else None
    )


def _has_rules(path: Path) -> bool:
    """Whether there is a POSIX access list, or a file system (NFS 4) whose permissions are not the bits."""
    try:
        return bool({"system.posix_acl_access", "system.nfs4_acl"} & set(os.listxattr(path)))
    except OSError:
        return False
