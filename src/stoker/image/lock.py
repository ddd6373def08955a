"""`stoker.lock`: every file that an image is made of, by name, version and hash; no address, so that it works behind any mirror."""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stoker.errors import LockBroken, LockMissing, LockOutdated, UnknownName
from stoker.files import write_text_atomically
from stoker.image.fields import Fields
from stoker.image.placed import NoToml, PlacedToml, Unreadable, quoted, read_toml
from stoker.image.rows import Base, Deb, LockedStack, Own, Wheel
from stoker.image.specification import IMAGE_NAME, PRUNES, SPECIFICATION_FILE, VARIANTS

__all__ = [
    "FILE_TIME",
    "FORMAT",
    "LOCK_FILE",
    "PLAIN",
    "Base",
    "Deb",
    "Lock",
    "LockedStack",
    "Own",
    "Wheel",
    "lock_file_text",
    "lock_text",
    "parse_lock",
    "read_lock",
    "write_lock",
]

LOCK_FILE = "stoker.lock"
FORMAT = 1
PLAIN = "plain"
"""The name of the stack of an image without PyTorch."""
FILE_TIME = 1577836800
"""The time of every file in every layer (2020-01-01 UTC). Not the lock's: the same wheel gives the same layer under every lock, and so is made, kept
and sent once. Not 0 either: zip files, which tools make of such folders, begin in 1980."""
_CHECKSUM = "checksum"
_SEAL = f"\n[{_CHECKSUM}]\n"
_COMMENT = """\
# Written by `stoker image lock` from stoker.toml, read by `stoker image build`; it belongs into version control. Do not edit it: change stoker.toml.
# It names every file of the image by its hash and holds no address, so that it works behind any mirror."""
_HINT = "a lock is not edited: take it back from version control, or run `stoker image lock`"

# A lock may come from a stranger: nothing of it may be an option, leave a folder or break a line.
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+!_-]{0,99}")
_WORD = re.compile(r"[a-z0-9]{1,20}")
_WORDS = re.compile(r"[A-Za-z0-9][A-Za-z0-9. ,:+_-]{0,99}")
_MACHINE = re.compile(r"x86_64|aarch64")
_SUITE = re.compile(r"[a-z][a-z-]{0,30}")
_STACK = re.compile(rf"cu[0-9]{{2,4}}|cpu|{PLAIN}")
_ARCHITECTURE = re.compile(r"[0-9]{2,3}[a-z]?")
_DEB_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*")
_DEB_VERSION = re.compile(r"[0-9][0-9A-Za-z.+:~-]*")
_DEB_FILE = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9.+~_-]*/)*[a-z0-9][A-Za-z0-9.+~_-]*\.deb")
_WHEEL_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_WHEEL_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._]*-[0-9A-Za-z.+!_]+(?:-[A-Za-z0-9_.]+){3,4}\.whl")
_HEAD = ("machine", "python", "python_full", "variants", "prune", "compression", "specification")


@dataclass(frozen=True, kw_only=True)
class Lock:
    """An image, decided to the last byte."""

    format: int = FORMAT
    name: str
    created: int
    """Unix time of the lock, in seconds: the `created` of the image. Files have FILE_TIME."""
    machine: str
    """`x86_64` or `aarch64`."""
    specification: str
    """The digest of the Specification that it was made from."""
    python: str
    """As `3.13`."""
    python_full: str
    """As `3.13.5`."""
    base: Base
    stacks: tuple[LockedStack, ...]
    """The newest first: the start tries them in this order."""
    variants: tuple[str, ...]
    prune: tuple[str, ...]
    own: Own
    compression: str
    """As `zstandard 0.25.0 level 3`: another one gives other bytes."""

    @property
    def digest(self) -> str:
        """Return `sha256:...` of the canonical text."""
        return "sha256:" + hashlib.sha256(lock_text(self).encode()).hexdigest()

    def part(self, variants: Collection[str]) -> Lock:
        """Return the lock with only what these variants need; `cli` is always in. Raises UnknownName for one that was not locked."""
        kept = {"cli", *variants}
        if unknown := sorted(kept - {"cli", *self.variants}):
            raise UnknownName(
                f"the lock of {self.name} has no variant {', '.join(unknown)}: it has {', '.join(self.variants)}",
                hint=f"add it to `variants` in {SPECIFICATION_FILE}, then run `stoker image lock`",
            )
        return replace(
            self,
            variants=tuple(one for one in self.variants if one in kept),
            base=replace(self.base, debs=tuple(deb for deb in self.base.debs if kept & set(deb.variants))),
            stacks=tuple(replace(stack, wheels=tuple(wheel for wheel in stack.wheels if kept & set(wheel.variants))) for stack in self.stacks),
        )


