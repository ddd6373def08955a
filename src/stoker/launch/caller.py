"""The person at the terminal, whose `~/.ssh` and browser are used: under sudo the one who called it, not root."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SSH_VARIABLE = "STOKER_SSH_FOLDER"
"""Another folder than `~/.ssh`: for tests, and for accounts whose home cannot be written to."""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """An account of this machine."""

    uid: int
    gid: int
    home: Path
    """As the account has it: ssh looks there, whatever HOME says."""


def caller() -> Caller:
    """Return who types."""
    uid = os.getuid()
    sudo = os.environ.get("SUDO_UID", "")
    if uid == 0 and sudo.isdecimal():
        uid = int(sudo)
    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        return Caller(uid=os.getuid(), gid=os.getgid(), home=Path.home())
    return Caller(uid=uid, gid=account.pw_gid, home=Path(account.pw_dir))


def ssh_folder() -> Path:
    """Return the folder in which the person's ssh looks."""
    return Path(os.environ.get(SSH_VARIABLE) or caller().home / ".ssh").absolute()


@contextlib.contextmanager
def acting() -> Iterator[None]:
    """Touch files as the person: root that writes into a folder of somebody else's would follow the links that lie there."""
    who = caller()
    if os.geteuid() != 0 or who.uid == 0:
        yield
        return
    uid, gid, groups = os.geteuid(), os.getegid(), os.getgroups()
    os.setgroups([who.gid])
    os.setegid(who.gid)
    os.seteuid(who.uid)
    try:
        yield
    finally:
        os.seteuid(uid)
        os.setegid(gid)
        os.setgroups(groups)
