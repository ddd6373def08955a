"""Tar streams whose bytes depend on their entries and nothing else.

POSIX.1-2001: plain ustar headers, and a PAX header only before a path or a link that ustar cannot hold. The writer is our own, so
that no version of Python can change the bytes. Owners are numbers without names: the names of an image are its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from stoker.errors import BuildFailed, UnsafeArchive
from stoker.image.entries import Entry, folder

BLOCK_BYTES = 512
_NAME_BYTES = 100
_PREFIX_BYTES = 155
# Linux: NAME_MAX and PATH_MAX.
_PART_LIMIT_BYTES = 255
_PATH_LIMIT_BYTES = 4096
_LARGEST_USTAR_BYTES = 8**11 - 1
_TYPES = {"file": b"0", "symlink": b"2", "folder": b"5"}
_WHITEOUT = ".wh."
# Control characters, which terminals act upon, and what other systems take for a slash.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")


def write_tar(entries: Iterable[Entry], out: BinaryIO, *, mtime: int) -> None:
    """Write the entries to `out` as a tar: sorted, with the folders above them (0755, root) added, every time set to `mtime` (Unix time, s).

    Raises UnsafeArchive for a path twice, a path that is no plain relative one, one that lies under a file or a link, or one that a
    container engine would take for a deletion (`.wh.`); BuildFailed when a Source gives more or fewer bytes than it said.
    """
    for entry in arranged(entries):
        out.write(_headers(entry, mtime))
        if entry.size or entry.content:
            _write_content(entry, out)
    out.write(bytes(2 * BLOCK_BYTES))


def arranged(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries as they stand in the tar: checked, sorted, the folders above them added. Raises UnsafeArchive."""
    found: dict[str, Entry] = {}
    for entry in entries:
        _check(entry)
        if entry.path in found:
            raise UnsafeArchive(f"{entry.path!r} stands in one layer twice", hint="a layer holds each path once; leave one of them out")
        found[entry.path] = entry
    for path in list(found):
        for above in _folders_above(path):
            held = found.setdefault(above, folder(above))
            if held.kind != "folder":
                raise UnsafeArchive(f"{path!r} would lie under {above!r}, which is a {held.kind}", hint="leave one of them out")
    return [found[path] for path in sorted(found, key=lambda path: path.encode().split(b"/"))]


def fault_of_path(path: str) -> str | None:
    """Return what keeps `path` from standing in a layer (a path that leads elsewhere, is too long, or means a deletion), or None."""
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "is no Unicode text"
    parts = path.split("/")
    if not path or path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        return "is no plain relative path"
    if _FORBIDDEN.search(path):
        return "holds control characters or backslashes"
    if any(part.startswith(_WHITEOUT) for part in parts):
        return "would be taken for a deletion by container engines (.wh.)"
    # A path that is short enough has no part that is too long.
    if len(encoded) > _PATH_LIMIT_BYTES or (len(encoded) > _PART_LIMIT_BYTES and any(len(part.encode()) > _PART_LIMIT_BYTES for part in parts)):
        return "is longer than Linux allows"
    return None


def _check(entry: Entry) -> None:
    if fault := fault_of_path(entry.path):
        raise UnsafeArchive(f"the path {entry.path!r} {fault}", hint="no layer is made of it")
    if entry.kind == "symlink" and (not entry.target or "\0" in entry.target or len(entry.target.encode()) > _PATH_LIMIT_BYTES):
        raise UnsafeArchive(f"the link {entry.path!r} leads nowhere", hint="no layer is made of it")


def _folders_above(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _write_content(entry: Entry, out: BinaryIO) -> None:
    size = entry.size
    if isinstance(entry.content, bytes):
        out.write(entry.content)
    elif entry.content is not None:
        given = 0
        for piece in entry.content.chunks():
            given += len(piece)
            if given > size:
                break
            out.write(piece)
        if given != size:
            more = "more" if given > size else "fewer"
            raise BuildFailed(
                f"{entry.path}: {more} bytes came than the {size} that were announced", hint="run it again: something changed meanwhile"
            )
    out.write(bytes(-size % BLOCK_BYTES))


def _headers(entry: Entry, mtime: int) -> bytes:
    """Return the header of an entry, behind a PAX header where ustar is too small."""
    path = entry.path.encode() + (b"/" if entry.kind == "folder" else b"")
    target = (entry.target or "").encode()
    size = entry.size if entry.kind == "file" else 0
    split = _split(path)
    records = []
    if split is None or not path.isascii():
        records.append(_record(b"path", path))
    if len(target) > _NAME_BYTES or not target.isascii():
        records.append(_record(b"linkpath", target))
    if size > _LARGEST_USTAR_BYTES:
        records.append(_record(b"size", str(size).encode()))
    prefix, name = split or (b"", path[:_NAME_BYTES])
    plain = _header(
        name=name,
        prefix=prefix,
        mode=entry.mode & 0o7777,
        uid=entry.uid,
        gid=entry.gid,
        size=size if size <= _LARGEST_USTAR_BYTES else 0,
        mtime=mtime,
        kind=_TYPES[entry.kind],
        target=target[:_NAME_BYTES],
    )
    if not records:
        return plain
    body = b"".join(sorted(records))
    header = _header(name=b"././@PaxHeader", prefix=b"", mode=0o644, uid=0, gid=0, size=len(body), mtime=mtime, kind=b"x", target=b"")
    return header + body + bytes(-len(body) % BLOCK_BYTES) + plain


def _split(path: bytes) -> tuple[bytes, bytes] | None:
    """Return ustar's prefix and name of a path, or None when it does not fit into them."""
    if len(path) <= _NAME_BYTES:
        return b"", path
    # The prefix as long as it may be, cut at a slash that is not the one at the end.
    at = path.rfind(b"/", 0, min(_PREFIX_BYTES + 1, len(path) - 1))
    return (path[:at], path[at + 1 :]) if at > 0 and len(path) - at - 1 <= _NAME_BYTES else None


def _record(key: bytes, value: bytes) -> bytes:
    """Return a PAX record, which begins with its own length."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _header(*, name: bytes, prefix: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, kind: bytes, target: bytes) -> bytes:
    """Return one block: the fields of ustar, numbers in octal, and their checksum."""
    fields = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(_NAME_BYTES, b"\0"), mode, uid, gid, size, mtime)
    rest = (
        kind
        + target.ljust(_NAME_BYTES, b"\0")
        + b"ustar\x0000"
        + bytes(64)
        + b"0000000\x000000000\0"
        + prefix.ljust(_PREFIX_BYTES, b"\0")
        + bytes(12)
    )
    total = sum(fields) + sum(rest) + 8 * 32
    return fields + b"%06o\0 " % total + rest
