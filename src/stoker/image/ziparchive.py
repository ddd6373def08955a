"""Zip files from strangers: the central directory read strictly, members inflated within the bounds that it states.

A zip file can be read in several ways (from its front, from its end, with what lies between the members), and programs differ in
which they take. Here only files are read on which all of them agree: one directory, right before the end; members side by side from
the first byte on, each with a header that says the same as the directory; no comment, no encryption, stored or deflated.
Source: APPNOTE 6.3.10.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path

from stoker.errors import UnsafeArchive

# The ratio of deflate cannot be above 1032; PyTorch's own wheels have 3, the worst honest ones here 20.
TOTAL_FLOOR_BYTES = 2**30
TOTAL_RATIO = 200
_MOST_MEMBERS = 500_000
_MOST_DIRECTORY_BYTES = 2**28
_PIECE_BYTES = 2**16
_OUTPUT_BYTES = 2**17

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED = 0x2041
_SIZES_BEHIND = 0x8
_UTF8 = 0x800
_FLAGS_KNOWN = 0x6 | _SIZES_BEHIND | _UTF8  # 0x6: how hard deflate tried
_EXTRA_ZIP64 = 1
_EXTRA_OTHER_NAME = 0x7075
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
STORED, DEFLATED = 0, 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ZipMember:
    """One member, as the directory and its own header say alike."""

    name: str
    archive: Path
    start: int
    """Where the packed bytes begin in the archive."""
    packed_size: int
    size: int
    crc: int
    method: int
    mode: int
    """As st_mode of Unix, 0 where the archive does not say."""

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder rather than a file."""
        return self.name.endswith("/")

    def chunks(self) -> Iterator[bytes]:
        """Yield the content, never more than `size`. Raises UnsafeArchive when it is not exactly that long, or damaged."""
        with open(self.archive, "rb", buffering=0) as file:
            file.seek(self.start)
            yield from self._stored(file) if self.method == STORED else self._inflated(file)

    def read(self, limit_bytes: int) -> bytes:
        """Return the whole content, checked by its CRC. Raises UnsafeArchive when it is larger than `limit_bytes` or damaged."""
        if self.size > limit_bytes:
            raise refusal(self.archive, f"{self.name} has {self.size} bytes, more than {limit_bytes}")
        content = b"".join(self.chunks())
        if zlib.crc32(content) != self.crc:
            raise refusal(self.archive, f"{self.name} is damaged")
        return content

    def _packed(self, file: FileIO) -> Iterator[bytes]:
        left = self.packed_size
        while left:
            piece = file.read(min(left, _PIECE_BYTES))
            if not piece:
                raise refusal(self.archive, f"it ends within {self.name}")
            left -= len(piece)
            yield piece

    def _stored(self, file: FileIO) -> Iterator[bytes]:
        if self.packed_size != self.size:
            raise refusal(self.archive, f"{self.name} is not as long as announced")
        yield from self._packed(file)

    def _inflated(self, file: FileIO) -> Iterator[bytes]:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        left = self.size
        try:
            for piece in self._packed(file):
                if inflater.eof:
                    raise refusal(self.archive, f"{self.name} ends before its packed bytes do")
                while piece:
                    # One byte more than is left, to notice what was not announced.
                    content = inflater.decompress(piece, min(left + 1, _OUTPUT_BYTES))
                    left -= len(content)
                    if left < 0:
                        raise refusal(self.archive, f"{self.name} is larger than announced")
                    if content:
                        yield content
                    piece = inflater.unconsumed_tail
                    if inflater.unused_data:
                        raise refusal(self.archive, f"{self.name} ends before its packed bytes do")
        except zlib.error as error:
            raise refusal(self.archive, f"{self.name} cannot be inflated ({error})") from error
        if left or not inflater.eof:
            raise refusal(self.archive, f"{self.name} is not as long as announced")


def refusal(archive: Path, what: str) -> UnsafeArchive:
    """Return the error for an archive that is not as it must be."""
    return UnsafeArchive(f"{archive.name}: {what}", hint="it is no well-formed wheel: ask where it comes from, and do not install it by other means")


