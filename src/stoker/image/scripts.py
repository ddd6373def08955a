"""Programs that wheels bring into `bin/`: those that their entry points describe, and ready ones with the interpreter filled in."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator
from dataclasses import dataclass

from stoker.image.wheel import Member, WheelArchive
from stoker.image.ziparchive import refusal

_GROUPS = ("console_scripts", "gui_scripts")
_LIMIT_BYTES = 2**20
# Source: entry points specification of PyPA; the extras behind it are of no meaning here.
_REFERENCE = re.compile(r"(?P<module>\w+(\.\w+)*)\s*:\s*(?P<attribute>\w+(\.\w+)*)\s*(\[[^\]]*\])?")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]*")
# What every stack has of its own: a package that replaced it would run in place of Python.
_RESERVED = re.compile(r"python[0-9.t]*|activate(\.\w+)?|stoker(-\w+)?", re.IGNORECASE)
_TEMPLATE = """\
#!{python}
import sys
from {module} import {first}
if __name__ == "__main__":
    sys.exit({attribute}())
"""


@dataclass(frozen=True, kw_only=True)
class Script:
    """A program made from an entry point."""

    name: str
    content: bytes


def entry_scripts(archive: WheelArchive, python: str) -> Iterator[Script]:
    """Yield the programs of the wheel's `entry_points.txt`, sorted. `python`: path of the interpreter in the image. Raises UnsafeArchive."""
    member = archive.member(f"{archive.dist_info}/entry_points.txt")
    found: dict[str, str] = {}
    for group in _GROUPS if member else ():
        for name, reference in _section(archive, member, group):
            if name in found:
                raise refusal(archive.path, f"two entry points are called {name!r}")
            found[name] = reference
    for name in sorted(found):
        parts = _REFERENCE.fullmatch(found[name].strip())
        if not parts:
            raise refusal(archive.path, f"the entry point {name!r} leads to {found[name]!r}, which is no function of a module")
        check_name(archive, name)
        attribute = parts["attribute"]
        content = _TEMPLATE.format(python=python, module=parts["module"], first=attribute.split(".")[0], attribute=attribute)
        yield Script(name=name, content=content.encode())


def check_name(archive: WheelArchive, name: str) -> None:
    """Raise UnsafeArchive for a name that no program of a wheel may have."""
    if not _NAME.fullmatch(name) or _RESERVED.fullmatch(name):
        raise refusal(archive.path, f"it brings a program called {name!r}")


def is_python_script(start: bytes) -> bool:
    """Whether a ready program leaves the interpreter open (`#!python`, PEP 427)."""
    return re.match(rb"#!\s*pythonw?(?=[\s])", start) is not None


def with_interpreter(content: bytes, python: str) -> bytes:
    """Return a ready program with the interpreter filled in; what else stands in its first line stays."""
    return re.sub(rb"\A#!\s*pythonw?(?=[\s])", b"#!" + python.encode(), content)


def _section(archive: WheelArchive, member: Member | None, group: str) -> list[tuple[str, str]]:
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        if member is None or member.size > _LIMIT_BYTES:
            raise refusal(archive.path, "its entry_points.txt is too large")
        parser.read_string(member.read().decode())
    except (configparser.Error, UnicodeDecodeError) as error:
        raise refusal(archive.path, f"its entry_points.txt cannot be read ({error})") from error
    return parser.items(group, raw=True) if parser.has_section(group) else []
