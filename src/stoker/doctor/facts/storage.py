"""The disks under the data set, the runs, the caches and the temporary files."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from stoker import settings
from stoker.doctor.facts.answers import ask_all
from stoker.doctor.facts.sample import count, read_sample, readers
from stoker.host.place import filesystem_root, read


@dataclass(frozen=True, kw_only=True)
class Volume:
    """The file system under one folder that a training uses."""

    use: str
    """data, runs, cache, temporary or home."""
    path: str
    """The folder; where it does not exist yet, it is its nearest parent that was looked at."""
    mount: str | None = None
    """Where the file system is mounted."""
    kind: str | None = None
    """As ext4, xfs, overlay, tmpfs, nfs4, fuse.sshfs."""
    device: str | None = None
    """What is mounted, as /dev/nvme0n1p2 or server:/export."""
    answered: bool = True
    """False: the file system did not answer within two seconds."""
    error: str | None = None
    """What it answered instead of its size, as `Stale file handle`."""
    total_bytes: int | None = None
    free_bytes: int | None = None
    """What this user may still write."""
    inodes_total: int | None = None
    """None: the file system has no fixed number of them."""
    inodes_free: int | None = None
    read_only: bool | None = None
    noexec: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Cache:
    """A folder in which something is kept for the next start."""

    owner: str
    """stoker, triton or inductor."""
    path: str
    variable: str | None = None
    """The environment variable that chose it; None: the default."""
    writable: bool | None = None
    """None: it did not answer."""
    reason: str | None = None
    """Why it is not writable."""
    noexec: bool | None = None
    """Whether programs and libraries in it may not be run."""
    mount: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """The data set that was named with --data, and how fast its files can be read."""

    path: str
    error: str | None = None
    """Why it cannot be read; None: it can."""
    files: int | None = None
    total_bytes: int | None = None
    complete: bool = False
    """Whether all of it was counted; else it is at least this much."""
    read_bytes: int | None = None
    """Of the files read as a sample."""
    read_files: int | None = None
    read_s: float | None = None
    """Wall time of that, by `readers` threads at once."""
    readers: int | None = None
    dropped: bool = False
    """Whether the kernel was asked to forget the files first. Below a hypervisor or on a file server they may still have been in memory."""
    unreadable: str | None = None
    """The first file of the sample that could not be read, and why."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Where a training reads and writes."""

    volumes: tuple[Volume, ...] = ()
    caches: tuple[Cache, ...] = ()
    data: DataSet | None = None
    """None: no data set was named."""


_ANSWER_S = 2.0
_DATA_S = 6.0
"""Counting and reading take 2.5 s together; a disk that needs longer does not answer."""


def gather_storage(data: Path | None = None, root: Path | None = None, environ: Mapping[str, str] | None = None) -> Storage:
    """Ask the file systems below the folders that a training uses. Raises nothing; milliseconds, 2 s when one hangs, 3 s with a data set."""
    root = root or filesystem_root()
    environ = os.environ if environ is None else environ
    mounts = _mounts(root)
    folders = _folders(data)
    caches = _caches(environ)
    looks = ask_all({use: partial(_look, use, folder, mounts) for use, folder in folders.items()}, limit_s=_ANSWER_S)
    checked = ask_all({cache.owner: partial(_checked, cache, mounts) for cache in caches}, limit_s=_ANSWER_S)
    return Storage(
        volumes=tuple(looks.get(use) or _silent(use, folder, mounts) for use, folder in folders.items()),
        caches=tuple(checked.get(cache.owner, cache) for cache in caches),
        data=_data(data) if data is not None else None,
    )


def _folders(data: Path | None) -> dict[str, Path]:
    wanted: dict[str, Callable[[], Path]] = {
        "runs": settings.runs_folder,
        "cache": settings.cache_folder,
        "temporary": lambda: Path(os.environ.get("TMPDIR") or "/tmp"),
        "home": Path.home,
    }
    found = {"data": data} if data is not None else {}
    for use, folder in wanted.items():
        try:
            found[use] = Path(os.path.abspath(folder()))
        except (OSError, RuntimeError):  # a user without a home; a working directory that was removed
            continue
    return found


@dataclass(frozen=True, kw_only=True)
class _Mount:
    point: str
    kind: str
    device: str


def _mounts(root: Path) -> tuple[_Mount, ...]:
    """Return the mounts of /proc/self/mountinfo, whose lines end with "- kind device options"; source: proc(5)."""
    found = []
    for line in (read(root / "proc/self/mountinfo") or "").splitlines():
        before, dash, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if dash and len(fields) >= 5 and len(rest) >= 2:
            found.append(_Mount(point=_plain(fields[4]), kind=rest[0], device=_plain(rest[1])))
    return tuple(found)


