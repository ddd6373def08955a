"""Shared libraries without their debug information: all that the loader reads, up to the end of the last segment, and nothing after it."""

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
_SEGMENTS_AT = 32
_SEGMENT = struct.Struct("<8xQ16xQ")
_SEGMENT_BYTES = 56
# Where the header says where the sections are: there are none any more. Debuggers and linkers read sections, the loader does not.
_SECTIONS_AT, _SECTION_COUNTS_AT = slice(40, 48), slice(60, 64)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A library of a wheel as it is loaded; a Source. The wheel's own hash is checked all the same."""

    member: Member
    size: int

    def chunks(self) -> Iterator[bytes]:
        """Yield the content. Raises what reading the member raises."""
        left = self.size
        for number, piece in enumerate(self.member.chunks()):
            if left:
                kept = piece[:left]
                yield _without_sections(kept) if number == 0 else kept
                left -= len(kept)

    @property
    def digest(self) -> str:
        """The sha256 as RECORD writes it. Reads the whole member, once in this process."""
        return _digest(self)


def loaded(member: Member) -> Loaded | None:
    """Return the library without what stands after its last segment; None where nothing does, or for what is no library."""
    head = next(member.packed.chunks(), b"")
    end = _end(head)
    return Loaded(member=member, size=end) if end is not None and _HEADER_BYTES <= end < member.size else None


def _end(head: bytes) -> int | None:
    """Return where the last segment ends, None for what cannot be cut safely."""
    if len(head) < _HEADER_BYTES or not head.startswith(_MAGIC):
        return None
    begin, size, count = _SEGMENTS.unpack_from(head, _SEGMENTS_AT)
    if size != _SEGMENT_BYTES or not count or begin + size * count > len(head):
        return None
    return max(sum(_SEGMENT.unpack_from(head, begin + size * number)) for number in range(count))


def _without_sections(head: bytes) -> bytes:
    patched = bytearray(head)
    patched[_SECTIONS_AT] = bytes(8)
    patched[_SECTION_COUNTS_AT] = bytes(4)
    return bytes(patched)


@functools.lru_cache(maxsize=64)
def _digest(library: Loaded) -> str:
    found = hashlib.sha256()
    for piece in library.chunks():
        found.update(piece)
    return record_digest(found.digest())
