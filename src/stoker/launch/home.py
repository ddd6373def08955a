"""The home inside of containers: one folder of the caller for all of them, which outlives each; what it keeps is read with distrust."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from stoker import settings
from stoker.errors import DiskFull, MountRefused
from stoker.launch.request import Account

_MODE = 0o700
_MOST_BYTES = 1 << 16
NONE = "none"


def home_for(said: str | None, account: Account) -> Path | None:
    """Return the folder that is mounted as home: what `--home` says (`none`: no folder), else the caller's own.

    Root starts containers for several people: a home that is another one's is left alone, and this account gets `home-UID` beside it.
    """
    if said == NONE:
        return None
    if said:
        return Path(os.path.expanduser(said)).absolute()
    return default_home(account.host_uid)


def default_home(uid: int) -> Path:
    """Return the home of what runs as `uid`, where none is named."""
    folder = settings.home_folder().absolute()
    with contextlib.suppress(OSError):
        if os.getuid() == 0 and folder.stat().st_uid != uid and "STOKER_HOME" not in os.environ:
            return folder.with_name(f"{folder.name}-{uid}")
    return folder


def prepare(home: Path, account: Account) -> None:
    """Make the home where there is none, and check that the container's account may write to it. Raises MountRefused, DiskFull.

    A process that is killed in here leaves nothing that the next start does not mend.
    """
    try:
        _make(home, account)
        status = home.stat()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"no space left on the disk for the home {home}", hint=f"free space: `df -h {home.parent}` shows how much there is"
            ) from error
        raise MountRefused(
            f"the home {home} cannot be made: {error.strerror}", hint="name a folder of yours with `--home DIR` (or STOKER_HOME)"
        ) from error
    if not stat.S_ISDIR(status.st_mode):
        raise MountRefused(f"the home {home} is no folder", hint="name a folder with `--home DIR` (or STOKER_HOME)")
    if status.st_uid != account.host_uid:
        raise MountRefused(
            f"the home {home} belongs to uid {status.st_uid}, and what is started runs as uid {account.host_uid}",
            hint=f"give this account a home of its own: `--home DIR`, or hand it over: `sudo chown -R {account.host_uid}:{account.host_gid} {home}`",
        )


def _make(home: Path, account: Account) -> None:
    if home.is_dir():
        # A crash between mkdir and chown is mended here: an empty folder of root's holds nothing of root's.
        if os.getuid() == 0 != account.host_uid and home.stat().st_uid == 0 and not any(home.iterdir()):
            os.chown(home, account.host_uid, account.host_gid)
        return
    home.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        home.mkdir(mode=_MODE)
        if os.getuid() == 0:
            os.chown(home, account.host_uid, account.host_gid)


def read_kept(home: Path, path: str) -> bytes | None:
    """Return a small file that the image's start keeps in the home, None where there is none (yet).

    The container can write there: a link that it put in the way, to a file of the host, is not followed.
    """
    *folders, name = path.split("/")
    with contextlib.ExitStack() as stack:
        try:
            place = _opened(stack, str(home), os.O_DIRECTORY, None)
            for folder in folders:
                place = _opened(stack, folder, os.O_DIRECTORY | os.O_NOFOLLOW, place)
            file = _opened(stack, name, os.O_NOFOLLOW | os.O_NONBLOCK, place)
            return os.read(file, _MOST_BYTES) if stat.S_ISREG(os.fstat(file).st_mode) else None
        except OSError:
            return None


def _opened(stack: contextlib.ExitStack, name: str, flags: int, place: int | None) -> int:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | flags, dir_fd=place)
    stack.callback(os.close, descriptor)
    return descriptor
