"""Wheels from strangers: what an archive would install, with everything refused that is not as PEP 427 and its RECORD say.

RECORD must name every file with a sha256 (or longer) and nothing else; hashes are checked while contents are read, so that a wheel is
read once. Refused too: links, devices, paths that lead elsewhere, names that differ in case only (on another file system one would
replace the other), a name or version that is not the file name's, and whatever `ziparchive` refuses.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import unicodedata
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from stoker.errors import HashMismatch, UnsafeArchive
from stoker.image import ziparchive
from stoker.image.tarball import fault_of_path
from stoker.image.ziparchive import ZipMember

_HASHES = ("sha256", "sha384", "sha512")
_SIGNATURES = ("RECORD.jws", "RECORD.p7s")
_RECORD_LIMIT_BYTES = 2**27
_METADATA_LIMIT_BYTES = 2**24
_FILE_NAME = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)(-\d[^-]*)?-[^-]+-[^-]+-[^-]+\.whl")
_VERSION_WORDS = {"alpha": "a", "beta": "b", "c": "rc", "pre": "rc", "preview": "rc", "rev": "post", "r": "post"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One file of a wheel; a Source that checks its hash against RECORD while it is read."""

    name: str
    """In the archive."""
    algorithm: str
    """`sha256`, `sha384` or `sha512`."""
    digest: str
    """As RECORD writes it: URL-safe base64 without `=`."""
    size: int
    executable: bool
    """Whether the archive marks it as a program."""
    packed: ZipMember

    def chunks(self) -> Iterator[bytes]:
        """Yield the content. Raises UnsafeArchive, and HashMismatch after the last piece, when it is not what RECORD says."""
        found = hashlib.new(self.algorithm)
        for piece in self.packed.chunks():
            found.update(piece)
            yield piece
        if (actual := record_digest(found.digest())) != self.digest:
            raise HashMismatch(
                f"{self.packed.archive.name}: {self.name} has the {self.algorithm} {actual}, and RECORD says {self.digest}",
                hint="the wheel was damaged or changed after it was made: ask where it comes from",
            )

    def read(self) -> bytes:
        """Return the whole content, checked."""
        return b"".join(self.chunks())


@dataclass(frozen=True, kw_only=True)
class WheelArchive:
    """A wheel whose structure has been checked; contents are checked when they are read."""

    path: Path
    name: str
    """As METADATA writes it."""
    version: str
    """As METADATA writes it."""
    dist_info: str
    """The folder of metadata, as `torch-2.13.0.dist-info`."""
    data: str | None
    """The folder with scripts, headers and the like, as `torch-2.13.0.data`; None: there is none."""
    members: tuple[Member, ...]
    """Every file but RECORD and its signatures, sorted by name."""

    def member(self, name: str) -> Member | None:
        """Return the file of that name, or None."""
        return next((member for member in self.members if member.name == name), None)


def read_wheel(path: Path, *, file_name: str | None = None) -> WheelArchive:
    """Return what the wheel at `path` would install. `file_name`: what it is called, where `path` is that of a store.

    Raises UnsafeArchive for whatever is not a plain, well-formed wheel.
    """
    called = file_name or path.name
    try:
        return _read(path, called)
    except UnsafeArchive as error:
        # A store calls its files by hash: say the name that people know.
        raise UnsafeArchive(error.message.replace(path.name, called), hint=error.hint) from error


