"""Shared libraries without symbols and debug information: their segments, what linkers read of their sections, and nothing between or after."""

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
_SEGMENTS = struct.Struct("<Q14xHH")
"""At byte 32 of the header: where the table of segments is, the size of a row and their number."""
_SEGMENTS_AT, _SEGMENT_BYTES = 32, 56
_SEGMENT = struct.Struct("<I4xQ16xQ8xQ")
"""Of a segment its type, its place in the file, its size there and its alignment."""
_SEGMENT_PLACE_AT, _LOADED = 8, 1
_SECTIONS = struct.Struct("<Q10xHHH")
"""At byte 40: where the table of sections is, the size of a row, their number, and the one with their names."""
_SECTIONS_AT, _SECTION_BYTES = 40, 64
_SECTION = struct.Struct("<4xIQ8xQQ")
"""Of a section its type, its flags, its place in the file and its size."""
_SECTION_PLACE_AT, _IN_MEMORY, _WITHOUT_BYTES = 24, 2, 8
_NAMES_BYTES = 2**16
"""The most that names of sections may be; they mostly stand before their table, and are then read with it."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of the file that is kept."""

    start: int
    end: int
    at: int
    """Where it begins in the shorter file."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A library of a wheel, shortened; a Source. The wheel's own hash is checked all the same."""

    member: Member
    parts: tuple[Part, ...]
    sections: bytes
    """Names and table of the sections that are left: without them no linker takes the library (torch.compile links with libtorch_cpu)."""
    table_at: int
    """Where their table begins in the shorter file."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        return _end(self.parts) + len(self.sections)

    def chunks(self) -> Iterator[bytes]:
        """Yield the content. Raises what reading the member raises."""
        position = written = 0
        for piece in self.member.chunks():
            whole = piece if position else _moved(piece, self.parts, self.table_at)
            for part in self.parts:
                low, high = max(part.start, position), min(part.end, position + len(piece))
                if low < high:
                    at = part.at + low - part.start
                    yield bytes(at - written) + whole[low - position : high - position]
                    written = at + high - low
            position += len(piece)
        yield self.sections

    @property
    def digest(self) -> str:
        """The sha256 as RECORD writes it. Reads the whole member, once in this process."""
        return _digest(self)


@functools.lru_cache(maxsize=64)
def loaded(member: Member) -> Loaded | None:
    """Return the library without what nobody reads; None where that is nothing, or for what cannot be shortened safely."""
    head = next(member.packed.chunks(), b"")
    parts = _parts(head, member.size)
    table = _table(member, head) if parts else None
    if not parts or not table:
        return None
    end = _end(parts)
    kept = _kept_sections(table, parts, end)
    found = Loaded(member=member, parts=parts, sections=kept[0], table_at=end + kept[1]) if kept else None
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
        after = _end(parts)
        if parts and start < parts[-1].end:
            return None
        parts.append(Part(start=start, end=end, at=after + (start - after) % step))
    return tuple(parts)


def _end(parts: tuple[Part, ...] | list[Part]) -> int:
    return parts[-1].at + parts[-1].end - parts[-1].start if parts else 0


def _segments(head: bytes) -> list[tuple[int, int, int, int]]:
    if len(head) < _HEADER_BYTES or not head.startswith(_MAGIC):
        return []
    begin, size, count = _SEGMENTS.unpack_from(head, _SEGMENTS_AT)
    if size != _SEGMENT_BYTES or begin + size * count > len(head):
        return []
    return [_SEGMENT.unpack_from(head, begin + size * number) for number in range(count)]


@dataclass(frozen=True, kw_only=True)
class _Sections:
    """The sections as the file has them."""

    rows: tuple[bytes, ...]
    names: bytes
    names_row: int


def _table(member: Member, head: bytes) -> _Sections | None:
    """Return the sections; None where there are none, or not as compilers write them."""
    begin, size, count, names_row = _SECTIONS.unpack_from(head, _SECTIONS_AT)
    if size != _SECTION_BYTES or names_row >= count or begin + size * count > member.size:
        return None
    first = max(0, begin - _NAMES_BYTES)
    found = _between(member, first, begin + size * count)
    rows = tuple(found[at : at + size] for at in range(begin - first, len(found), size))
    _, _, place, length = _SECTION.unpack(rows[names_row][: _SECTION.size])
    if place + length > member.size or length > _NAMES_BYTES:
        return None
    near = first <= place and place + length <= begin
    names = found[place - first : place - first + length] if near else _between(member, place, place + length)
    return _Sections(rows=rows, names=names, names_row=names_row)


def _between(member: Member, start: int, end: int) -> bytes:
    found, position = bytearray(), 0
    for piece in member.chunks():
        low, high = max(start, position), min(end, position + len(piece))
        if low < high:
            found += piece[low - position : high - position]
        position += len(piece)
    return bytes(found)


def _kept_sections(sections: _Sections, parts: tuple[Part, ...], end: int) -> tuple[bytes, int] | None:
    """Return names and table of the sections that lie in memory, for a file that ends so far, and where the table begins in that. None: one of them
    is in no segment. The rows stay as many: they name each other by number."""
    content = bytes(-end % 8) + sections.names
    content += bytes(-(end + len(content)) % 8)
    rows = []
    for number, row in enumerate(sections.rows):
        kind, flags, place, count = _SECTION.unpack(row[: _SECTION.size])
        if number == sections.names_row:
            rows.append(_placed(row, end + -end % 8))
        elif not flags & _IN_MEMORY:
            rows.append(bytes(_SECTION_BYTES))
        elif kind == _WITHOUT_BYTES or not count:
            rows.append(_placed(row, 0))
        elif (part := next((part for part in parts if part.start <= place and place + count <= part.end), None)) is None:
            return None
        else:
            rows.append(_placed(row, part.at + place - part.start))
    return content + b"".join(rows), len(content)


def _placed(row: bytes, place: int) -> bytes:
    return row[:_SECTION_PLACE_AT] + struct.pack("<Q", place) + row[_SECTION_PLACE_AT + 8 :]


def _moved(head: bytes, parts: tuple[Part, ...], table_at: int) -> bytes:
    """Return the beginning of the file with the new places of its segments and of the table of sections."""
    patched = bytearray(head)
    begin, size, _ = _SEGMENTS.unpack_from(head, _SEGMENTS_AT)
    for number, (_, place, count, _) in enumerate(_segments(head)):
        part = next((part for part in parts if count and part.start <= place < part.end), None)
        if part:
            struct.pack_into("<Q", patched, begin + size * number + _SEGMENT_PLACE_AT, part.at + place - part.start)
    struct.pack_into("<Q", patched, _SECTIONS_AT, table_at)
    return bytes(patched)


@functools.lru_cache(maxsize=64)
def _digest(library: Loaded) -> str:
    found = hashlib.sha256()
    for piece in library.chunks():
        found.update(piece)
    return record_digest(found.digest())