def lock_text(lock: Lock) -> str:
    """Return the lock as canonical TOML: one package a line, sorted; the same lock is the same text."""
    moment = datetime.datetime.fromtimestamp(lock.created, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    head = {name: getattr(lock, name) for name in _HEAD}
    lines = [_COMMENT, *_fields({"format": lock.format, "name": lock.name}), f"created = {moment}", *_fields(head)]
    lines += ["", "[own]", *_fields(vars(lock.own))]
    lines += ["", "[base]", *_fields(_without(lock.base, "debs")), *_rows("debs", sorted(lock.base.debs, key=_by_name))]
    for stack in lock.stacks:
        lines += ["", "[[stacks]]", *_fields(_without(stack, "wheels")), *_rows("wheels", sorted(stack.wheels, key=_by_name))]
    return "\n".join(lines) + "\n"


def lock_file_text(lock: Lock) -> str:
    """Return the text of a stoker.lock: the canonical one, and its hash, by which an edit or a merge is noticed."""
    text = lock_text(lock)
    return f'{text}{_SEAL}sha256 = "{hashlib.sha256(text.encode()).hexdigest()}"\n'


def write_lock(path: Path, lock: Lock) -> None:
    """Write a lock, whole or not at all. Raises as `files.write_text_atomically`, and LockBroken rather than write what could not be read."""
    text = lock_file_text(lock)
    parse_lock(text, name=path.name)
    write_text_atomically(path, text)


def read_lock(path: Path, *, edited: bool = False) -> Lock:
    """Return the lock of a file. Raises LockMissing, LockOutdated (another format) and LockBroken with the place.

    `edited`: take one that is not as it was written, too: its versions are worth keeping for the next.
    """
    try:
        file = read_toml(path)
        lock = _lock_of(file)
    except FileNotFoundError as error:
        written = f"`stoker image lock` writes it, from {SPECIFICATION_FILE}"
        hint = written if path.name == LOCK_FILE else f"name a {LOCK_FILE}, or the folder of one"
        raise LockMissing(f"there is no {path}", hint=hint) from error
    except Unreadable as error:
        raise LockBroken(f"{path} cannot be read: {error}", hint="a lock is a file that you may read") from error
    except NoToml as error:
        raise LockBroken(f"{path} is no TOML: {error}", hint=_HINT) from error
    if not edited and not _is_as_written(file):
        raise LockBroken(f"{path} was edited, or merged, after `stoker image lock` had written it", hint=_HINT)
    return lock


def parse_lock(text: str, *, name: str = LOCK_FILE) -> Lock:
    """Return the lock of a text. Raises LockOutdated and LockBroken with the place in the file `name`."""
    try:
        return _lock_of(PlacedToml(text, name=name))
    except NoToml as error:
        raise LockBroken(f"{name} is no TOML: {error}", hint=_HINT) from error


# --- reading --------------------------------------------------------------------------------------------------------


def _lock_of(file: PlacedToml) -> Lock:
    table = Fields(file, (), error=LockBroken, hint=_HINT)
    if table.peek("format") is None:
        raise LockBroken(f"{file.name} is no lock of an image: it does not say its format", hint=_HINT)
    found = table.number("format")
    if found != FORMAT:
        raise LockOutdated(f"{file.name} has format {found}, this Stoker reads and writes {FORMAT}", hint="`stoker image lock` writes it anew")
    lock = Lock(
        name=_matched(table, "name", IMAGE_NAME),
        created=table.moment("created"),
        machine=_matched(table, "machine", _MACHINE),
        specification=_matched(table, "specification", _DIGEST),
        python=_matched(table, "python", _VERSION),
        python_full=_matched(table, "python_full", _VERSION),
        base=_base(table.inner("base")),
        stacks=tuple(_stack(row) for row in table.rows("stacks")),
        variants=table.chosen("variants", VARIANTS),
        prune=table.chosen("prune", PRUNES),
        own=_own(table.inner("own")),
        compression=_matched(table, "compression", _WORDS),
    )
    if _CHECKSUM in file.values:
        sealed = table.inner(_CHECKSUM)
        _matched(sealed, "sha256", _SHA256)
        sealed.end()
    table.end()
    _fits_together(lock, table)
    return lock


def _is_as_written(file: PlacedToml) -> bool:
    """Whether the hash at the end is that of all before it; without one nothing can be said. Git may have made CR LF of the line ends."""
    if _CHECKSUM not in file.values:
        return True
    text, _, _ = file.text.replace("\r\n", "\n").rpartition(_SEAL)
    return bool(file.values[_CHECKSUM]["sha256"] == hashlib.sha256(text.encode()).hexdigest())


def _fits_together(lock: Lock, table: Fields) -> None:
    """Raise where two values contradict each other."""
    if not lock.python_full.startswith(lock.python + "."):
        raise table.wrong("python_full", f"{lock.python_full} is no Python {lock.python}", _HINT)
    if lock.variants[:1] != ("cli",) or len(set(lock.variants)) != len(lock.variants):
        raise table.wrong("variants", "cli is first in it, and each variant once", _HINT)
    if not lock.stacks or len({stack.name for stack in lock.stacks}) != len(lock.stacks):
        raise table.wrong("stacks", "there is at least one, and each name once", _HINT)
    for base in table.inner("base"), *table.rows("stacks"):
        key = "debs" if base.peek("debs") is not None else "wheels"
        for row in base.rows(key):
            if foreign := [one for one in row.texts("variants") if one not in lock.variants]:
                raise row.wrong("variants", f"the image has no variant {foreign[0]!r}", _HINT)


def _own(table: Fields) -> Own:
    own = Own(version=_matched(table, "version", _VERSION), sha256=_matched(table, "sha256", _SHA256))
    table.end()
    return own


def _base(table: Fields) -> Base:
    base = Base(
        kind=table.choice("kind", ("debian", "oci")),
        suite=_maybe(table, "suite", _SUITE),
        digest=_maybe(table, "digest", _DIGEST),
        debs=tuple(sorted((_deb(row) for row in table.rows("debs")), key=_by_name)),
    )
    if (base.suite is None) != (base.kind == "oci") or (base.digest is None) == (base.kind == "oci"):
        raise table.wrong("kind", "a debian base has a suite and no digest, an oci base has a digest and no suite", _HINT)
    names = [(deb.name, deb.architecture) for deb in base.debs]
    _once(table, "debs", [name for name, _ in names] if len(set(names)) != len(names) else [])
    table.end()
    return base


def _stack(table: Fields) -> LockedStack:
    stack = LockedStack(
        name=_matched(table, "name", _STACK),
        torch=_maybe(table, "torch", _VERSION),
        torchvision=_maybe(table, "torchvision", _VERSION),
        cuda=_maybe(table, "cuda", _VERSION),
        toolkit=_maybe(table, "toolkit", _VERSION),
        cudnn=_maybe(table, "cudnn", _VERSION),
        driver_min=_maybe(table, "driver_min", _VERSION),
        driver_full=_maybe(table, "driver_full", _VERSION),
        architectures=tuple(_matched_text(table, "architectures", one, _ARCHITECTURE) for one in table.texts("architectures")),
        ptx=table.flag("ptx"),
        wheels=tuple(sorted((_wheel(row) for row in table.rows("wheels")), key=_by_name)),
    )
    table.end()
    _once(table, "wheels", [wheel.name for wheel in stack.wheels])
    for package, version in (("torch", stack.torch), ("torchvision", stack.torchvision)):
        locked = [wheel.version.partition("+")[0] for wheel in stack.wheels if wheel.name == package]
        if locked and locked != [version]:
            raise table.wrong(package, f"the stack says {version}, its wheel is {locked[0]}", _HINT)
    return stack


def _deb(table: Fields) -> Deb:
    deb = Deb(
        name=_matched(table, "name", _DEB_NAME),
        version=_matched(table, "version", _DEB_VERSION),
        architecture=_matched(table, "architecture", _WORD),
        file=_matched(table, "file", _DEB_FILE),
        sha256=_matched(table, "sha256", _SHA256),
        size=table.number("size"),
        archive=table.choice("archive", ("debian", "security")),
        variants=_variants(table),
    )
    table.end()
    # Debian policy, 5.6.12: the epoch stands in no file name.
    if deb.file.rpartition("/")[2] != f"{deb.name}_{deb.version.partition(':')[2] or deb.version}_{deb.architecture}.deb":
        raise table.wrong("file", f"{deb.file} is not {deb.name} {deb.version} for {deb.architecture}", _HINT)
    return deb


def _wheel(table: Fields) -> Wheel:
    wheel = Wheel(
        name=_matched(table, "name", _WHEEL_NAME),
        version=_matched(table, "version", _VERSION),
        file=_matched(table, "file", _WHEEL_FILE),
        sha256=_matched(table, "sha256", _SHA256),
        size=table.number("size"),
        index=_maybe(table, "index", _STACK),
        variants=_variants(table),
        extra=table.peek("extra") is not None and table.flag("extra"),
    )
    table.end()
    name, version = wheel.file.split("-")[:2]
    if re.sub(r"[-_.]+", "-", name).lower() != wheel.name or _comparable(version) != _comparable(wheel.version):
        raise table.wrong("file", f"{wheel.file} is not {wheel.name} {wheel.version}", _HINT)
    return wheel


def _variants(table: Fields) -> tuple[str, ...]:
    found = table.chosen("variants", VARIANTS)
    if not found:
        raise table.wrong("variants", "no variant needs it", _HINT)
    return found


def _comparable(version: str) -> list[str]:
    """Return the parts of a version without what may be written in several ways: 2024.01 and 2024.1, 1.0.post1 and 1.0-post1, 1.0 and 1."""
    parts = [str(int(part)) if part.isdecimal() else part for part in re.findall(r"[0-9]+|[a-z]+", version.lower())]
    while parts and parts[-1] == "0":
        parts.pop()
    return parts


def _once(table: Fields, key: str, names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if list(names).count(name) > 1}):
        raise table.wrong(key, f"{twice[0]} stands in it twice", _HINT)