def read_directory(archive: Path) -> tuple[ZipMember, ...]:
    """Return the members of a zip file in the order of their bytes. Raises UnsafeArchive for all that is not said above."""
    try:
        with open(archive, "rb") as file:
            descriptor = file.fileno()
            length = os.fstat(descriptor).st_size
            start, size, count = _find_directory(archive, descriptor, length)
            directory = os.pread(descriptor, size, start)
            if len(directory) != size:
                raise refusal(archive, "it is cut off")
            headers = _headers(archive, directory, count)
            members = [_member(archive, descriptor, header, start) for header in headers]
    except struct.error as error:
        raise refusal(archive, "it is cut off or damaged") from error
    members.sort(key=lambda pair: pair[0])
    _check_side_by_side(archive, members, start)
    _check_size(archive, [member for _, member, _ in members], length)
    return tuple(member for _, member, _ in members)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    """A row of the directory."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed_size: int
    size: int
    offset: int
    mode: int


def _find_directory(archive: Path, descriptor: int, length: int) -> tuple[int, int, int]:
    """Return where the directory starts, its size, and its number of rows."""
    end_at = length - _END.size
    if end_at < 0:
        raise refusal(archive, "it is no zip file")
    magic, disk, first_disk, here, count, size, start, comment = _END.unpack(os.pread(descriptor, _END.size, end_at))
    if magic != b"PK\5\6" or comment:
        raise refusal(archive, "it does not end as a zip file does (cut off, or with something behind it)")
    ends = end_at
    if _FULL16 in (disk, first_disk, here, count) or _FULL32 in (size, start):
        ends, here, count, size, start, disk, first_disk = _find_directory64(archive, descriptor, end_at)
    if disk or first_disk or here != count:
        raise refusal(archive, "it is a part of an archive of several files")
    if start + size != ends:
        raise refusal(archive, "its directory is not right before its end")
    if count > _MOST_MEMBERS or size > _MOST_DIRECTORY_BYTES:
        raise refusal(archive, f"it has {count} members in a directory of {size} bytes")
    return start, size, count


def _find_directory64(archive: Path, descriptor: int, end_at: int) -> tuple[int, int, int, int, int, int, int]:
    locator_at = end_at - _END64_LOCATOR.size
    record_at = locator_at - _END64.size
    if record_at < 0:
        raise refusal(archive, "its zip64 end is missing")
    magic, _, offset, disks = _END64_LOCATOR.unpack(os.pread(descriptor, _END64_LOCATOR.size, locator_at))
    if magic != b"PK\6\7" or offset != record_at or disks != 1:
        raise refusal(archive, "its zip64 end is not where it must be")
    magic, record_size, _, _, disk, first_disk, here, count, size, start = _END64.unpack(os.pread(descriptor, _END64.size, record_at))
    if magic != b"PK\6\6" or record_size != _END64.size - 12:
        raise refusal(archive, "its zip64 end is damaged")
    return record_at, here, count, size, start, disk, first_disk


def _headers(archive: Path, directory: bytes, count: int) -> Iterator[_Header]:
    at = 0
    for _ in range(count):
        magic, _, _, flags, method, _, _, crc, packed, size, name_size, extra_size, comment_size, disk, _, outer, offset = _CENTRAL.unpack_from(
            directory, at
        )
        name_at = at + _CENTRAL.size
        at = name_at + name_size + extra_size + comment_size
        raw_name = directory[name_at : name_at + name_size]
        extra = directory[name_at + name_size : name_at + name_size + extra_size]
        name = _decoded(archive, raw_name, flags)
        if magic != b"PK\1\2" or at > len(directory) or disk not in (0, _FULL16):
            raise refusal(archive, "its directory is damaged")
        if flags & _ENCRYPTED or flags & ~_FLAGS_KNOWN:
            raise refusal(archive, f"{name!r} is encrypted or packed in a way that wheels do not use (flags {flags:#x})")
        if method not in (STORED, DEFLATED):
            raise refusal(archive, f"{name!r} is packed by method {method}; wheels know 0 (stored) and 8 (deflated)")
        size, packed, offset = _zip64(archive, name, extra, (size, packed, offset))
        yield _Header(
            name=name, raw_name=raw_name, flags=flags, method=method, crc=crc, packed_size=packed, size=size, offset=offset, mode=outer >> 16
        )
    if at != len(directory):
        raise refusal(archive, "its directory holds more than its members")


def _decoded(archive: Path, raw_name: bytes, flags: int) -> str:
    """Return a name, which is UTF-8 and says so, or ASCII: other alphabets are a guess."""
    try:
        return raw_name.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError as error:
        raise refusal(archive, f"the name {raw_name!r} is neither ASCII nor marked as UTF-8") from error


def _zip64(archive: Path, name: str, extra: bytes, fields: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return size, packed size and offset, taken from the zip64 field where 32 bits are not enough."""
    wide: bytes | None = None
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == _EXTRA_OTHER_NAME:
            raise refusal(archive, f"{name!r} has a second name")
        if kind == _EXTRA_ZIP64:
            if wide is not None:
                raise refusal(archive, f"{name!r} has two zip64 fields")
            wide = extra[at + 4 : at + 4 + length]
        at += 4 + length
    if at != len(extra):
        raise refusal(archive, f"{name!r} has a damaged extra field")
    missing = [field == _FULL32 for field in fields]
    if not any(missing):
        return fields
    values = iter(struct.unpack_from(f"<{sum(missing)}Q", wide or b""))
    size, packed, offset = (next(values) if gone else field for gone, field in zip(missing, fields, strict=True))
    return size, packed, offset


