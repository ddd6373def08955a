"""The tar of a Debian root, set straight: the same files in the same order with the same times, and nothing that a machine or a moment left in it.

Documentation, translations and the like go the same way, by the rules of `DPKG_RULES`; dpkg keeps to them in the image, too.
"""

from __future__ import annotations

import fnmatch
import io
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from stoker.errors import BuildFailed
from stoker.image import accounts

# The last rule that fits decides (dpkg(1), --path-exclude). Copyright files stay: the licences ask for it. Of the compilers goes what neither Triton,
# torch.compile nor an ordinary extension uses: -fsanitize, -flto, -static and a profiler. In trixie's `cli` that is 30 of 108 MB (zstd, level 3).
DPKG_RULES = """\
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/doc-base/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/groff/*
path-exclude=/usr/share/lintian/*
path-exclude=/usr/share/linda/*
path-exclude=/usr/share/bug/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/lib/python3*/config-3*/libpython3*.a
path-exclude=/usr/lib/*/libpython3*.a
path-exclude=/usr/lib/gcc/*/lib*san.a
path-exclude=/usr/lib/gcc/*/libstdc++*.a
path-exclude=/usr/lib/*/lib*san.so*
path-exclude=/usr/lib/*/libc.a
path-exclude=/usr/lib/*/libm-2.*.a
path-exclude=/usr/lib/*/libmvec.a
path-exclude=/usr/libexec/gcc/*/lto1
path-exclude=/usr/lib/gcc/*/lto1
path-exclude=/usr/bin/*lto-dump*
path-exclude=*gprofng*
path-exclude=/usr/bin/*gp-*
"""
RULES_FILE = "etc/dpkg/dpkg.cfg.d/stoker"
"""Where they lie in the image."""
BUILD_RULES_FILE = "etc/dpkg/dpkg.cfg.d/stoker-build"
"""Rules for the build only: they are left out."""

# Each is made by the container's engine, by the first start, or by whoever needs it; `*` crosses slashes.
_LEFTOVERS = (
    "dev/*",
    "proc/*",
    "sys/*",
    "run/*",
    "tmp/*",
    "var/tmp/*",
    "var/lib/apt/*",
    "var/lib/systemd/*",
    "var/lib/dbus/machine-id",
    "var/lib/wtmpdb/*",
    "var/lib/dpkg/*-old",
    "var/lib/dpkg/lock*",
    "var/lib/dpkg/triggers/Lock",
    "etc/.pwd.lock",
    "etc/passwd-",
    "etc/group-",
    "etc/shadow-",
    "etc/gshadow-",
    "etc/subuid-",
    "etc/subgid-",
    "etc/apt/sources.list*",
    "etc/apt/trusted.gpg.d/*~",
    "*mmdebstrap",
    BUILD_RULES_FILE,
    "etc/fstab",
    "etc/hostname",
    "etc/machine-id",
    "etc/resolv.conf",
    # Two containers of one image must not share a key: they are made at the first start.
    "etc/ssh/ssh_host_*",
    # Compiled as they were imported while Python itself was being set up: checked by time, and so never valid again.
    "usr/share/python3/debpython/__pycache__/*",
)
# Programs that fill them expect the folders.
_LEFTOVER_FILES = ("var/cache/*", "var/log/*")


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns))


_LEFTOVER, _LEFTOVER_FILE = _any_of(_LEFTOVERS), _any_of(_LEFTOVER_FILES)
# In DPKG_RULES every path-include belongs to the path-exclude before it: the order says no more than this.
_EXCLUDED, _INCLUDED = (_any_of(re.findall(rf"^path-{kind}=(.*)$", DPKG_RULES, re.MULTILINE)) for kind in ("exclude", "include"))
_STATUS = "var/lib/dpkg/status"
# Without setuid and setgid: nobody gains rights in the image.
_MODE_BITS = 0o1777


@dataclass(frozen=True)
class _Member:
    """What becomes of one entry of the tar."""

    info: tarfile.TarInfo
    content: bytes | None
    """New content; None: that of the tar."""