def _matched(table: Fields, key: str, pattern: re.Pattern[str]) -> str:
    return _matched_text(table, key, table.text(key), pattern)


def _matched_text(table: Fields, key: str, text: str, pattern: re.Pattern[str]) -> str:
    if not pattern.fullmatch(text):
        raise table.wrong(key, f"{text[:100]!r} cannot be", _HINT)
    return text


def _maybe(table: Fields, key: str, pattern: re.Pattern[str]) -> str | None:
    return _matched(table, key, pattern) if table.peek(key) is not None else None


# --- writing --------------------------------------------------------------------------------------------------------


def _by_name(one: Deb | Wheel) -> tuple[str, str, str]:
    return one.name, one.version, one.file


def _without(one: Base | LockedStack, rows: str) -> dict[str, Any]:
    return {name: value for name, value in vars(one).items() if name != rows}


def _said(row: Deb | Wheel) -> dict[str, Any]:
    """Return the fields of a package: that it is nobody's extra is not said."""
    return {name: value for name, value in vars(row).items() if (name, value) != ("extra", False)}


def _fields(values: dict[str, Any]) -> list[str]:
    """Return a line for each value that is there; None is left out."""
    return [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]


def _rows(key: str, rows: Sequence[Deb | Wheel]) -> list[str]:
    inner = [f"  {{ {', '.join(_fields(_said(row)))} }}," for row in rows]
    return [f"{key} = [", *inner, "]"] if inner else [f"{key} = []"]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return str(value) if isinstance(value, int) else quoted(value)
