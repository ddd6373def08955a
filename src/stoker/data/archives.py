"""Archives from strangers: the members of a tar or zip file, one after the other, with everything unsafe refused.

Refused (UnsafeArchive): absolute names, `..`, links of both kinds, devices, sparse files, a name twice, a member above 256 MiB,
and more than 1 GiB + 200 times the archive's size in all. Links are refused rather than skipped: a skipped one would silently be a
missing image. Hidden files and what desktops leave behind (`__MACOSX`, `Thumbs.db`) are passed over.
The tar reader is our own, because Python's ends without a word at a damaged header or a file cut off between two members.
"""

from __future__ import annotations

import importlib
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from stoker.errors import DataInvalid, StokerError, UnsafeArchive

MEMBER_LIMIT_BYTES = 256 * 2**20
TOTAL_FLOOR_BYTES = 2**30
TOTAL_RATIO = 200
_METADATA_LIMIT_BYTES = 2**20
_BLOCK_BYTES = 512
_IGNORED = {"__MACOSX", "Thumbs.db", "thumbs.db", "desktop.ini"}
_MAGIC = {b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"\x1f\x8b": "gzip", b"\xfd7zXZ\x00": "lzma", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
_MODULES = {"gzip": "gzip", "lzma": "lzma", "bz2": "bz2", "zstd": "compression.zstd"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One file or folder of an archive."""

    name: str
    """Relative, with `/` between the parts, without `.` and `..`."""
    content: bytes | None
    """None: a folder, or a file that was not wanted."""
    is_folder: bool
    read_bytes: int
    """How far into the archive file the reader is: for a progress bar."""


def archive_kind(path: Path) -> str | None:
    """Return "zip", "tar", or the compression of a compressed tar ("gzip", "lzma", "bz2", "zstd"), by the file's first bytes; else None."""
    with open(path, "rb") as file:
        start = file.read(_BLOCK_BYTES)
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return kind
    if start[257:262] == b"ustar" or path.suffix == ".tar":
        return "tar"
    return None


def is_hidden(name: str) -> bool:
    """Whether a part of the relative `name` is a hidden file or folder, or one that desktops leave behind."""
    return any(part.startswith(".") or part in _IGNORED for part in name.split("/"))


def printable(name: str) -> str:
    """Return `name` with everything escaped that a terminal would act upon."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in name)


def members(path: Path, wanted: Callable[[str], bool]) -> Iterator[Member]:
    """Yield the members of the archive in its own order; the content is read only of those whose name is `wanted`.

    Raises UnsafeArchive (see above) and DataInvalid, which names the member reached, when the archive is damaged or cut off.
    """
    kind = archive_kind(path)
    last = None
    try:
        for member in _zip_members(path, wanted) if kind == "zip" else _tar_members(path, kind or "tar", wanted):
            last = member.name
            yield member
    except StokerError:
        raise
    except Exception as error:  # what the decompressors and header readers make of garbage has no common class
        reached = f"after the member {printable(last)}" if last else "before its first member"
        raise DataInvalid(
            f"{path} is damaged or cut off {reached}: {printable(str(error)) or type(error).__name__}",
            hint="get or pack the archive again and compare its size",
        ) from error


class _Guard:
    """What is refused whatever the kind of archive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.limit_bytes = TOTAL_FLOOR_BYTES + TOTAL_RATIO * path.stat().st_size
        self.total_bytes = 0
        self.seen: set[str] = set()

    def refuse(self, why: str) -> UnsafeArchive:
        return UnsafeArchive(
            f"{self.path} is not safe to read: {why}",
            hint="unpack it yourself where that does no harm, look at it, and give the folder as --data",
        )

    def name(self, raw: str) -> str:
        """Return the member's name without empty parts and dots."""
        if raw.startswith("/") or "\0" in raw or raw[1:3] == ":/":
            raise self.refuse(f"the member {printable(raw)} has an absolute name")
        parts = [part for part in raw.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise self.refuse(f"the member {printable(raw)} leaves its folder")
        return "/".join(parts)

    def first(self, name: str) -> None:
        if name in self.seen:
            raise self.refuse(f"it holds {printable(name)} twice")
        self.seen.add(name)

    def size(self, name: str, size_bytes: int, limit_bytes: int) -> None:
        if size_bytes > limit_bytes:
            raise self.refuse(f"the member {printable(name)} has {size_bytes:,} bytes, more than {limit_bytes:,}")

    def count(self, size_bytes: int) -> None:
        self.total_bytes += size_bytes
        if self.total_bytes > self.limit_bytes:
            raise self.refuse(f"it unpacks to more than {self.limit_bytes:,} bytes, a bomb")


# --- zip ------------------------------------------------------------------------------------------------------------


def check_zip(path: Path) -> None:
    """Raise DataInvalid when `path` is no whole zip file, UnsafeArchive when it unpacks to far more than it holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            _Guard(path).count(sum(info.file_size for info in archive.infolist()))
    except StokerError:
        raise
    except Exception as error:  # as above
        raise DataInvalid(f"{path} is damaged or cut off: {printable(str(error))}", hint="get or make the file again and compare its size") from error


def _zip_members(path: Path, wanted: Callable[[str], bool]) -> Iterator[Member]:
    guard = _Guard(path)
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        guard.count(sum(info.file_size for info in infos))
        for info in infos:
            name = guard.name(info.filename.replace("\\", "/"))
            if not name or is_hidden(name):
                continue
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise guard.refuse(f"the member {printable(name)} is a link or a device")
            if info.is_dir():
                yield Member(name=name, content=None, is_folder=True, read_bytes=info.header_offset)
                continue
            guard.first(name)
            content = None
            if wanted(name):
                guard.size(name, info.file_size, MEMBER_LIMIT_BYTES)
                content = archive.read(info)
            yield Member(name=name, content=content, is_folder=False, read_bytes=info.header_offset + info.compress_size)


# --- tar ------------------------------------------------------------------------------------------------------------

_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_REFUSED = {
    tarfile.LNKTYPE: "a hard link", tarfile.SYMTYPE: "a symbolic link", tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a pipe", tarfile.GNUTYPE_SPARSE: "a sparse file",
}  # fmt: skip


class _Stream:
    """The uncompressed bytes of a tar file, read once from its start, counted against the limit."""

    def __init__(self, stream: IO[bytes], guard: _Guard) -> None:
        self._stream, self._guard = stream, guard

    def read(self, size_bytes: int) -> bytes:
        """Return exactly `size_bytes`."""
        self._guard.count(size_bytes)
        parts, missing = [], size_bytes
        while missing and (part := self._stream.read(missing)):
            parts.append(part)
            missing -= len(part)
        if missing:
            raise EOFError("the file ends in the middle, without an end mark")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip(self, size_bytes: int) -> None:
        while size_bytes:
            size_bytes -= len(self.read(min(size_bytes, 2**20)))

    def end(self) -> None:
        """Read what comes after the end mark, so that the compression's own checksum is looked at."""
        while part := self._stream.read(2**16):
            self._guard.count(len(part))
            if part.count(0) != len(part):
                raise ValueError("there is data after the end mark")


def _tar_members(path: Path, kind: str, wanted: Callable[[str], bool]) -> Iterator[Member]:
    guard = _Guard(path)
    with open(path, "rb") as raw:
        stream = _Stream(_uncompressed(raw, kind, path), guard)
        for name, info in _tar_headers(stream, guard):
            size_bytes = info.size if info.type in _REGULAR or info.type not in tarfile.SUPPORTED_TYPES else 0
            padding_bytes = -size_bytes % _BLOCK_BYTES
            content = None
            if info.type in _REGULAR and not is_hidden(name):
                guard.first(name)
                if wanted(name):
                    guard.size(name, size_bytes, MEMBER_LIMIT_BYTES)
                    content = stream.read(size_bytes)
                    size_bytes = 0
            stream.skip(size_bytes + padding_bytes)
            if (info.isdir() or info.type in _REGULAR) and name and not is_hidden(name):
                yield Member(name=name, content=content, is_folder=info.isdir(), read_bytes=raw.tell())
        stream.end()


def _tar_headers(stream: _Stream, guard: _Guard) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Yield name and header of each member up to the end mark; the reader must read or skip the data before the next one."""
    own: dict[str, str] = {}
    while (block := stream.read(_BLOCK_BYTES)) != bytes(_BLOCK_BYTES):
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if info.size < 0:
            raise ValueError("a member has a negative size")
        if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            guard.size(info.name, info.size, _METADATA_LIMIT_BYTES)
            data = stream.read(info.size)
            stream.skip(-info.size % _BLOCK_BYTES)
            if info.type == tarfile.GNUTYPE_LONGNAME:
                own["path"] = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                own.update(_pax(data))
            continue
        name = guard.name(own.get("path", info.name))
        if info.type in _REFUSED or any(key.startswith("GNU.sparse") for key in own):
            raise guard.refuse(f"the member {printable(name)} is {_REFUSED.get(info.type, 'a sparse file')}")
        info.size = int(own.get("size", info.size))
        if info.size < 0:
            raise ValueError("a member has a negative size")
        own = {}
        yield name, info


def _pax(data: bytes) -> dict[str, str]:
    """Return the records of an extended header: `length key=value` and a newline each (POSIX pax)."""
    records, at = {}, 0
    while at < len(data) and data[at]:
        space = data.index(b" ", at, at + 20)
        end = at + int(data[at:space])
        if not space < end <= len(data):
            raise ValueError("an extended header does not fit its length")
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        at = end
    return records


def _uncompressed(raw: IO[bytes], kind: str, path: Path) -> IO[bytes]:
    if kind == "tar":
        return raw
    try:
        module = importlib.import_module(_MODULES[kind])  # a Python may be built without them, and only 3.14 has zstd
    except ImportError as error:
        raise DataInvalid(
            f"{path} is compressed with {kind}, which this Python cannot read ({error})",
            hint="unpack it and give the folder as --data, or pack it as .tar.xz",
        ) from error
    stream: IO[bytes] = module.open(raw)
    return stream
