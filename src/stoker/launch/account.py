"""Who a container runs as: the caller, so that files belong to them."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from pathlib import Path

from stoker.errors import BadValue, LaunchUnfit
from stoker.launch.engine import Engine
from stoker.launch.request import Account
from stoker.settings import data_folder

NAME = "stoker"
IMAGE_UID = 1000
"""The account `stoker` of our images, user and group."""
HOME = "/home/stoker"
"""The home inside, for every uid."""
KEEP_ID_UID = (4, 3)
"""Podman that takes `keep-id:uid=,gid=`; older ones keep the caller's own number."""

_USER = r"([0-9]{1,10})(?::([0-9]{1,10}))?"
_LARGEST = 2**32 - 2
_FIT_NAME = r"[a-z_][a-z0-9_-]{0,30}"
_FIRST_PERSON = 1000
"""Debian and Fedora number people from here; below are accounts that an image may have under the same name."""
_PASSWD = (
    "root:*:0:0:root:/root:/bin/bash",
    "sshd:*:100:65534::/run/sshd:/usr/sbin/nologin",
    f"{NAME}:*:{IMAGE_UID}:{IMAGE_UID}:Stoker:{HOME}:/bin/bash",
    "nobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
)
_GROUP = ("root:x:0:", f"{NAME}:x:{IMAGE_UID}:", "nogroup:x:65534:")


def account(
    engine: Engine,
    *,
    user: str | None = None,
    project: Path | None = None,
    files: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Account:
    """Decide who runs inside: `user` as asked (`UID[:GID]`), else the caller; for root the one who called sudo, else the project's owner.

    `files`: the folder for the account files that docker mounts where the image has no account; None: `accounts` in the data folder, since they
    must be there for as long as a container. Raises BadValue, LaunchUnfit.
    """
    asked = _read_user(user) if user is not None else None
    if engine.rootless:
        return _rootless(engine, asked)
    uid, gid = asked or _caller(project, os.environ if environment is None else environment)
    known = uid in (0, IMAGE_UID)
    needed = engine.name == "docker" and not known
    place = (files or data_folder() / "accounts").absolute() if needed else None
    return Account(uid=uid, gid=gid, name=_name(uid, uid), keep_id=False, known=known, host_uid=uid, host_gid=gid, files=place)


def itself() -> Account:
    """Return who runs what is started without a container: this process's own account."""
    uid, gid = os.getuid(), os.getgid()
    return Account(uid=uid, gid=gid, name=_name(uid, uid), keep_id=False, known=True, host_uid=uid, host_gid=gid)


def passwd_entry(account: Account) -> str:
    """Return the account as a line of /etc/passwd. `*`: no password fits, but it is not locked, which sshd would refuse even with a key."""
    return f"{account.name}:*:{account.uid}:{account.gid}:{account.name}:{HOME}:/bin/bash"


def passwd_lines(account: Account) -> tuple[str, ...]:
    """Return the /etc/passwd of an image that does not know the account."""
    return (*_PASSWD, passwd_entry(account))


def group_lines(account: Account) -> tuple[str, ...]:
    """Return the /etc/group of an image that does not know the account."""
    known = any(line.split(":")[2] == str(account.gid) for line in _GROUP)
    return _GROUP if known else (*_GROUP, f"{account.name}:x:{account.gid}:")


def _rootless(engine: Engine, asked: tuple[int, int] | None) -> Account:
    """Without root the caller is the only one outside who can be mapped; who it is inside can be chosen."""
    host_uid, host_gid = os.getuid(), os.getgid()
    if engine.name == "docker":
        if asked and asked[0] != 0:
            raise LaunchUnfit(
                f"rootless docker cannot run as uid {asked[0]}: its files would belong to a subordinate uid, which is nobody's",
                hint="leave out --user (root inside is you outside), or use podman, which can map you to any uid",
            )
        return Account(uid=0, gid=0, name="root", keep_id=False, known=True, host_uid=host_uid, host_gid=host_gid)
    if asked and asked[0] == 0:
        return Account(uid=0, gid=asked[1], name="root", keep_id=False, known=True, host_uid=host_uid, host_gid=host_gid)
    chosen = not engine.version or engine.version >= KEEP_ID_UID
    if asked and not chosen and asked != (host_uid, host_gid):
        raise LaunchUnfit(
            f"podman {'.'.join(map(str, engine.version))} without root runs as your own uid {host_uid} only",
            hint="leave out --user, or update podman to 4.3 or newer",
        )
    uid, gid = asked or ((IMAGE_UID, IMAGE_UID) if chosen else (host_uid, host_gid))
    return Account(uid=uid, gid=gid, name=_name(uid, host_uid), keep_id=True, known=uid == IMAGE_UID, host_uid=host_uid, host_gid=host_gid)


def _read_user(text: str) -> tuple[int, int]:
    match = re.fullmatch(_USER, text.strip())
    uid, gid = (int(match[1]), int(match[2] or match[1])) if match else (-1, -1)
    if not 0 <= uid <= _LARGEST or not 0 <= gid <= _LARGEST:
        raise BadValue(f"--user {text}: not a user's number", hint="write it as UID or UID:GID, as `id -u` and `id -g` print them")
    return uid, gid


def _caller(project: Path | None, environment: Mapping[str, str]) -> tuple[int, int]:
    if os.getuid() != 0:
        return os.getuid(), os.getgid()
    uid, gid = environment.get("SUDO_UID", ""), environment.get("SUDO_GID", "")
    if uid.isdecimal() and gid.isdecimal() and int(uid) != 0:
        return int(uid), int(gid)
    try:
        owner = project.stat() if project else None
    except OSError:
        owner = None
    # A folder that root made and gave away still has root's group, in which nobody else should run.
    return (owner.st_uid, owner.st_gid or owner.st_uid) if owner and owner.st_uid != 0 else (IMAGE_UID, IMAGE_UID)


def _name(uid: int, host_uid: int) -> str:
    """Return the name inside: the image's for uids that it knows, else the caller's own, unless the image may have that for somebody else."""
    if uid in (0, IMAGE_UID):
        return "root" if uid == 0 else NAME
    try:
        name = pwd.getpwuid(host_uid).pw_name
    except KeyError:
        name = ""
    fits = host_uid >= _FIRST_PERSON and re.fullmatch(_FIT_NAME, name) and name not in (NAME, "nobody")
    return name if fits else f"user{uid}"
