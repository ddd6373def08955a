"""The one line of `~/.ssh/config` that includes Stoker's entries; everything else in it stays as it is, byte for byte."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stoker.errors import StokerError
from stoker.files import write_atomically
from stoker.launch.caller import caller

ENTRIES = "stoker.conf"
CONFIG = "config"
_INCLUDE = re.compile(rb"\s*include[\s=]", re.IGNORECASE)
_WORD = re.compile(rb'"[^"]*"|[^\s="]+')
_SECTION = re.compile(rb"\s*(host|match)[\s=]", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Included:
    """Whether ssh reads the entries by itself."""

    config: Path
    """The person's own `~/.ssh/config`."""
    obstacle: str | None
    """None: it includes them; else why it could not be made to."""


def include(folder: Path) -> Included:
    """Have `~/.ssh/config` include the entries, on its first line: further down it would belong to the `Host` above it."""
    named = folder / CONFIG
    # A link to a file among other dotfiles stays a link.
    config = Path(os.path.realpath(named))
    try:
        before = config.read_bytes() if config.exists() else b""
        if not _includes(before, folder):
            end = b"\r\n" if before.split(b"\n", 1)[0].endswith(b"\r") else b"\n"
            mode = config.stat().st_mode & 0o7777 if config.exists() else 0o600
            replace_file(config, os.fsencode(f"Include {_word(_names(folder)[0])}") + end + before, mode)
    except (OSError, StokerError) as error:
        return Included(config=named, obstacle=str(error))
    return Included(config=named, obstacle=None)


def _includes(text: bytes, folder: Path) -> bool:
    """Whether a configuration includes the entries before its first `Host` or `Match`."""
    names = {os.fsencode(name) for name in _names(folder)}
    for line in text.splitlines():
        if _SECTION.match(line):
            return False
        if _INCLUDE.match(line) and names & {word.strip(b'"') for word in _WORD.findall(line)}:
            return True
    return False


def _names(folder: Path) -> list[str]:
    """Return how `~/.ssh/config` may name the entries' file, the best first: among dotfiles that go from machine to machine, `~` fits everywhere.

    Relative names are looked for in the account's home, whereas `~` is HOME's.
    """
    own, same = folder == caller().home / ".ssh", caller().home == Path.home()
    return [*([f"~/.ssh/{ENTRIES}"] if own and same else []), str(folder / ENTRIES), *([ENTRIES] if own else [])]


def _word(name: str) -> str:
    """Return a name for `Include`, which knows no tokens."""
    return f'"{name}"' if " " in name else name


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Write a file of this mode in one piece. Raises DiskFull, RunFolderUnwritable."""

    def fill(file: BinaryIO) -> None:
        os.fchmod(file.fileno(), mode)
        file.write(content)

    write_atomically(path, fill)