def _plain(text: str) -> str:
    """Undo the octal escapes of spaces and tabs in mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _mount_of(path: str, mounts: tuple[_Mount, ...]) -> _Mount | None:
    """Return the mount that holds a path: the longest mount point above it, of equal ones the last, which covers the others."""
    above = [mount for mount in mounts if path == mount.point or path.startswith(mount.point.rstrip("/") + "/")]
    return max(enumerate(above), key=lambda entry: (len(entry[1].point), entry[0]))[1] if above else None


def _existing(folder: Path) -> Path:
    """Return the nearest parent that exists. Raises OSError when one of them cannot be looked at."""
    for parent in (folder, *folder.parents):
        try:
            parent.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        return parent
    return Path("/")


def _look(use: str, folder: Path, mounts: tuple[_Mount, ...]) -> Volume:
    try:
        place = _existing(folder)
        status = os.statvfs(place)
    except OSError as error:
        return replace(_silent(use, folder, mounts), answered=True, error=error.strerror or str(error))
    mount = _mount_of(os.path.realpath(place), mounts)
    return Volume(
        use=use,
        path=str(folder),
        mount=mount.point if mount else None,
        kind=mount.kind if mount else None,
        device=mount.device if mount else None,
        total_bytes=status.f_frsize * status.f_blocks,
        free_bytes=status.f_frsize * (status.f_bfree if os.geteuid() == 0 else status.f_bavail),
        inodes_total=status.f_files or None,
        inodes_free=status.f_favail if status.f_files else None,
        read_only=bool(status.f_flag & os.ST_RDONLY),
        noexec=_noexec(status),
    )


def _noexec(status: os.statvfs_result) -> bool:
    return bool(status.f_flag & getattr(os, "ST_NOEXEC", 0))  # Linux has it


def _silent(use: str, folder: Path, mounts: tuple[_Mount, ...]) -> Volume:
    """Describe a file system that did not answer well, without asking it again."""
    mount = _mount_of(os.path.abspath(folder), mounts)
    silent = Volume(use=use, path=str(folder), answered=False)
    return replace(silent, mount=mount.point, kind=mount.kind, device=mount.device) if mount else silent


def _caches(environ: Mapping[str, str]) -> tuple[Cache, ...]:
    """Return where Stoker, Triton and torch.compile keep what they made; sources: triton/knobs.py, torch/_inductor/runtime/cache_dir_utils.py."""
    found = []
    with contextlib.suppress(OSError, RuntimeError):
        variable = next((name for name in ("STOKER_CACHE", "XDG_CACHE_HOME") if environ.get(name)), None)
        found.append(Cache(owner="stoker", path=os.path.abspath(settings.cache_folder()), variable=variable))
    home = environ.get("TRITON_HOME") or os.path.expanduser("~")
    variable = next((name for name in ("TRITON_CACHE_DIR", "TRITON_HOME") if environ.get(name)), None)
    found.append(Cache(owner="triton", path=environ.get("TRITON_CACHE_DIR") or os.path.join(home, ".triton", "cache"), variable=variable))
    own = environ.get("TORCHINDUCTOR_CACHE_DIR")
    default = os.path.join(environ.get("TMPDIR") or "/tmp", f"torchinductor_{_user()}")
    found.append(Cache(owner="inductor", path=os.path.abspath(own or default), variable="TORCHINDUCTOR_CACHE_DIR" if own else None))
    return tuple(found)


def _user() -> str:
    """Return the user's name as torch.compile writes it into the name of its folder."""
    try:
        return re.sub(r'[\\/:*?"<>|]', "_", getpass.getuser())
    except (KeyError, OSError, ImportError):
        return f"uid_{os.getuid()}"


def _checked(cache: Cache, mounts: tuple[_Mount, ...]) -> Cache:
    try:
        place = _existing(Path(cache.path))
        status = os.statvfs(place)
    except OSError as error:
        return replace(cache, writable=False, reason=f"{cache.path}: {error.strerror or error}")
    mount = _mount_of(os.path.realpath(place), mounts)
    reason = _refusal(place, bool(status.f_flag & os.ST_RDONLY))
    return replace(cache, writable=reason is None, reason=reason, noexec=_noexec(status), mount=mount.point if mount else None)


def _refusal(place: Path, read_only: bool) -> str | None:
    """Return why nothing can be made in a folder that exists; None: it can."""
    if not place.is_dir():
        return f"{place} is no folder"
    if read_only:
        return f"{place}: the file system is mounted read-only"
    if os.access(place, os.W_OK | os.X_OK):
        return None
    status = place.stat()
    return f"{place} belongs to uid {status.st_uid} gid {status.st_gid}, mode {stat.S_IMODE(status.st_mode):04o}; this process has uid {os.getuid()}"


def _data(path: Path) -> DataSet:
    silent = DataSet(path=str(path), error=f"no answer within {_DATA_S:g} s")
    return ask_all({"data": partial(_measured, path)}, limit_s=_DATA_S).get("data", silent)


def _measured(path: Path) -> DataSet:
    try:
        found = count(path)
    except OSError as error:
        return DataSet(path=str(path), error=error.strerror or str(error))
    if not found.sample:
        return DataSet(path=str(path), files=0, total_bytes=0, complete=found.complete)
    reading = read_sample(found.sample)
    return DataSet(
        path=str(path),
        files=found.files,
        total_bytes=found.total_bytes,
        complete=found.complete,
        read_bytes=reading.read_bytes,
        read_files=reading.read_files,
        read_s=reading.read_s,
        readers=readers(),
        dropped=reading.dropped,
        unreadable=reading.refusal,
    )
