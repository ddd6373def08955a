"""The files of an image, read from the tars of its layers or of an exported container: nothing is unpacked, nothing of it is run."""

from __future__ import annotations

import hashlib
import posixpath
import re
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import IO, Any, Protocol

from stoker.errors import ImageBroken
from stoker.image.checks.secrets import signs_of

_PIECE = 1 << 20
_SMALL = 1 << 20
"""Files up to this size are searched for secrets: keys and tokens live in small files..."""
_MOST_SEARCHED = 16 << 20
"""...and in texts, up to this size: notebooks keep what was printed beside their pictures."""
_MOST_TEXT = 32 << 20
"""RECORD of the largest wheels has 2 MB; what is far larger is no list of files."""
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
# What the rules read. Everything else is only hashed.
_TEXTS = re.compile(
    r"var/lib/dpkg/(status|status\.d/.*|info/[^/]+\.(md5sums|list))|etc/(passwd|shadow|stoker/.*|dpkg/dpkg\.cfg(\.d/.*)?)|.*\.(dist|egg)-info/(RECORD|METADATA|PKG-INFO)"
    r"|(.*/)?(pip\.conf|\.pip/pip\.conf|uv\.toml)|opt/stoker/[^/]+/pyvenv\.cfg"
)
_KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.DIRTYPE: "folder",
    tarfile.SYMTYPE: "symlink",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "fifo",
}