def settle(raw: Path, out: BinaryIO, *, created: int, shell: str) -> None:
    """Write the tar `raw` to `out`, set straight. Raises BuildFailed when `raw` is no tar of a root."""
    try:
        with tarfile.open(raw, "r:") as archive, open(raw, "rb") as bytes_of_raw:
            members = {path: info for info in archive if (path := _path(info.name))}
            new = _new_contents(members, bytes_of_raw, created, shell)
            with tarfile.open(fileobj=out, mode="w:", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape") as target:
                for member in _settled(members, new):
                    member.info.mtime = created
                    _write(target, member, bytes_of_raw)
    except (tarfile.TarError, KeyError) as error:
        raise BuildFailed(f"mmdebstrap's root is not whole: {error}", hint="run the same command again") from error


def _path(name: str) -> str:
    return "" if name == "." else name.removeprefix("./").strip("/")


def _new_contents(members: dict[str, tarfile.TarInfo], raw: BinaryIO, created: int, shell: str) -> dict[str, bytes]:
    files = {path: _content(members[path], raw) for path in accounts.FILES if path in members or path in accounts.NEEDED}
    return {**accounts.with_account(files, created=created, shell=shell), _STATUS: _sorted_status(_content(members[_STATUS], raw))}


def _settled(members: dict[str, tarfile.TarInfo], new: dict[str, bytes]) -> Iterator[_Member]:
    """Yield what stays, sorted by path: a folder before what is in it, the first of several hard links with the content."""
    own = {path: _folder(path, 0o755, accounts.NUMBER, accounts.NUMBER) for path in (accounts.HOME, accounts.WORKSPACE)}
    first: dict[str, str] = {}
    for path in sorted({*_kept(members), *own}):
        info = own.get(path) or members[path]
        if info.isdir():
            yield _Member(_folder(path, info.mode & _MODE_BITS, info.uid, info.gid), None)
            continue
        # The entry with the content may come later than its hard links, or may have been left out.
        origin = _origin(members, path)
        kept = tarfile.TarInfo(path)
        kept.uid, kept.gid, kept.mode = members[origin].uid, members[origin].gid, members[origin].mode & _MODE_BITS
        if info.issym():
            kept.type, kept.linkname, kept.mode = tarfile.SYMTYPE, info.linkname, 0o777
        elif origin in first:
            kept.type, kept.linkname = tarfile.LNKTYPE, first[origin]
        else:
            first[origin] = path
            kept.offset_data = members[origin].offset_data
            kept.size = len(new[path]) if path in new else members[origin].size
        yield _Member(kept, new.get(path))


def _kept(members: dict[str, tarfile.TarInfo]) -> set[str]:
    """Return the paths that stay: of the folders that dpkg would leave out, those that hold something."""
    kept: set[str] = set()
    for path, info in members.items():
        if (info.isreg() or info.isdir() or info.issym() or info.islnk()) and not _is_leftover(path, info) and not _is_excluded(path):
            kept.update((path, *(str(parent) for parent in PurePosixPath(path).parents[:-1])))
    return kept & members.keys()


def _origin(members: dict[str, tarfile.TarInfo], path: str) -> str:
    while members[path].islnk():
        path = _path(members[path].linkname)
    return path


def _folder(path: str, mode: int, uid: int, gid: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, mode, uid, gid
    return info


def _write(target: tarfile.TarFile, member: _Member, raw: BinaryIO) -> None:
    info = member.info
    if not info.isreg():
        target.addfile(info)
    elif member.content is not None:
        target.addfile(info, io.BytesIO(member.content))
    else:
        raw.seek(info.offset_data)
        target.addfile(info, raw)


def _content(info: tarfile.TarInfo, raw: BinaryIO) -> bytes:
    raw.seek(info.offset_data)
    return raw.read(info.size)


def _is_leftover(path: str, info: tarfile.TarInfo) -> bool:
    return bool(_LEFTOVER.match(path)) or (not info.isdir() and bool(_LEFTOVER_FILE.match(path)))


def _is_excluded(path: str) -> bool:
    """Whether dpkg would have left it out, had it been asked from the first package on: mmdebstrap unpacks the essential ones without dpkg."""
    return bool(_EXCLUDED.match(f"/{path}")) and not _INCLUDED.match(f"/{path}")


def _sorted_status(content: bytes) -> bytes:
    """Return dpkg's database of packages sorted by name: its own order is that in which the host's apt happened to install them."""
    rows = sorted(row for row in content.split(b"\n\n") if row.strip())
    return b"\n\n".join(row.strip(b"\n") for row in rows) + b"\n\n"
