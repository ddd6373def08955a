"""Entries of a layer: path, mode, owner and where the content comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

CHUNK_BYTES = 2**20
"""Content travels in pieces of at most this size."""

Kind = Literal["file", "folder", "symlink"]


class Source(Protocol):
    """Content that is too large for memory, read in pieces when its turn comes."""

    @property
    def size(self) -> int:
        """How many bytes `chunks` gives in all."""

    def chunks(self) -> Iterator[bytes]:
        """Yield the content from its start; may be called again."""


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """The content of a file on this machine."""

    path: Path
    size: int

    def chunks(self) -> Iterator[bytes]:
        """Yield the content of the file."""
        with open(self.path, "rb") as file:
            while piece := file.read(CHUNK_BYTES):
                yield piece


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file, folder or symbolic link of a layer."""

    path: str
    """As `opt/stoker/bin/stoker`: no leading slash, `/` between the parts."""
    kind: Kind
    mode: int
    """Permission bits; of a symbolic link always 0o777."""
    content: bytes | Source | None = None
    """Of a file only."""
    target: str | None = None
    """Of a symbolic link only."""
    uid: int = 0
    gid: int = 0

    @property
    def size(self) -> int:
        """Bytes of content."""
        if self.content is None:
            return 0
        return len(self.content) if isinstance(self.content, bytes) else self.content.size


def file(path: str, content: bytes | Source, *, mode: int = 0o644, uid: int = 0, gid: int = 0) -> Entry:
    """Return the entry of a file."""
    return Entry(path=path, kind="file", mode=mode, content=content, uid=uid, gid=gid)


def folder(path: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Entry:
    """Return the entry of a folder. Only folders with another mode or owner than 0755 root need one: write_tar adds the others."""
    return Entry(path=path, kind="folder", mode=mode, uid=uid, gid=gid)


def symlink(path: str, target: str, *, uid: int = 0, gid: int = 0) -> Entry:
    """Return the entry of a symbolic link."""
    return Entry(path=path, kind="symlink", mode=0o777, target=target, uid=uid, gid=gid)