class Readable(Protocol):
    """A stream of bytes that is read once, from front to back."""

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes; none at the end."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One file, folder, link or device of an image."""

    path: str
    """As `usr/bin/python3`: no leading slash."""
    kind: str
    """`file`, `folder`, `symlink`, `device` or `fifo`."""
    mode: int
    """Permission bits with setuid, setgid and sticky."""
    uid: int
    gid: int
    size: int
    target: str | None = None
    """Of a symbolic link."""
    sha256: str | None = None
    """Of a file."""
    md5: str | None = None
    """Of a file outside /opt: dpkg's own lists of files hold nothing better."""
    head: bytes = b""
    """Its first 16 bytes."""
    signs: tuple[str, ...] = ()
    """What in its text looks like a secret."""
    capabilities: bool = False
    """Whether it carries rights of root as a file attribute."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """All files of an image."""

    nodes: dict[str, Node] = field(default_factory=dict)
    """By path."""
    texts: dict[str, bytes] = field(default_factory=dict)
    """The few files whose text the rules read, by path."""
    buried: list[Node] = field(default_factory=list)
    """Files that look like secrets and that a higher layer replaces or deletes: the lower one still holds them, for whoever unpacks it."""
    only: re.Pattern[str] | None = None
    """The paths of these files, where others than the rules ask for them; then no file has a hash."""

    def text(self, path: str) -> str | None:
        """Return the text of one of them; None when there is no such file."""
        found = self.texts.get(path)
        return None if found is None else found.decode("utf-8", errors="replace")

    def real(self, path: str) -> str:
        """Return the path with links among its folders followed: `bin/sh` is `usr/bin/sh` on a merged-/usr system."""
        done = ""
        for part in path.split("/")[:-1]:
            done = posixpath.join(done, part)
            for _ in range(8):
                node = self.nodes.get(done)
                if node is None or node.kind != "symlink" or not node.target:
                    break
                done = posixpath.normpath(posixpath.join("/", posixpath.dirname(done), node.target)).lstrip("/")
        return posixpath.join(done, path.rpartition("/")[2])

    def find(self, path: str) -> Node | None:
        """Return what lies at a path, links among its folders followed."""
        return self.nodes.get(path) or self.nodes.get(self.real(path))


def read_contents(tars: Iterable[Readable], *, only: re.Pattern[str] | None = None) -> Contents:
    """Return the files that these layers give, the lowest first; a later layer replaces and deletes as OCI image spec 1.1 says.

    `only`: the texts of these paths, and no more; files are not hashed then, which takes most of the time. Raises ImageBroken for a tar that
    cannot be read or that would reach outside of the image.
    """
    contents = Contents(only=only)
    for number, stream in enumerate(tars, start=1):
        _add_layer(contents, stream, f"layer {number}")
    return contents


def _add_layer(contents: Contents, stream: Any, place: str) -> None:
    new: set[str] = set()
    try:
        # The stream may be a pipe: read once, from front to back.
        with tarfile.open(fileobj=stream, mode="r|", errors="surrogateescape") as tar:
            for member in tar:
                _add_member(contents, tar, member, new, place)
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every member for ever; 60,000 of them take 100 MB
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise ImageBroken(f"{place} cannot be read as a tar: {error}", hint="build or fetch the image again") from error


def _add_member(contents: Contents, tar: tarfile.TarFile, member: tarfile.TarInfo, new: set[str], place: str) -> None:
    path = _path(member.name, place)
    folder, _, name = path.rpartition("/")
    if name == _OPAQUE:
        _remove_below(contents, folder, keep=new)
        return
    if name.startswith(_WHITEOUT):
        gone = posixpath.join(folder, name[len(_WHITEOUT) :])
        _remove(contents, gone)
        return
    if not path:
        return
    node = _hardlink(contents, member, path, place) if member.islnk() else _read_node(contents, tar, member, path, place)
    before = contents.nodes.get(path)
    if before is not None and before.kind == "folder" and node.kind != "folder":
        _remove_below(contents, path, keep=set())
    _bury(contents, path)
    contents.nodes[path] = node
    if node.kind != "file":
        contents.texts.pop(path, None)
    new.add(path)


def _path(name: str, place: str) -> str:
    path = posixpath.normpath(name.lstrip("/"))
    if path == ".." or path.startswith("../") or "\x00" in path:
        raise ImageBroken(f"{place} holds the path {name!r}, which lies outside of the image", hint="do not use this image")
    return "" if path == "." else path


def _bury(contents: Contents, path: str) -> None:
    gone = contents.nodes.pop(path, None)
    if gone is not None and gone.signs:
        contents.buried.append(gone)


def _remove(contents: Contents, path: str) -> None:
    _bury(contents, path)
    contents.texts.pop(path, None)
    _remove_below(contents, path, keep=set())


def _remove_below(contents: Contents, folder: str, *, keep: set[str]) -> None:
    start = folder + "/" if folder else ""
    for path in [path for path in contents.nodes if path.startswith(start) and path not in keep]:
        _bury(contents, path)
        contents.texts.pop(path, None)


def _hardlink(contents: Contents, member: tarfile.TarInfo, path: str, place: str) -> Node:
    target = _path(member.linkname, place)
    node = contents.nodes.get(target)
    if node is None:
        raise ImageBroken(f"{place}: {path} is a link to {target}, which is not there", hint="build or fetch the image again")
    if target in contents.texts:
        contents.texts[path] = contents.texts[target]
    return replace(node, path=path)


def _read_node(contents: Contents, tar: tarfile.TarFile, member: tarfile.TarInfo, path: str, place: str) -> Node:
    kind = _KINDS.get(member.type, "file" if member.isreg() else None)
    if kind is None:
        raise ImageBroken(f"{place}: {path} is of the unknown kind {member.type!r}", hint="build or fetch the image again")
    node = Node(
        path=path,
        kind=kind,
        mode=member.mode & 0o7777,
        uid=member.uid,
        gid=member.gid,
        size=member.size if kind == "file" else 0,
        target=member.linkname if kind == "symlink" else None,
        capabilities=any(name.endswith("security.capability") for name in member.pax_headers),
    )
    if kind != "file":
        return node
    file = tar.extractfile(member)
    assert file is not None
    return _told(contents, contents.only, node, file) if contents.only else _hashed(contents, node, file)


def _told(contents: Contents, only: re.Pattern[str], node: Node, file: IO[bytes]) -> Node:
    contents.texts.pop(node.path, None)
    if node.size <= _MOST_TEXT and only.fullmatch(node.path):
        contents.texts[node.path] = file.read()
    return node


def _hashed(contents: Contents, node: Node, file: IO[bytes]) -> Node:
    sha256 = hashlib.sha256()
    md5 = None if node.path.startswith("opt/") else hashlib.md5(usedforsecurity=False)
    wanted = node.size <= _MOST_TEXT and _TEXTS.fullmatch(node.path) is not None
    kept = bytearray()
    head, kept_whole = b"", wanted or node.size <= _SMALL
    while piece := file.read(_PIECE):
        if not head:
            head = piece[:16]
            kept_whole = kept_whole or (node.size <= _MOST_SEARCHED and b"\0" not in piece)
        sha256.update(piece)
        if md5:
            md5.update(piece)
        if kept_whole:
            kept += piece
    contents.texts.pop(node.path, None)
    if wanted:
        contents.texts[node.path] = bytes(kept)
    return replace(node, sha256=sha256.hexdigest(), md5=md5.hexdigest() if md5 else None, head=head, signs=signs_of(node.path, bytes(kept)))
