"""`stoker image lock`: every file of the image decided and written to stoker.lock."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import click

from stoker import console
from stoker.errors import BadValue, LockBroken, LockMissing, LockOutdated
from stoker.files import write_atomically
from stoker.image.difference import difference
from stoker.image.lock import LOCK_FILE, Lock, lock_file_text, read_lock, write_lock
from stoker.image.locking import Upgrade, make_lock
from stoker.image.specification import SPECIFICATION_FILE, read_specification

_EVERYTHING = ""


@click.command()
@click.option("--upgrade", "upgrades", metavar="[PKG]", is_flag=False, flag_value=_EVERYTHING, multiple=True, help="Take newer versions.")
@click.option("--json", "as_json", is_flag=True, help="Print what changed as JSON, for programs.")
def lock(upgrades: tuple[str, ...], as_json: bool) -> None:
    """Decide every file of the image of stoker.toml by name, version and hash, and write stoker.lock.

    Versions that stoker.lock has already stay where they still fit. --upgrade takes the newest of everything, --upgrade PKG of one package
    (repeat it for more). The lock holds no addresses: commit it beside stoker.toml.
    """
    folder = Path.cwd()
    path = folder / LOCK_FILE
    specification = read_specification(folder / SPECIFICATION_FILE)
    old, unread = _old(path)
    upgrade = Upgrade(everything=_EVERYTHING in upgrades, packages=frozenset(_normalised(name) for name in upgrades if name))
    new = make_lock(specification, old=old, upgrade=upgrade, machine=platform.machine(), now=_now(), environ=os.environ, tell=console.say)
    if new != old or path.read_bytes() != lock_file_text(new).encode():
        if unread is not None:
            aside = path.with_name(path.name + ".old")
            write_atomically(aside, lambda file: file.write(unread))
            console.say(f"the lock that could not be read is kept as {aside.name}")
        write_lock(path, new)
    _report(old, new, as_json)


def _old(path: Path) -> tuple[Lock | None, bytes | None]:
    """Return the lock so far; or None and what there is instead: nothing, or the bytes of a file that cannot be read as a lock."""
    try:
        return read_lock(path, edited=True), None
    except LockMissing:
        return None, None
    except (LockBroken, LockOutdated) as error:
        unread = path.read_bytes() if path.is_file() else None
        console.warn(f"{error.message}. Everything is decided anew")
        return None, unread


def _now() -> int:
    """Return the moment of the lock, in seconds; SOURCE_DATE_EPOCH decides where it is set."""
    told = os.environ.get("SOURCE_DATE_EPOCH")
    if not told:
        return int(time.time())
    if not told.isascii() or not told.isdecimal() or len(told) > len("99999999999"):
        raise BadValue(f"SOURCE_DATE_EPOCH is {told[:40]!r}, no Unix time", hint="unset it, or set it to whole seconds since 1970")
    return int(told)


def _normalised(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def _report(old: Lock | None, new: Lock, as_json: bool) -> None:
    changed = difference(old, new) if old else None
    if as_json:
        console.emit({"lock": LOCK_FILE, "digest": new.digest, "written": new != old, "difference": changed.as_dict() if changed else None})
    elif changed:
        for line in changed.lines():
            click.echo(line)
    console.say(f"{LOCK_FILE} is as it was" if new == old else f"wrote {LOCK_FILE} ({new.digest[:19]}); next: `stoker image build`")
