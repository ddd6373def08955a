"""Shared libraries without their debug information: the segments, which are all that the loader reads, and nothing between or after them."""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from stoker.image.wheel import Member, record_digest

# Source: System V ABI, ELF-64 object file format; little endian, as both architectures that Stoker builds for are.
_MAGIC = b"\x7fELF\x02\x01"
_HEADER_BYTES = 64
_TABLE = struct.Struct("<Q14xHH")
_TABLE_AT = 32
_SEGMENT = struct.Struct("<I4xQ16xQ8xQ")
"""Of a segment its type, its place in the file, its size there and its alignment."""
_SEGMENT_BYTES = 56
_PLACE_AT = 8
_LOADED = 1
# Where the header says where the sections are: there are none any more. Debuggers and linkers read sections, the loader does not.
_SECTIONS_AT, _SECTION_COUNTS_AT = slice(40, 48), slice(60, 64)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of the file that is kept."""

    start: int
    end: int
    at: int
    """Where it begins in the shorter file."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A library of a wheel as it is loaded; a Source. The wheel's own hash is checked all the same."""

    member: Member
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.parts[-1].at + self.parts[-1].end - self.parts[-1].start

    def chunks(self) -> Iterator[bytes]:
        """Yield the content. Raises what reading the member raises."""
        position = written = 0
        for piece in self.member.chunks():
            whole = piece if position else _moved(piece, self.parts)
            for part in self.parts:
                low, high = max(part.start, position), min(part.end, position + len(piece))
                if low < high:
                    at = part.at + low - part.start
                    yield bytes(at - written) + whole[low - position : high - position]
                    written = at + high - low
            position += len(piece)

    @property
    def digest(self) -> str:
        """The sha256 as RECORD writes it. Reads the whole member, once in this process."""
        return _digest(self)


def loaded(member: Member) -> Loaded | None:
    """Return the library without what is no part of a segment; None where that is nothing, or for what cannot be shortened safely."""
    parts = _parts(next(member.packed.chunks(), b""), member.size)
    found = Loaded(member=member, parts=parts) if parts else None
    return found if found and found.size < member.size else None


def _parts(head: bytes, size: int) -> tuple[Part, ...] | None:
    segments = _segments(head)
    ranges = sorted((place, place + count) for kind, place, count, _ in segments if kind == _LOADED and count)
    if not ranges or ranges[0][0] != 0 or ranges[0][1] < _HEADER_BYTES or max(end for _, end in ranges) > size:
        return None
    if any(count and not any(start <= place and place + count <= end for start, end in ranges) for _, place, count, _ in segments):
        return None
    # A segment lies in the file as it does in memory, up to multiples of its alignment.
    step = max(alignment for *_, alignment in segments)
    if not 1 <= step <= size:
        return None
    parts: list[Part] = []
    for start, end in ranges:
        after = parts[-1].at + parts[-1].end - parts[-1].start if parts else 0
        if parts and start < parts[-1].end:
            return None
        parts.append(Part(start=start, end=end, at=after + (start - after) % step))
    return tuple(parts)


def _segments(head: bytes) -> list[tuple[int, int, int, int]]:
    if len(head) < _HEADER_BYTES or not head.startswith(_MAGIC):
        return []
    begin, size, count = _TABLE.unpack_from(head, _TABLE_AT)
    if size != _SEGMENT_BYTES or begin + size * count > len(head):
        return []
    return [_SEGMENT.unpack_from(head, begin + size * number) for number in range(count)]


def _moved(head: bytes, parts: tuple[Part, ...]) -> bytes:
    """Return the beginning of the file with the new places of its segments, and without sections."""
    patched = bytearray(head)
    begin, size, _ = _TABLE.unpack_from(head, _TABLE_AT)
    for number, (_, place, count, _) in enumerate(_segments(head)):
        part = next((part for part in parts if count and part.start <= place < part.end), None)
        if part:
            struct.pack_into("<Q", patched, begin + size * number + _PLACE_AT, part.at + place - part.start)
    patched[_SECTIONS_AT] = bytes(8)
    patched[_SECTION_COUNTS_AT] = bytes(4)
    return bytes(patched)


@functools.lru_cache(maxsize=64)
def _digest(library: Loaded) -> str:
    found = hashlib.sha256()
    for piece in library.chunks():
        found.update(piece)
    return record_digest(found.digest())
