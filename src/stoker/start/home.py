"""Who this process is inside the image, and a home that it can write to, also under `--read-only` or a uid that the image does not know."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stoker.errors import RunFolderUnwritable

_OWN_MODE = 0o700


@dataclass(frozen=True, kw_only=True)
class Person:
    """The account of this process."""

    uid: int
    name: str | None
    """None: the image has no account for this uid."""
    home: Path
    """A folder that can be written to, where there is one."""
    shell: str


def person(environment: Mapping[str, str], *, temporary: Path = Path("/tmp")) -> Person:
    """Return who this process is. Its home is HOME, else the account's, else a folder in /tmp that is made now and only it may enter."""
    uid = os.getuid()
    try:
        account = pwd.getpwuid(uid)
        name, home, shell = account.pw_name, account.pw_dir, account.pw_shell
    except KeyError:
        name, home, shell = None, "/", "/bin/bash"
    folder = Path(environment.get("HOME") or home)
    if not os.access(folder, os.W_OK | os.X_OK):
        folder = _made(temporary / f"home-{uid}") or folder
    return Person(uid=uid, name=name, home=folder, shell=shell or "/bin/bash")


def own_folder(path: Path) -> Path:
    """Make a folder that only this account may enter, and return it. Raises RunFolderUnwritable."""
    try:
        path.mkdir(mode=_OWN_MODE, parents=True, exist_ok=True)
        # A volume may have come with other bits; what is kept there is secret.
        path.chmod(_OWN_MODE)
    except OSError as error:
        raise RunFolderUnwritable(
            f"{path} cannot be made ({error.strerror})",
            hint=f"mount a volume that uid {os.getuid()} may write to at {path.parent.parent}",
        ) from error
    return path


def put_once(made: Path, path: Path) -> None:
    """Give a finished file its name, unless another container with this home was faster: then all use that one's."""
    try:
        os.link(made, path)
    except FileExistsError:
        return
    except OSError:
        # A volume without hard links (CIFS, some FUSE): the last one wins.
        os.replace(made, path)


def temporary_folder(name: str) -> Path:
    """Return a new folder of this container that only this account may enter. Raises RunFolderUnwritable."""
    try:
        return Path(tempfile.mkdtemp(prefix=f"stoker-{name}-"))
    except OSError as error:
        raise RunFolderUnwritable(
            f"no temporary folder can be made: {error.strerror}", hint="a read-only container needs one that it can write to: `--tmpfs /tmp`"
        ) from error


def _made(folder: Path) -> Path | None:
    """Make the folder; None where that cannot be done, or where somebody else has put something of that name there."""
    try:
        folder.mkdir(mode=_OWN_MODE, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    return folder if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() else None