def _member(archive: Path, descriptor: int, header: _Header, directory_at: int) -> tuple[int, ZipMember, bool]:
    """Return where a member begins, the member itself, and whether its sizes stand behind it; its own header must say what the directory says."""
    if header.offset >= directory_at:
        raise refusal(archive, f"{header.name!r} lies behind the directory")
    block = os.pread(descriptor, _LOCAL.size + len(header.raw_name), header.offset)
    magic, _, flags, method, _, _, crc, packed, size, name_size, extra_size = _LOCAL.unpack_from(block)
    behind = bool(flags & _SIZES_BEHIND)
    same = (magic, flags, method, block[_LOCAL.size :], name_size) == (b"PK\3\4", header.flags, header.method, header.raw_name, len(header.raw_name))
    wide = _FULL32 in (packed, size)
    numbers = (crc, packed, size)
    agree = numbers == (header.crc, header.packed_size, header.size) or (behind and not any(numbers)) or (wide and (behind or crc == header.crc))
    if not same or not agree:
        raise refusal(archive, f"{header.name!r} has a header that says something else than the directory")
    start = header.offset + _LOCAL.size + name_size + extra_size
    member = ZipMember(
        name=header.name,
        archive=archive,
        start=start,
        packed_size=header.packed_size,
        size=header.size,
        crc=header.crc,
        method=header.method,
        mode=header.mode,
    )
    return header.offset, member, behind


def _check_side_by_side(archive: Path, members: list[tuple[int, ZipMember, bool]], directory_at: int) -> None:
    """Refuse members that overlap, and bytes that belong to none."""
    if (members and members[0][0] != 0) or (not members and directory_at != 0):
        raise refusal(archive, "something stands before its first member")
    begins = [offset for offset, _, _ in members] + [directory_at]
    for (_, following), (_, member, behind) in zip(pairwise(begins), members, strict=True):
        gap = following - member.start - member.packed_size
        # Behind a member may stand its crc and sizes: 4 or 8 bytes each, with or without a mark.
        if gap < 0 or gap not in ((12, 16, 20, 24) if behind else (0,)):
            what = "overlaps the next one" if gap < 0 else f"is followed by {gap} bytes that belong to nothing"
            raise refusal(archive, f"{member.name!r} {what}")


def _check_size(archive: Path, members: list[ZipMember], length: int) -> None:
    total = sum(member.size for member in members)
    if total > TOTAL_FLOOR_BYTES + TOTAL_RATIO * length:
        raise refusal(archive, f"its {length} bytes would become {total}")
    for member in members:
        kind = stat.S_IFMT(member.mode)
        if kind not in (0, stat.S_IFDIR if member.is_folder else stat.S_IFREG):
            raise refusal(archive, f"{member.name!r} is a link or a device")
        if member.is_folder and member.size:
            raise refusal(archive, f"the folder {member.name!r} has content")