def record_digest(digest: bytes) -> str:
    """Return a hash as RECORD writes it."""
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def normal_name(name: str) -> str:
    """Return a package's name as the index writes it: lower case, `-` between the words."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _read(path: Path, called: str) -> WheelArchive:
    packed = {}
    for member in ziparchive.read_directory(path):
        if member.name in packed:
            raise ziparchive.refusal(path, f"{member.name!r} is in it twice")
        packed[member.name] = member
    files = {name: member for name, member in packed.items() if not member.is_folder}
    _check_paths(path, packed)
    dist_info = _only_folder(path, files, ".dist-info")
    if dist_info is None:
        raise ziparchive.refusal(path, "it has no folder .dist-info")
    data = _only_folder(path, files, ".data")
    name, version = _identity(path, files, dist_info, data, called)
    rows = _record(path, files, dist_info)
    return WheelArchive(path=path, name=name, version=version, dist_info=dist_info, data=data, members=_members(path, files, rows, dist_info))


def _check_paths(path: Path, packed: dict[str, ZipMember]) -> None:
    """Refuse names that lead out, that are a file and a folder at once, and that another file system would take for one."""
    spelled: dict[str, str] = {}
    files = {name for name, member in packed.items() if not member.is_folder}
    for name in packed:
        if fault := fault_of_path(name.removesuffix("/")):
            raise ziparchive.refusal(path, f"the name {name!r} {fault}")
        above = name.removesuffix("/")
        while above:
            if above in files and above != name:
                raise ziparchive.refusal(path, f"{above!r} is both a file and a folder")
            folded = unicodedata.normalize("NFC", above).casefold()
            if spelled.setdefault(folded, above) != above:
                raise ziparchive.refusal(path, f"{above!r} and {spelled[folded]!r} differ in case only")
            above = above.rpartition("/")[0]


def _only_folder(path: Path, files: dict[str, ZipMember], ending: str) -> str | None:
    """Return the folder at the top whose name ends so, or None. Raises UnsafeArchive when there are two."""
    found = sorted({name.split("/", 1)[0] for name in files if "/" in name and name.split("/", 1)[0].endswith(ending)})
    if len(found) > 1:
        raise ziparchive.refusal(path, f"it has two folders {ending}: {', '.join(found)}")
    return found[0] if found else None


def _identity(path: Path, files: dict[str, ZipMember], dist_info: str, data: str | None, called: str) -> tuple[str, str]:
    """Return name and version; file name, folders and METADATA must agree on them."""
    wheel = _message(path, files, f"{dist_info}/WHEEL")
    if (wheel_version := wheel.get("wheel-version", "")).split(".")[0] != "1":
        raise ziparchive.refusal(path, f"it is a wheel of version {wheel_version!r}; known is version 1")
    metadata = _message(path, files, f"{dist_info}/METADATA")
    name, version = metadata.get("name", ""), metadata.get("version", "")
    parts = _FILE_NAME.fullmatch(called)
    if not parts:
        raise ziparchive.refusal(path, "its file name is not that of a wheel (NAME-VERSION-PYTHON-ABI-PLATFORM.whl)")
    told = {called: (parts["name"], parts["version"])}
    for folder in filter(None, (dist_info, data)):
        folder_name, _, folder_version = folder.rpartition(".")[0].partition("-")
        told[folder] = (folder_name, folder_version)
    for place, (other_name, other_version) in told.items():
        if normal_name(other_name) != normal_name(name) or _version_key(other_version) != _version_key(version):
            raise ziparchive.refusal(path, f"METADATA says {name!r} {version!r}, and {place!r} something else")
    return name, version


def _message(path: Path, files: dict[str, ZipMember], name: str) -> dict[str, str]:
    """Return the headers of METADATA or WHEEL by lower-case key; a Name or Version that stands there twice is refused."""
    if name not in files:
        raise ziparchive.refusal(path, f"it has no {name}")
    try:
        message = HeaderParser().parsestr(files[name].read(_METADATA_LIMIT_BYTES).decode())
    except UnicodeDecodeError as error:
        raise ziparchive.refusal(path, f"{name} is no UTF-8") from error
    for key in ("Name", "Version", "Wheel-Version"):
        if len(message.get_all(key, [])) > 1:
            raise ziparchive.refusal(path, f"{name} says {key} twice")
    return {key.lower(): str(value).strip() for key, value in message.items()}


def _version_key(version: str) -> tuple[str | int, ...]:
    """Return what two spellings of one version have in common (PEP 440, as far as file names need it)."""
    words = re.findall(r"\d+|[a-z]+", version.lower().removeprefix("v"))
    return tuple(int(word) if word.isdigit() else _VERSION_WORDS.get(word, word) for word in words)


def _record(path: Path, files: dict[str, ZipMember], dist_info: str) -> dict[str, tuple[str, str]]:
    """Return RECORD as name -> (hash, size)."""
    name = f"{dist_info}/RECORD"
    if name not in files:
        raise ziparchive.refusal(path, "it has no RECORD")
    try:
        text = files[name].read(_RECORD_LIMIT_BYTES).decode()
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ziparchive.refusal(path, f"its RECORD cannot be read ({error})") from error
    rows: dict[str, tuple[str, str]] = {}
    for line in filter(None, lines):
        if len(line) != 3:
            raise ziparchive.refusal(path, f"its RECORD has a line of {len(line)} fields: {','.join(line)[:200]!r}")
        if line[0] in rows:
            raise ziparchive.refusal(path, f"its RECORD names {line[0]!r} twice")
        rows[line[0]] = (line[1], line[2])
    return rows


def _members(path: Path, files: dict[str, ZipMember], rows: dict[str, tuple[str, str]], dist_info: str) -> tuple[Member, ...]:
    """Return the files with their hashes. RECORD and the archive must name the same files."""
    unhashed = {f"{dist_info}/{name}" for name in ("RECORD", *_SIGNATURES)}
    if stray := sorted(set(files) - set(rows) - unhashed):
        raise ziparchive.refusal(path, f"{stray[0]!r} is not in its RECORD ({len(stray)} such files)")
    if lacking := sorted(set(rows) - set(files) - unhashed):
        raise ziparchive.refusal(path, f"its RECORD names {lacking[0]!r}, which is not there ({len(lacking)} such files)")
    return tuple(_member(path, files[name], *rows[name]) for name in sorted(files) if name not in unhashed)


def _member(path: Path, packed: ZipMember, told_hash: str, told_size: str) -> Member:
    algorithm, _, digest = told_hash.partition("=")
    if algorithm not in _HASHES or not digest:
        raise ziparchive.refusal(path, f"RECORD has no sha256 of {packed.name!r} (it says {told_hash!r})")
    if told_size and told_size != str(packed.size):
        raise ziparchive.refusal(path, f"{packed.name!r} has {packed.size} bytes, and RECORD says {told_size}")
    return Member(
        name=packed.name,
        algorithm=algorithm,
        digest=digest.rstrip("="),
        size=packed.size,
        executable=bool(packed.mode & 0o111),
        packed=packed,
    )
